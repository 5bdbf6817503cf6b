// Rows of SSD bands kept in DRAM, for those that are wanted again and again.
//
// A row's place is one set, found by a hash of its band and slot. A set has 8 ways, which hold rows, and 10
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
// touched. The policy depends on nothing but the sequence of calls.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"

namespace screc {

struct CachedBand {
  std::int64_t num_rows;
  std::int64_t row_bytes;
};

// Bands whose rows are of one length share their part of the memory, a class. Not thread-safe.
class RowCache {
 public:
  static constexpr int kWays = 8, kCandidates = 10;
  static constexpr std::int64_t kAgeAccesses = 32;

  // Nothing is held, every row is missed.
  RowCache() = default;
  // At most `bytes` for rows and counts, shared by the classes in proportion to the bytes of their bands. A
  // class whose part holds no set is not cached.
  RowCache(std::int64_t bytes, const std::vector<CachedBand>& bands);

  // Bytes of rows and counts.
  std::int64_t bytes() const { return bytes_; }

  // Below, `band` counts in the order given, and `key` tells the row from those of all bands (less than 2^64
  // - 1).

  void prefetch(std::uint64_t band, std::uint64_t key) const;
  // Counts an access to the row. Returns it, to be read before the next offer(), or null.
  const std::byte* access(std::uint64_t band, std::uint64_t key);
  // Offers a row that access() did not find. True when it is now held and was not before.
  bool offer(std::uint64_t band, std::uint64_t key, const std::byte* row);

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

  struct Class {
    std::int64_t row_bytes = 0, num_sets = 0, accesses_per_epoch = 0;
    std::int64_t accesses = 0;
    std::uint16_t epoch = 0;
    AlignedBuffer sets = {}, rows = {};

    Set& set_of(std::uint64_t hash) const;
    std::byte* row(const Set& set, int way) const;
  };

  static std::uint64_t hash_of(std::uint64_t key);
  static void age(Set& set, std::uint16_t epoch);
  // Takes a candidate out of the set.
  static void forget(Set& set, int candidate);
  Class* class_of(std::uint64_t band);

  std::vector<Class> classes_;
  std::vector<int> class_numbers_;  // by band, -1 for none
  std::int64_t bytes_ = 0;
};

}  // namespace screc
