#include "statistics/distinct.h"

#include <algorithm>
#include <bit>

#include "base/hash.h"

namespace screc {

void DistinctRows::count(const std::int64_t* ids, const std::int64_t* offsets, std::int64_t num_windows,
                         std::int64_t* distinct) {
  for (std::int64_t w = 0; w < num_windows; ++w) {
    const std::int64_t size = offsets[w + 1] - offsets[w];
    const std::size_t capacity = std::bit_ceil(static_cast<std::size_t>(2 * size + 1));
    if (keys_.size() < capacity) keys_.resize(capacity);
    std::fill_n(keys_.begin(), capacity, 0);
    distinct[w] = 0;
    for (std::int64_t i = offsets[w]; i < offsets[w + 1]; ++i) {
      const auto key = static_cast<std::uint64_t>(ids[i]) + 1;
      std::size_t at = hash_id(static_cast<std::int64_t>(key)) & (capacity - 1);
      while (keys_[at] != 0 && keys_[at] != key) at = (at + 1) & (capacity - 1);
      if (keys_[at] == 0) ++distinct[w];
      keys_[at] = key;
    }
  }
}

}  // namespace screc
