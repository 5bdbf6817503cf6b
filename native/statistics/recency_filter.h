// Ids that were seen lately and their scores, in bounded memory: those that come once are forgotten here,
// before they get into a sketch of hot ids (the LRU area of CAFE+, TOIS 2025).
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"

namespace screc {

class RecencyFilter {
 public:
  // An empty slot has id -1; `time` counts insertions and may wrap around.
  struct Slot {
    std::int64_t id;
    float score;
    std::uint32_t time;
  };
  static constexpr int kSlots = 4;
  struct Bucket {
    Slot slots[kSlots];
  };
  static_assert(sizeof(Bucket) == 64);

  // Who leaves the filter, with its score.
  struct Leaving {
    std::vector<std::int64_t> ids;
    std::vector<float> scores;
  };

  // Throws std::invalid_argument unless num_buckets >= 1.
  explicit RecencyFilter(std::int64_t num_buckets);

  std::int64_t num_buckets() const { return num_buckets_; }
  std::int64_t bytes() const { return num_buckets_ * static_cast<std::int64_t>(sizeof(Bucket)); }
  const Bucket* buckets() const { return buckets_.as<Bucket>(); }
  std::uint64_t clock() const { return clock_; }

  // Adds scores[i] >= 0 to ids[i] >= 0, in this order. An id leaves when its score reaches `threshold`, or
  // when another displaces it, the one of its bucket that was not seen for longest, with a score of `kept` at
  // least.
  Leaving insert(const std::int64_t* ids, const float* scores, std::int64_t n, float threshold, float kept);

  // Takes over buckets [num_buckets] and the clock of a filter of the same shape.
  void restore(const Bucket* buckets, std::uint64_t clock);

 private:
  const std::int64_t num_buckets_;
  AlignedBuffer buckets_;
  std::uint64_t clock_ = 0;
};

}  // namespace screc
