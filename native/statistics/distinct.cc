#include "statistics/distinct.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/hash.h"

namespace screc {
namespace {

// Ids whose slots are asked for before the first is used.
constexpr std::int64_t kAhead = 32;

}  // namespace

std::int64_t DistinctRows::count(const std::int64_t* ids, std::int64_t n) {
  const std::size_t capacity = std::bit_ceil(static_cast<std::size_t>(2 * n + 1));
  if (keys_.size() < capacity) keys_.resize(capacity);
  std::fill_n(keys_.begin(), capacity, 0);
  std::int64_t distinct = 0;
  std::array<std::size_t, kAhead> places;
  for (std::int64_t start = 0; start < n; start += kAhead) {
    const std::int64_t some = std::min(kAhead, n - start);
    for (std::int64_t i = 0; i < some; ++i) {
      places[i] = hash_id(ids[start + i] + 1) & (capacity - 1);
      __builtin_prefetch(&keys_[places[i]], 1);
    }
    for (std::int64_t i = 0; i < some; ++i) {
      const auto key = static_cast<std::uint64_t>(ids[start + i]) + 1;
      std::size_t at = places[i];
      while (keys_[at] != 0 && keys_[at] != key) at = (at + 1) & (capacity - 1);
      distinct += keys_[at] == 0;
      keys_[at] = key;
    }
  }
  return distinct;
}

}  // namespace screc
