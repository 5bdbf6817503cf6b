// Rows of SSD bands kept in DRAM, for those that are wanted again and again. Which rows stay is for a policy
// to decide; it depends on nothing but the sequence of calls.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace screc {

enum class CachePolicy {
  kSketch,  // sketch_cache.h
  kLru,     // lru_cache.h
};

// "sketch" or "lru". Throws std::invalid_argument.
CachePolicy parse_cache_policy(const std::string& name);

struct CachedBand {
  std::int64_t num_rows;
  std::int64_t row_bytes;
};

// Rows of one length under one policy; `key` tells a row from all others (less than 2^64 - 1).
class CachedRows {
 public:
  // Memory is asked for in stages, for a later stage needs what an earlier one brought.
  static constexpr int kStages = 3;

  virtual ~CachedRows() = default;
  // Bytes of rows and of what the policy keeps about them.
  virtual std::int64_t bytes() const = 0;
  // Stage 0 is the first to come, kStages - 1 the last before access().
  virtual void prefetch(std::uint64_t key, int stage) const = 0;
  // Counts an access to the row. Returns it, to be read before the next offer(), or null.
  virtual const std::byte* access(std::uint64_t key) = 0;
  // Offers a row that access() did not find. True when it is now held and was not before.
  virtual bool offer(std::uint64_t key, const std::byte* row) = 0;
  // Replaces what is held of the row, if it is; no access.
  virtual void refresh(std::uint64_t key, const std::byte* row) = 0;

 protected:
  static void prefetch_row(const std::byte* row, std::int64_t row_bytes) {
    for (std::int64_t line = 0; line < std::min<std::int64_t>(row_bytes, 256); line += 64) {
      __builtin_prefetch(row + line);
    }
  }
};

// Bands whose rows are of one length share their part of the memory. Not thread-safe.
class RowCache {
 public:
  // Nothing is held, every row is missed.
  RowCache() = default;
  // At most `bytes`, parted among the lengths of rows in proportion to the bytes of their bands. A length
  // whose part holds no row is not cached.
  RowCache(CachePolicy policy, std::int64_t bytes, const std::vector<CachedBand>& bands);

  // Bytes of all parts.
  std::int64_t bytes() const { return bytes_; }

  // As CachedRows; `band` counts in the order given.
  void prefetch(std::uint64_t band, std::uint64_t key, int stage) const {
    if (const CachedRows* const part = parts_[band]) part->prefetch(key, stage);
  }
  const std::byte* access(std::uint64_t band, std::uint64_t key) {
    CachedRows* const part = parts_[band];
    return part == nullptr ? nullptr : part->access(key);
  }
  bool offer(std::uint64_t band, std::uint64_t key, const std::byte* row) {
    CachedRows* const part = parts_[band];
    return part != nullptr && part->offer(key, row);
  }
  void refresh(std::uint64_t band, std::uint64_t key, const std::byte* row) {
    if (CachedRows* const part = parts_[band]) part->refresh(key, row);
  }

 private:
  std::vector<std::unique_ptr<CachedRows>> owned_;
  std::vector<CachedRows*> parts_;  // by band, null for none
  std::int64_t bytes_ = 0;
};

}  // namespace screc
