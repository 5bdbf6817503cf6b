#include "statistics/hot_sketch.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/hash.h"

namespace screc {
namespace {

// Buckets asked for before they are needed.
constexpr std::int64_t kAhead = 16;
constexpr std::int64_t kGrain = 4096;
// Nothing taken over: -0.
constexpr std::int32_t kNothing = std::numeric_limits<std::int32_t>::min();
// A row that is chosen at the end of the insertion: the slot is not taken meanwhile.
constexpr std::int32_t kPending = std::numeric_limits<std::int32_t>::max();
// The threshold rises when a 20th more have reached it than there are rows.
constexpr std::int64_t kSpare = 20;

void for_pieces(ThreadPool* pool, std::int64_t n,
                const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (pool == nullptr) return body(0, n);
  pool->parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end, int) { body(begin, end); });
}

}  // namespace

HotSketch::HotSketch(std::int64_t num_buckets, std::int32_t num_rows, float threshold)
    : num_buckets_(num_buckets), num_rows_(num_rows), threshold_(threshold) {
  if (num_buckets < 1) {
    throw std::invalid_argument("num_buckets: must be at least 1, got " + std::to_string(num_buckets));
  }
  if (num_rows < 0) {
    throw std::invalid_argument("num_rows: must not be negative, got " + std::to_string(num_rows));
  }
  if (!(threshold > 0)) {
    throw std::invalid_argument("threshold: must be positive, got " + std::to_string(threshold));
  }
  buckets_ = AlignedBuffer(static_cast<std::size_t>(num_buckets) * sizeof(Bucket));
  const Slot empty{-1, 0.0F, kNothing};
  std::fill_n(buckets_.as<Slot>(), num_buckets * kSlots, empty);
  for (std::int32_t row = num_rows; row-- > 0;) free_.push_back(row);
}

std::int64_t HotSketch::place(std::int64_t id) const { return hash_place(hash_id(id), num_buckets_); }

void HotSketch::query(const std::int64_t* ids, std::int64_t n, std::int32_t* rows, ThreadPool* pool) const {
  const Bucket* all = buckets();
  for_pieces(pool, n, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t ahead[kAhead];
    for (std::int64_t i = begin; i < std::min(end, begin + kAhead); ++i) {
      __builtin_prefetch(&all[ahead[i % kAhead] = place(ids[i])]);
    }
    for (std::int64_t i = begin; i < end; ++i) {
      const Bucket& found = all[ahead[i % kAhead]];
      if (i + kAhead < end) __builtin_prefetch(&all[ahead[i % kAhead] = place(ids[i + kAhead])]);
      std::int32_t row = -1;
      for (const Slot& slot : found.slots) row = slot.id == ids[i] && slot.has_row() ? slot.lent : row;
      rows[i] = row;
    }
  });
}

void HotSketch::scores(const std::int64_t* ids, std::int64_t n, float* scores, ThreadPool* pool) const {
  const Bucket* all = buckets();
  for_pieces(pool, n, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float score = -1.0F;
      for (const Slot& slot : all[place(ids[i])].slots) score = slot.id == ids[i] ? slot.own_score() : score;
      scores[i] = score;
    }
  });
}

bool HotSketch::add(Bucket& bucket, std::int64_t id, float score, std::int64_t& over) const {
  Slot* const slots = bucket.slots;
  int at = 0;
  while (at < kSlots && slots[at].id != id && slots[at].id != -1) ++at;
  if (at == kSlots) {
    Slot& last = slots[at = kSlots - 1];
    if (last.has_row()) return false;
    over -= last.own_score() >= threshold_;
    last = {id, last.score, std::bit_cast<std::int32_t>(-last.score)};
  }
  Slot slot = slots[at];
  slot.id = id;
  const bool was_over = slot.own_score() >= threshold_;
  slot.score += score;
  const bool is_over = slot.own_score() >= threshold_;
  over += is_over && !was_over;
  const bool hot = is_over && !slot.has_row();
  if (hot) slot.lent = kPending;
  for (; at > 0 && slot.score > slots[at - 1].score; --at) slots[at] = slots[at - 1];
  slots[at] = slot;
  return hot;
}

