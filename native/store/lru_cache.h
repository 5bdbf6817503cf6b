// The policy "lru": when there is no room, the row that was not wanted for longest gives way to whatever
// comes.
//
// Exact least-recently-used order over all rows of the cache. Rows are found by an open-addressing table of
// 4 bytes a slot, which hold the row's entry and, in the bits that its number leaves, a fingerprint of its
// key, so that a miss hardly ever looks at an entry. Beside its row an entry takes 22 bytes.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "store/row_cache.h"

namespace screc {

class LruCache final : public CachedRows {
 public:
  LruCache(std::int64_t bytes, std::int64_t num_rows, std::int64_t row_bytes);

  std::int64_t bytes() const override;
  void prefetch(std::uint64_t key, int stage) const override;
  const std::byte* access(std::uint64_t key) override;
  bool offer(std::uint64_t key, const std::byte* data) override;
  void refresh(std::uint64_t key, const std::byte* data) override;

 private:
  using Entry = std::uint32_t;
  static constexpr Entry kNone = ~Entry{0};
  struct Node {
    std::uint64_t key;
    Entry newer, older;  // kNone at the ends
  };
  static_assert(sizeof(Node) == 16);

  std::int64_t home(std::uint64_t hash) const;
  std::int64_t after(std::int64_t slot) const { return slot + 1 == num_slots_ ? 0 : slot + 1; }
  // Slots from `first` to `last`, going round.
  std::int64_t distance(std::int64_t first, std::int64_t last) const {
    return last >= first ? last - first : last + num_slots_ - first;
  }
  std::uint32_t fingerprint(std::uint64_t hash) const;
  bool has_fingerprint(std::uint32_t slot, std::uint32_t print) const;
  Entry entry_in(std::uint32_t slot) const;
  // The first entry that may be the key's, by its fingerprint; kNone when there is none.
  Entry likely(std::uint64_t hash) const;
  Entry find(std::uint64_t hash, std::uint64_t key) const;

  void insert(std::uint64_t hash, Entry entry);
  // Takes an entry out of the table; those behind it that it kept from their places move up.
  void remove(Entry entry);
  void link_newest(Entry entry);
  void unlink(Entry entry);

  std::byte* row(Entry entry) const {
    return rows_.as<std::byte>() + static_cast<std::int64_t>(entry) * row_bytes_;
  }

  const std::int64_t row_bytes_, capacity_, num_slots_;
  const int entry_bits_;
  Entry used_ = 0, newest_ = kNone, oldest_ = kNone;
  AlignedBuffer slots_;  // entry + 1 in the low entry_bits_, above them the fingerprint; 0 = free
  AlignedBuffer nodes_, rows_;
};

}  // namespace screc
