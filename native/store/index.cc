#include "store/index.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace screc {

std::int64_t count_rows(const BitmapIndex& index, std::int64_t num_embeddings) {
  std::int64_t rows = 0;
  for (std::int64_t word = 0; word < (num_embeddings + 63) / 64; ++word)
    rows += std::popcount(index.bits[word]);
  return rows;
}

std::int64_t count_rows(const HashIndex& index) {
  return index.capacity - std::count(index.keys, index.keys + index.capacity, std::int64_t{-1});
}

void check_bitmap(const BitmapIndex& index, std::int64_t num_embeddings, std::int64_t num_rows) {
  const std::int64_t words = (num_embeddings + 63) / 64;
  std::int64_t rows = 0;
  for (std::int64_t word = 0; word < words; ++word) {
    if (word % 8 == 0 && index.directory[word / 8] != rows) {
      throw std::invalid_argument("index: directory[" + std::to_string(word / 8) + "] is " +
                                  std::to_string(index.directory[word / 8]) + ", the bits before it count " +
                                  std::to_string(rows));
    }
    rows += std::popcount(index.bits[word]);
  }
  const std::int64_t tail = num_embeddings % 64;
  if (tail != 0 && index.bits[words - 1] >> tail != 0) {
    throw std::invalid_argument("index: bits beyond id " + std::to_string(num_embeddings - 1) + " are set");
  }
  const std::int64_t last = (words + 7) / 8;
  if (rows != num_rows || index.directory[last] != rows) {
    throw std::invalid_argument("index: " + std::to_string(rows) + " bits are set and directory[" +
                                std::to_string(last) + "] is " + std::to_string(index.directory[last]) +
                                ", the band has " + std::to_string(num_rows) + " rows");
  }
}

void check_hash(const HashIndex& index, std::int64_t num_embeddings, std::int64_t num_rows) {
  std::int64_t rows = 0;
  for (std::int64_t at = 0; at < index.capacity; ++at) {
    if (index.keys[at] == -1) continue;
    ++rows;
    if (index.keys[at] < 0 || index.keys[at] >= num_embeddings) {
      throw std::invalid_argument("index: keys[" + std::to_string(at) + "] is " +
                                  std::to_string(index.keys[at]) + ", the table has " +
                                  std::to_string(num_embeddings) + " rows");
    }
    if (index.slots[at] >= num_rows) {
      throw std::invalid_argument("index: slots[" + std::to_string(at) + "] is " +
                                  std::to_string(index.slots[at]) + ", the band has " +
                                  std::to_string(num_rows) + " rows");
    }
  }
  if (rows != num_rows) {
    throw std::invalid_argument("index: it holds " + std::to_string(rows) + " ids, the band has " +
                                std::to_string(num_rows) + " rows");
  }
  if (rows == index.capacity) {
    throw std::invalid_argument("index: keys has no empty entry (-1), so that a search would not end");
  }
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
