// The policy "sketch": rows that are wanted once never displace rows that are wanted often.
//
// A row's place is one set, found by a hash of its key. A set has 8 ways, which hold rows, and 10
// candidates: fingerprints of rows that were wanted lately and are not held. All 18 are counted in the manner
// of HotSketch (CAFE, SIGMOD 2024: buckets of few cells, of which the least gives way), with two differences
// that keep rows that are wanted once out of the cache:
//
// - A row takes the place of the least way only when it was wanted more often than that, by its own count: it
//   inherits none.
// - A candidate that comes to a full set takes one from the count of the least candidate (the oldest of
//   several) and replaces it only when nothing is left of it; else it is forgotten.
//
// Old fame fades: all counts are halved after every kAgeAccesses accesses per way, each set when it is next
// touched.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "store/row_cache.h"

namespace screc {

class SketchCache final : public CachedRows {
 public:
  static constexpr int kWays = 8, kCandidates = 10;
  static constexpr std::int64_t kAgeAccesses = 32;

  SketchCache(std::int64_t bytes, std::int64_t num_rows, std::int64_t row_bytes);

  std::int64_t bytes() const override;
  void prefetch(std::uint64_t key, int stage) const override;
  const std::byte* access(std::uint64_t key) override;
  bool offer(std::uint64_t key, const std::byte* data) override;
  void refresh(std::uint64_t key, const std::byte* data) override;

 private:
  // Two cache lines. Candidates stand in the order of their arrival.
  struct alignas(64) Set {
    std::uint64_t keys[kWays];                   // plus one; 0 = free
    std::uint32_t candidates[kCandidates];       // fingerprints
    std::uint8_t candidate_counts[kCandidates];  // 0 = free, only behind the others
    std::uint8_t counts[kWays];
    std::uint16_t epoch;  // when the counts were last halved
  };
  static_assert(sizeof(Set) == 128);

  static void age(Set& set, std::uint16_t epoch);
  // Takes a candidate out of the set.
  static void forget(Set& set, int candidate);
  Set& set_of(std::uint64_t hash) const;
  std::byte* row(const Set& set, int way) const;

  const std::int64_t row_bytes_, num_sets_;
  std::int64_t accesses_ = 0;  // of this epoch
  std::uint16_t epoch_ = 0;
  AlignedBuffer sets_, rows_;
};

}  // namespace screc
