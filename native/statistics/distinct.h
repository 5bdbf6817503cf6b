// How many different rows a call looks up.
#pragma once

#include <cstdint>
#include <vector>

namespace screc {

// Different ids among ids [offsets[w], offsets[w + 1]) for each window w; one after the other, with one set
// that is as large as the largest window needs.
class DistinctRows {
 public:
  // `offsets` [num_windows + 1] must not descend.
  void count(const std::int64_t* ids, const std::int64_t* offsets, std::int64_t num_windows,
             std::int64_t* distinct);

 private:
  std::vector<std::uint64_t> keys_;  // id + 1; 0 = empty
};

}  // namespace screc
