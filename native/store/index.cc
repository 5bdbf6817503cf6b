#include "store/index.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace screc {

namespace {

std::string number(std::int64_t value) { return std::to_string(value); }

std::int64_t checked_ids_of(const IdentityIndex&, std::int64_t num_embeddings) { return num_embeddings; }

std::int64_t checked_ids_of(const BitmapIndex& index, std::int64_t num_embeddings) {
  const std::int64_t words = (num_embeddings + 63) / 64, blocks = (words + 7) / 8;
  if (index.num_words != words || index.num_blocks != blocks + 1) {
    throw std::invalid_argument("index: a bitmap of " + number(num_embeddings) + " ids has bits [" +
                                number(words) + "] and directory [" + number(blocks + 1) + "], got [" +
                                number(index.num_words) + "] and [" + number(index.num_blocks) + "]");
  }
  std::int64_t rows = 0;
  for (std::int64_t block = 0; block <= blocks; ++block) {
    if (index.directory[block] != rows) {
      throw std::invalid_argument("index: directory[" + number(block) + "] is " +
                                  number(index.directory[block]) + ", the bits before it count " +
                                  number(rows));
    }
    for (std::int64_t word = 8 * block; word < std::min(words, 8 * block + 8); ++word) {
      rows += std::popcount(index.bits[word]);
    }
  }
  const std::int64_t tail = num_embeddings % 64;
  if (tail != 0 && index.bits[words - 1] >> tail != 0) {
    throw std::invalid_argument("index: bits beyond the last id, " + number(num_embeddings - 1) +
                                ", are set");
  }
  return rows;
}

std::int64_t checked_ids_of(const HashIndex& index, std::int64_t num_embeddings) {
  const std::int64_t rows =
      index.capacity - std::count(index.keys, index.keys + index.capacity, std::int64_t{-1});
  if (rows == index.capacity) {
    throw std::invalid_argument("index: keys has no empty entry (-1), so that a search would not end");
  }
  for (std::int64_t at = 0; at < index.capacity; ++at) {
    if (index.keys[at] == -1) continue;
    if (index.keys[at] < 0 || index.keys[at] >= num_embeddings) {
      throw std::invalid_argument("index: keys[" + number(at) + "] is " + number(index.keys[at]) +
                                  ", the table has " + number(num_embeddings) + " rows");
    }
    if (index.slots[at] >= rows) {
      throw std::invalid_argument("index: slots[" + number(at) + "] is " + number(index.slots[at]) +
                                  ", the index holds " + number(rows) + " ids");
    }
  }
  return rows;
}

std::int64_t checked_ids_of(const OrderIndex& index, std::int64_t num_embeddings) {
  if (index.num_ids != num_embeddings) {
    throw std::invalid_argument("index: an order of " + number(num_embeddings) + " ids has slots [" +
                                number(num_embeddings) + "], got [" + number(index.num_ids) + "]");
  }
  std::vector<bool> taken(static_cast<std::size_t>(num_embeddings), false);
  for (std::int64_t id = 0; id < num_embeddings; ++id) {
    const std::uint32_t slot = index.slots[id];
    if (slot >= num_embeddings || taken[slot]) {
      throw std::invalid_argument("index: slots[" + number(id) + "] is " + number(slot) +
                                  "; an order gives every slot from 0 to " + number(num_embeddings - 1) +
                                  " to one id");
    }
    taken[slot] = true;
  }
  return num_embeddings;
}

using Bounds = std::pair<std::int64_t, std::int64_t>;

Bounds bounds_of(const BitmapIndex& index) {
  const std::uint64_t* const end = index.bits + index.num_words;
  const std::uint64_t* first = index.bits;
  while (first != end && *first == 0) ++first;
  if (first == end) return {-1, -1};
  const std::uint64_t* last = end - 1;
  while (*last == 0) --last;
  return {64 * (first - index.bits) + std::countr_zero(*first),
          64 * (last - index.bits) + std::bit_width(*last) - 1};
}

Bounds bounds_of(const HashIndex& index) {
  Bounds found{-1, -1};
  for (const std::int64_t* key = index.keys; key != index.keys + index.capacity; ++key) {
    if (*key < 0) continue;
    if (found.first < 0 || *key < found.first) found.first = *key;
    found.second = std::max(found.second, *key);
  }
  return found;
}

std::int64_t checked_width(std::int64_t ids) {
  if (ids > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("index: it holds " + number(ids) + " ids, slots are 32 bits wide");
  }
  return ids;
}

}  // namespace

std::int64_t checked_rows(const BandIndex& index, std::int64_t num_embeddings) {
  const std::int64_t rows =
      std::visit([&](const auto& form) { return checked_ids_of(form, num_embeddings); }, index);
  if (rows == 0) throw std::invalid_argument("index: it holds no id; drop the band");
  return std::holds_alternative<IdentityIndex>(index) ? rows : checked_width(rows);
}

std::int64_t checked_size(const NumberSet& set, std::int64_t limit) {
  return checked_width(std::visit([&](const auto& form) { return checked_ids_of(form, limit); }, set));
}

std::pair<std::int64_t, std::int64_t> bounds(const NumberSet& set) {
  return std::visit([](const auto& form) { return bounds_of(form); }, set);
}

void build_hash_index(const std::int64_t* ids, const std::uint32_t* id_slots, std::int64_t n,
                      std::int64_t* keys, std::uint32_t* slots, std::int64_t capacity) {
  if (capacity <= n) {
    throw std::invalid_argument("keys_out: needs more than " + std::to_string(n) + " entries, got " +
                                std::to_string(capacity));
  }
  std::fill(keys, keys + capacity, std::int64_t{-1});
  std::fill(slots, slots + capacity, std::uint32_t{0});
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t id = ids[i];
    if (id < 0) {
      throw std::invalid_argument("ids[" + std::to_string(i) + "] is " + std::to_string(id) +
                                  "; ids must not be negative");
    }
    std::int64_t at = HashIndex::start(id, capacity);
    while (keys[at] != -1) {
      if (keys[at] == id) {
        throw std::invalid_argument("ids[" + std::to_string(i) + "] is " + std::to_string(id) +
                                    ", which is there already; ids must be unique");
      }
      if (++at == capacity) at = 0;
    }
    keys[at] = id;
    slots[at] = id_slots[i];
  }
}

}  // namespace screc
