// How many different rows a call looks up.
#pragma once

#include <cstdint>
#include <vector>

namespace screc {

// Counts with one set that is as large as the largest call so far needs.
class DistinctRows {
 public:
  // Different ids among n.
  std::int64_t count(const std::int64_t* ids, std::int64_t n);

 private:
  std::vector<std::uint64_t> keys_;  // id + 1; 0 = empty
};

}  // namespace screc
