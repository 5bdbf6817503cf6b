// Rows that take the place of those that a band was packed with, where the band cannot be written in place:
// its pages are files that others read too, or its rows are products of cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/hash.h"

namespace screc {

// By slot; open addressing with linear probing, behind a filter of a bit for each hash, since most slots that
// are looked for were not updated. Readers may share it, a writer has it alone.
class UpdatedRows {
 public:
  struct Entry {
    std::int64_t slot = kFree;
    std::int64_t id = 0;      // of the row in its table
    std::uint64_t stamp = 0;  // of the update that wrote it
    std::unique_ptr<std::byte[]> row = {};
  };

  explicit UpdatedRows(std::int64_t row_bytes) : row_bytes_(row_bytes) {}

  // The slot's row, null where it was not updated.
  const std::byte* find(std::int64_t slot) const {
    const Entry* const found = entry(slot);
    return found == nullptr ? nullptr : found->row.get();
  }
  const Entry* entry(std::int64_t slot) const {
    if (size_ == 0) return nullptr;
    const std::uint64_t hash = hash_id(slot), bit = hash >> filter_shift_;
    if ((filter_[bit / 64] >> (bit % 64) & 1) == 0) return nullptr;
    for (std::size_t at = place(hash);; at = after(at)) {
      if (entries_[at].slot == slot) return &entries_[at];
      if (entries_[at].slot == kFree) return nullptr;
    }
  }
  // Whether prefetch() before find() is worth its time: else what find() reads is in a cache anyway.
  bool is_large() const { return filter_.size() * sizeof(filter_[0]) > kCached; }
  void prefetch(std::int64_t slot) const {
    if (size_ > 0) __builtin_prefetch(&filter_[(hash_id(slot) >> filter_shift_) / 64]);
  }
  // Keeps a copy of the row.
  void put(std::int64_t slot, std::int64_t id, std::uint64_t stamp, const std::byte* row);
  void erase(std::int64_t slot);

  std::int64_t size() const { return size_; }
  // Those written by updates up to `stamp`, in the order of their slots.
  std::vector<const Entry*> written_until(std::uint64_t stamp) const;

  // What so many rows take at most: entries are at least a quarter in use, each has a byte of the filter, and
  // a row's memory has a header.
  static std::int64_t bytes_of(std::int64_t rows, std::int64_t row_bytes) {
    return rows * (row_bytes + 16 + 4 * static_cast<std::int64_t>(sizeof(Entry) + 1));
  }
  std::int64_t bytes() const { return bytes_of(size_, row_bytes_); }

 private:
  static constexpr std::int64_t kFree = -1;

  static constexpr std::size_t kCached = std::size_t{256} << 10;

  std::size_t place(std::uint64_t hash) const {
    return static_cast<std::size_t>(hash_place(hash, static_cast<std::int64_t>(entries_.size())));
  }
  std::size_t home(std::int64_t slot) const { return place(hash_id(slot)); }
  void note(std::int64_t slot) {
    const std::uint64_t bit = hash_id(slot) >> filter_shift_;
    filter_[bit / 64] |= std::uint64_t{1} << (bit % 64);
  }
  std::size_t after(std::size_t at) const { return at + 1 == entries_.size() ? 0 : at + 1; }
  // Moves all entries into so many places, a power of two.
  void resize(std::size_t places);

  const std::int64_t row_bytes_;
  std::vector<Entry> entries_;
  std::vector<std::uint64_t> filter_;  // 8 bits for each entry: those of the hashes' high bits
  int filter_shift_ = 63;
  std::int64_t size_ = 0;
};

}  // namespace screc
