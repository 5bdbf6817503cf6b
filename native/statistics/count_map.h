// Row ids and a number for each, in one array that never grows past a given number of bytes.
//
// Open addressing with linear probing. An id's place is the high bits of its hash, so that the entries stand
// nearly in the order of their hashes; purge() relies on it to work in place. A map that is filled in the
// order of another would pile up at its front while it is small, so it turns its hashes.
#pragma once

#include <bit>
#include <cstdint>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/hash.h"

namespace screc {

class CountMap {
 public:
  struct Slot {
    std::uint64_t key = 0;  // id + 1; 0 = empty
    std::uint64_t value = 0;

    std::int64_t id() const { return static_cast<std::int64_t>(key - 1); }
  };
  // Of ten slots, eight are filled at most: probes stay short.
  static constexpr double kLoad = 0.8;

  // It starts small and doubles; while it does, old and new slots are in memory, half as much again.
  // `turn`: bits that hashes are rotated by to find a place.
  explicit CountMap(std::int64_t max_bytes, int turn = 0);

  static std::uint64_t key_of(std::int64_t id) { return static_cast<std::uint64_t>(id) + 1; }
  static std::uint64_t hash_of(std::uint64_t key) { return hash_id(static_cast<std::int64_t>(key)); }

  std::int64_t size() const { return size_; }
  std::int64_t bytes() const { return capacity_ * static_cast<std::int64_t>(sizeof(Slot)); }
  // No further id fits, however it grows.
  bool exhausted() const { return size_ == most_ && shift_ == 0; }

  void prefetch(std::uint64_t hash) const { __builtin_prefetch(&slots()[place(hash)], 1); }

  // The slot of a key, or the empty one where it belongs.
  Slot& find(std::uint64_t hash, std::uint64_t key) const {
    for (std::int64_t at = place(hash);;) {
      Slot& slot = slots()[at];
      if (slot.key == key || slot.key == 0) return slot;
      if (++at == capacity_) at = 0;
    }
  }

  // Adds a key that find() did not find. Only while not exhausted().
  void insert(std::uint64_t hash, std::uint64_t key, std::uint64_t value) {
    if (size_ == most_) grow();
    find(hash, key) = {key, value};
    ++size_;
  }

  // Removes the entries for which keep(slot) is false, in one pass over the slots.
  template <typename Keep>
  void purge(const Keep& keep) {
    std::int64_t first = 0;
    while (slots()[first].key != 0) ++first;
    // Behind an empty slot no entry is displaced from before it. So each entry, taken out in turn and put
    // back, finds its place at or before the one it had, among slots that were done already.
    for (std::int64_t step = 1; step < capacity_; ++step) {
      const std::int64_t at = first + step < capacity_ ? first + step : first + step - capacity_;
      const Slot slot = std::exchange(slots()[at], Slot{});
      if (slot.key == 0) continue;
      if (keep(slot)) {
        find(hash_of(slot.key), slot.key) = slot;
      } else {
        --size_;
      }
    }
  }

  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (std::int64_t at = 0; at < capacity_; ++at) {
      if (slots()[at].key != 0) visit(slots()[at]);
    }
  }

  // Moves all entries to the front, in no order, and returns them: [size()]. Afterwards only the destructor
  // may be called.
  Slot* compact();

 private:
  Slot* slots() const { return buffer_.as<Slot>(); }
  std::int64_t place(std::uint64_t hash) const { return hash_place(std::rotl(hash, turn_), capacity_); }
  void grow();

  AlignedBuffer buffer_;
  std::int64_t max_capacity_, capacity_ = 0, most_ = 0, size_ = 0;
  int shift_ = 0;  // doublings left
  int turn_;
};

}  // namespace screc
