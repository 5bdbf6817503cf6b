// From an id to its slot in a band (docs/format.md, "Indices").
#pragma once

#include <bit>
#include <cstdint>
#include <utility>
#include <variant>

#include "base/hash.h"

namespace screc {

struct BitmapIndex {
  const std::uint64_t* bits;
  const std::uint32_t* directory;
  std::int64_t num_words;
  std::int64_t num_blocks;  // entries of the directory

  // -1 when the band does not hold the id.
  std::int64_t find(std::int64_t id) const {
    const std::int64_t word = id >> 6;
    const std::uint64_t bit = std::uint64_t{1} << (id & 63);
    if ((bits[word] & bit) == 0) return -1;
    std::int64_t slot = directory[word >> 3];
    for (std::int64_t before = word & ~std::int64_t{7}; before < word; ++before) {
      slot += std::popcount(bits[before]);
    }
    return slot + std::popcount(bits[word] & (bit - 1));
  }
  void prefetch(std::int64_t id) const {
    __builtin_prefetch(bits + (id >> 6));
    __builtin_prefetch(directory + (id >> 9));
  }
  std::int64_t bytes() const { return 8 * num_words + 4 * num_blocks; }
};

struct HashIndex {
  const std::int64_t* keys;  // -1 = empty
  const std::uint32_t* slots;
  std::int64_t capacity;

  static std::int64_t start(std::int64_t id, std::int64_t capacity) {
    return hash_place(hash_id(id), capacity);
  }

  std::int64_t find(std::int64_t id) const {
    for (std::int64_t at = start(id, capacity);;) {
      if (keys[at] == id) return slots[at];
      if (keys[at] < 0) return -1;
      if (++at == capacity) at = 0;
    }
  }
  void prefetch(std::int64_t id) const {
    const std::int64_t at = start(id, capacity);
    __builtin_prefetch(keys + at);
    __builtin_prefetch(slots + at);
  }
  std::int64_t bytes() const { return 12 * capacity; }
};

// The slot is the id.
struct IdentityIndex {
  std::int64_t find(std::int64_t id) const { return id; }
  void prefetch(std::int64_t) const {}
  std::int64_t bytes() const { return 0; }
};

// The slot of every id of the table: a last band whose pages are in another order than the ids.
struct OrderIndex {
  const std::uint32_t* slots;
  std::int64_t num_ids;

  std::int64_t find(std::int64_t id) const { return slots[id]; }
  void prefetch(std::int64_t id) const { __builtin_prefetch(slots + id); }
  std::int64_t bytes() const { return 4 * num_ids; }
};

using BandIndex = std::variant<IdentityIndex, BitmapIndex, HashIndex, OrderIndex>;

// Whether the index answers every id, so that no other band can follow.
inline bool knows_every_id(const BandIndex& index) {
  return std::holds_alternative<IdentityIndex>(index) || std::holds_alternative<OrderIndex>(index);
}

// Rows of a band with this index, in a table of `num_embeddings` rows. Refuses, with std::invalid_argument,
// arrays that would answer a slot outside the band, or whose look-up would leave them or never end.
std::int64_t checked_rows(const BandIndex& index, std::int64_t num_embeddings);

// Which of many numbers are in a set: the forms of an index that know only some ids.
using NumberSet = std::variant<BitmapIndex, HashIndex>;

// Numbers in the set, all of them below `limit`; refuses arrays as checked_rows() does.
std::int64_t checked_size(const NumberSet& set, std::int64_t limit);

// The least and the largest number of the set; -1 and -1 where it is empty.
std::pair<std::int64_t, std::int64_t> bounds(const NumberSet& set);

// Fills `keys` and `slots` [capacity] from n (id, slot) pairs. Throws std::invalid_argument for negative or
// repeated ids and when capacity <= n.
void build_hash_index(const std::int64_t* ids, const std::uint32_t* id_slots, std::int64_t n,
                      std::int64_t* keys, std::uint32_t* slots, std::int64_t capacity);

}  // namespace screc