HotSketch::Moves HotSketch::insert(const std::int64_t* ids, const float* scores, std::int64_t n,
                                   ThreadPool* pool) {
  places_.resize(static_cast<std::size_t>(n));
  std::int64_t* const places = places_.data();
  for_pieces(pool, n, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) places[i] = place(ids[i]);
  });
  // Every thread has buckets of its own, so that each sees its ids in their order.
  const std::int64_t count = pool == nullptr ? 1 : pool->num_threads();
  shards_.resize(static_cast<std::size_t>(count));
  const auto work = [&](std::int64_t number) {
    Shard& shard = shards_[static_cast<std::size_t>(number)];
    const std::int64_t first = num_buckets_ * number / count, last = num_buckets_ * (number + 1) / count;
    shard.own.resize(static_cast<std::size_t>(n));
    shard.hot.clear();
    shard.over = 0;
    std::int64_t size = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      shard.own[static_cast<std::size_t>(size)] = i;
      size += places[i] >= first && places[i] < last;
    }
    for (std::int64_t k = 0; k < size; ++k) {
      if (k + kAhead < size) {
        __builtin_prefetch(&bucket(places[shard.own[static_cast<std::size_t>(k + kAhead)]]), 1);
      }
      const std::int64_t i = shard.own[static_cast<std::size_t>(k)];
      if (add(bucket(places[i]), ids[i], scores[i], shard.over)) shard.hot.push_back(i);
    }
  };
  if (pool == nullptr) {
    work(0);
  } else {
    pool->parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t number = begin; number < end; ++number) work(number);
    });
  }
  std::vector<std::int64_t> hot;
  for (const Shard& shard : shards_) {
    hot.insert(hot.end(), shard.hot.begin(), shard.hot.end());
    over_ += shard.over;
  }
  std::sort(hot.begin(), hot.end());
  Moves moves;
  for (const std::int64_t i : hot) {
    for (Slot& slot : bucket(places[i]).slots) {
      if (slot.id != ids[i]) continue;
      slot.lent = kNothing;
      if (free_.empty()) break;
      slot.lent = free_.back();
      free_.pop_back();
      moves.ids.push_back(slot.id);
      moves.rows.push_back(slot.lent);
    }
  }
  return moves;
}

HotSketch::Moves HotSketch::take_back() {
  Moves moves;
  Slot* const slots = buckets_.as<Slot>();
  over_ = 0;
  for (std::int64_t i = 0; i < num_buckets_ * kSlots; ++i) {
    const bool over = slots[i].own_score() >= threshold_;
    over_ += over;
    if (over || !slots[i].has_row()) continue;
    moves.ids.push_back(slots[i].id);
    moves.rows.push_back(slots[i].lent);
    free_.push_back(std::exchange(slots[i].lent, kNothing));
  }
  return moves;
}

HotSketch::Moves HotSketch::decay(float factor) {
  Slot* const slots = buckets_.as<Slot>();
  for (std::int64_t i = 0; i < num_buckets_ * kSlots; ++i) {
    slots[i].score *= factor;
    if (slots[i].has_row()) continue;
    slots[i].lent = std::bit_cast<std::int32_t>(std::bit_cast<float>(slots[i].lent) * factor);
  }
  return take_back();
}

HotSketch::Moves HotSketch::retune() {
  if (num_rows_ == 0 || over_ * kSpare <= static_cast<std::int64_t>(num_rows_) * (kSpare + 1)) return {};
  const Slot* const slots = buckets_.as<Slot>();
  std::vector<float> over;
  for (std::int64_t i = 0; i < num_buckets_ * kSlots; ++i) {
    if (slots[i].own_score() >= threshold_) over.push_back(slots[i].own_score());
  }
  const auto boundary = over.begin() + (num_rows_ - 1);
  std::nth_element(over.begin(), boundary, over.end(), std::greater<>());
  threshold_ = *boundary;
  return take_back();
}

void HotSketch::restore(const Bucket* buckets, float threshold) {
  std::vector<bool> lent(static_cast<std::size_t>(num_rows_), false);
  for (std::int64_t b = 0; b < num_buckets_; ++b) {
    for (const Slot& slot : buckets[b].slots) {
      if (!slot.has_row()) continue;
      if (slot.lent >= num_rows_ || lent[static_cast<std::size_t>(slot.lent)]) {
        throw std::invalid_argument("buckets: bucket " + std::to_string(b) + " lends row " +
                                    std::to_string(slot.lent) + ", out of range or lent twice");
      }
      lent[static_cast<std::size_t>(slot.lent)] = true;
    }
  }
  if (!(threshold > 0)) {
    throw std::invalid_argument("threshold: must be positive, got " + std::to_string(threshold));
  }
  std::copy_n(buckets, num_buckets_, buckets_.as<Bucket>());
  threshold_ = threshold;
  over_ = 0;
  const Slot* const slots = buckets_.as<Slot>();
  for (std::int64_t i = 0; i < num_buckets_ * kSlots; ++i) over_ += slots[i].own_score() >= threshold_;
  free_.clear();
  for (std::int32_t row = num_rows_; row-- > 0;) {
    if (!lent[static_cast<std::size_t>(row)]) free_.push_back(row);
  }
}

}  // namespace screc
