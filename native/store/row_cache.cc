#include "store/row_cache.h"

#include <map>
#include <stdexcept>

#include "store/lru_cache.h"
#include "store/sketch_cache.h"

namespace screc {
namespace {

std::unique_ptr<CachedRows> make_part(CachePolicy policy, std::int64_t bytes, std::int64_t num_rows,
                                      std::int64_t row_bytes) {
  if (policy == CachePolicy::kLru) return std::make_unique<LruCache>(bytes, num_rows, row_bytes);
  return std::make_unique<SketchCache>(bytes, num_rows, row_bytes);
}

}  // namespace

CachePolicy parse_cache_policy(const std::string& name) {
  if (name == "sketch") return CachePolicy::kSketch;
  if (name == "lru") return CachePolicy::kLru;
  throw std::invalid_argument("cache_policy: expected 'sketch' or 'lru', got '" + name + "'");
}

RowCache::RowCache(CachePolicy policy, std::int64_t bytes, const std::vector<CachedBand>& bands) {
  std::map<std::int64_t, std::int64_t> num_rows;  // by length
  double total = 0;
  for (const CachedBand& band : bands) {
    num_rows[band.row_bytes] += band.num_rows;
    total += static_cast<double>(band.num_rows) * static_cast<double>(band.row_bytes);
  }
  std::map<std::int64_t, CachedRows*> made;
  for (const auto& [row_bytes, rows] : num_rows) {
    const double own = static_cast<double>(rows) * static_cast<double>(row_bytes);
    const auto share = static_cast<std::int64_t>(own / total * static_cast<double>(bytes));
    std::unique_ptr<CachedRows> part = make_part(policy, share, rows, row_bytes);
    if (part->bytes() == 0) continue;
    bytes_ += part->bytes();
    made[row_bytes] = part.get();
    owned_.push_back(std::move(part));
  }
  for (const CachedBand& band : bands) {
    const auto found = made.find(band.row_bytes);
    parts_.push_back(found == made.end() ? nullptr : found->second);
  }
}

}  // namespace screc
