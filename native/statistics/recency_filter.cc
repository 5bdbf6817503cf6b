#include "statistics/recency_filter.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "base/hash.h"

namespace screc {

RecencyFilter::RecencyFilter(std::int64_t num_buckets) : num_buckets_(num_buckets) {
  if (num_buckets < 1) {
    throw std::invalid_argument("num_buckets: must be at least 1, got " + std::to_string(num_buckets));
  }
  buckets_ = AlignedBuffer(static_cast<std::size_t>(num_buckets) * sizeof(Bucket));
  std::fill_n(buckets_.as<Slot>(), num_buckets * kSlots, Slot{-1, 0.0F, 0});
}

RecencyFilter::Leaving RecencyFilter::insert(const std::int64_t* ids, const float* scores, std::int64_t n,
                                             float threshold, float kept) {
  Leaving leaving;
  const auto leaves = [&](const Slot& slot) {
    leaving.ids.push_back(slot.id);
    leaving.scores.push_back(slot.score);
  };
  for (std::int64_t i = 0; i < n; ++i) {
    Slot* const slots = buckets_.as<Bucket>()[hash_place(hash_id(ids[i]), num_buckets_)].slots;
    const auto now = static_cast<std::uint32_t>(++clock_);
    Slot* found = std::find_if(slots, slots + kSlots, [&](const Slot& slot) { return slot.id == ids[i]; });
    if (found == slots + kSlots) {
      found = std::find_if(slots, slots + kSlots, [](const Slot& slot) { return slot.id == -1; });
    }
    if (found == slots + kSlots) {
      // Ages, not times: the clock may have wrapped around.
      found = std::max_element(slots, slots + kSlots, [&](const Slot& one, const Slot& other) {
        return now - one.time < now - other.time;
      });
      if (found->score >= kept) leaves(*found);
      found->id = -1;
    }
    if (found->id == -1) *found = {ids[i], 0.0F, now};
    found->score += scores[i];
    found->time = now;
    if (found->score >= threshold) {
      leaves(*found);
      *found = {-1, 0.0F, 0};
    }
  }
  return leaving;
}

void RecencyFilter::restore(const Bucket* buckets, std::uint64_t clock) {
  std::copy_n(buckets, num_buckets_, buckets_.as<Bucket>());
  clock_ = clock;
}

}  // namespace screc
