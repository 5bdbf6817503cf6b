#include "statistics/row_counter.h"

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>

namespace screc {
namespace {

// Of the bytes of a map and its sample, the sample's part.
constexpr std::int64_t kSamplePart = 8;
// The sample's places: by bits that decide neither the places in the map nor, for long, who is in the sample.
constexpr int kSampleTurn = 16;
// Ids whose slots are asked for before the first is used.
constexpr std::int64_t kAhead = 32;

// A value of the map: the look-ups since the row came, and its error in 24 bits, mantissa and exponent.
// Errors are offsets, and offsets are rounded up to what 19 bits of mantissa can say.
namespace tally {

constexpr int kCountBits = 40, kMantissaBits = 19;
constexpr std::uint64_t kMaxCount = (std::uint64_t{1} << kCountBits) - 1;

std::uint64_t count(std::uint64_t value) { return value & kMaxCount; }

std::uint64_t error(std::uint64_t value) {
  const std::uint64_t code = value >> kCountBits;
  return (code & ((1u << kMantissaBits) - 1)) << (code >> kMantissaBits);
}

std::uint64_t upper(std::uint64_t value) { return count(value) + error(value); }

// Exponent of the coded error that is at least `offset`.
int exponent(std::uint64_t offset) {
  int e = std::max(0, static_cast<int>(std::bit_width(offset)) - kMantissaBits);
  if ((offset + (std::uint64_t{1} << e) - 1) >> e == std::uint64_t{1} << kMantissaBits) ++e;
  return e;
}

std::uint64_t round_up(std::uint64_t offset) {
  const int e = exponent(offset);
  return (offset + (std::uint64_t{1} << e) - 1) >> e << e;
}

// One look-up of a row that comes while the offset (already rounded) is this.
std::uint64_t first(std::uint64_t offset) {
  const int e = exponent(offset);
  return ((static_cast<std::uint64_t>(e) << kMantissaBits | offset >> e) << kCountBits) + 1;
}

}  // namespace tally

std::string text(std::int64_t value) { return std::to_string(value); }

}  // namespace

RowCounter::RowCounter(std::string table, std::int64_t num_embeddings, std::int64_t max_bytes)
    : table_(std::move(table)), num_embeddings_(num_embeddings) {
  if (num_embeddings < 1) {
    throw std::invalid_argument("num_embeddings: must be at least 1, got " + text(num_embeddings));
  }
  if (max_bytes < kLeastBytes) {
    throw std::invalid_argument("max_bytes: must be at least " + text(kLeastBytes) + ", got " +
                                text(max_bytes));
  }
  if (num_embeddings <= max_bytes / 16) {
    counts_ = AlignedBuffer(static_cast<std::size_t>(8 * num_embeddings));
  } else {
    sample_bytes_ = max_bytes / kSamplePart;
    map_.emplace(max_bytes - sample_bytes_);
  }
}

std::int64_t RowCounter::bytes() const {
  return static_cast<std::int64_t>(counts_.size()) + (map_ ? map_->bytes() : 0) +
         (sample_ ? sample_->bytes() : 0);
}

void RowCounter::add(const std::int64_t* ids, std::int64_t n) {
  const auto rows = static_cast<std::uint64_t>(num_embeddings_);
  bool inside = true;
  for (std::int64_t i = 0; i < n; ++i) inside &= static_cast<std::uint64_t>(ids[i]) < rows;
  if (!inside) {
    const auto* wrong =
        std::find_if(ids, ids + n, [&](std::int64_t id) { return static_cast<std::uint64_t>(id) >= rows; });
    throw std::invalid_argument("table " + table_ + ": id " + text(*wrong) + " is out of range for " +
                                text(num_embeddings_) + " rows");
  }
  num_lookups_ += n;
  if (map_) {
    if (num_lookups_ > static_cast<std::int64_t>(tally::kMaxCount)) {
      throw std::invalid_argument("table " + table_ + ": more than 2^40 look-ups; count fewer samples");
    }
    add_to_map(ids, n);
  } else {
    auto* counts = counts_.as<std::int64_t>();
    for (std::int64_t i = 0; i < n; ++i) ++counts[ids[i]];
  }
}

void RowCounter::add_to_map(const std::int64_t* ids, std::int64_t n) {
  std::array<std::uint64_t, kAhead> hashes;
  for (std::int64_t start = 0; start < n; start += kAhead) {
    const std::int64_t some = std::min(kAhead, n - start);
    for (std::int64_t i = 0; i < some; ++i) {
      hashes[i] = CountMap::hash_of(CountMap::key_of(ids[start + i]));
      map_->prefetch(hashes[i]);
    }
    for (std::int64_t i = 0; i < some; ++i) {
      const std::uint64_t key = CountMap::key_of(ids[start + i]);
      CountMap::Slot& slot = map_->find(hashes[i], key);
      if (slot.key == key) {
        ++slot.value;
      } else {
        if (map_->exhausted()) forget_half();
        map_->insert(hashes[i], key, tally::first(offset_));
      }
      // After the map, which holds the sample's past until it forgets for the first time.
      if (sample_ && sampled(hashes[i])) add_to_sample(hashes[i], key, 1);
    }
  }
}

void RowCounter::add_to_sample(std::uint64_t hash, std::uint64_t key, std::uint64_t count) {
  CountMap::Slot& slot = sample_->find(hash, key);
  if (slot.key == key) {
    slot.value += count;
    return;
  }
  while (sample_->exhausted()) {
    ++sample_level_;
    sample_->purge([&](const CountMap::Slot& row) { return sampled(CountMap::hash_of(row.key)); });
  }
  if (sampled(hash)) sample_->insert(hash, key, count);
}

void RowCounter::forget_half() {
  if (!sample_) {
    sample_.emplace(sample_bytes_, kSampleTurn);
    map_->for_each([&](const CountMap::Slot& row) {
      const std::uint64_t hash = CountMap::hash_of(row.key);
      if (sampled(hash)) add_to_sample(hash, row.key, tally::count(row.value));
    });
  }
  offset_ = tally::round_up(offset_ + median_above_offset());
  map_->purge([&](const CountMap::Slot& row) { return tally::upper(row.value) > offset_; });
}

std::uint64_t RowCounter::median_above_offset() const {
  constexpr std::uint64_t kBins = 1024;
  const std::int64_t wanted = (map_->size() + 1) / 2;
  std::uint64_t low = 1, width = 1;  // the bins cover [low, low + kBins * width)
  std::int64_t below = 0;            // rows under `low`
  for (;;) {
    std::array<std::int64_t, kBins> bins{};
    map_->for_each([&](const CountMap::Slot& row) {
      const std::uint64_t above = tally::upper(row.value) - offset_;
      if (above >= low && (above - low) / width < kBins) ++bins[(above - low) / width];
    });
    std::int64_t reached = below;
    std::uint64_t bin = 0;
    while (bin < kBins && reached + bins[bin] < wanted) reached += bins[bin++];
    if (bin == kBins) {
      width *= kBins;
    } else if (width == 1) {
      return low + bin;
    } else {
      low += bin * width;
      below = reached;
      width /= kBins;
    }
  }
}

RankedRows RowCounter::finish() {
  RankedRows result = map_ ? rank_map() : rank_all();
  counts_ = AlignedBuffer();
  map_.reset();
  sample_.reset();
  return result;
}

RankedRows RowCounter::rank_all() const {
  // By counting: rows of equal counts follow each other by id, and most counts are small.
  constexpr std::int64_t kSmall = 1 << 16;
  const auto* counts = counts_.as<std::int64_t>();
  std::vector<std::int64_t> starts(kSmall + 1, 0);  // by count; first how many rows have it
  std::vector<std::int64_t> large;
  for (std::int64_t id = 0; id < num_embeddings_; ++id) {
    if (counts[id] > kSmall) {
      large.push_back(id);
    } else if (counts[id] > 0) {
      ++starts[static_cast<std::size_t>(counts[id])];
    }
  }
  std::stable_sort(large.begin(), large.end(),
                   [&](std::int64_t a, std::int64_t b) { return counts[a] > counts[b]; });
  auto total = static_cast<std::int64_t>(large.size());
  for (std::int64_t count = kSmall; count > 0; --count) {
    total += std::exchange(starts[static_cast<std::size_t>(count)], total);
  }
  RankedRows ranked;
  ranked.ids.resize(static_cast<std::size_t>(total));
  ranked.counts.resize(static_cast<std::size_t>(total));
  const auto place = [&](std::int64_t id, std::int64_t rank) {
    ranked.ids[static_cast<std::size_t>(rank)] = id;
    ranked.counts[static_cast<std::size_t>(rank)] = counts[id];
  };
  for (std::size_t i = 0; i < large.size(); ++i) place(large[i], static_cast<std::int64_t>(i));
  for (std::int64_t id = 0; id < num_embeddings_; ++id) {
    if (counts[id] > 0 && counts[id] <= kSmall) place(id, starts[static_cast<std::size_t>(counts[id])]++);
  }
  return ranked;
}

RankedRows RowCounter::rank_map() {
  RankedRows ranked;
  if (sample_) {
    ranked.unranked_bound = static_cast<std::int64_t>(offset_);
    ranked.sample_level = sample_level_;
    ranked.sample_rows = sample_->size();
    sample_->for_each([&](const CountMap::Slot& row) {
      if (row.value == 1) ++ranked.sample_singletons;
      const bool known = map_->find(CountMap::hash_of(row.key), row.key).key == row.key;
      if (!known) ranked.unranked_sample.push_back(static_cast<std::int64_t>(row.value));
    });
    sample_.reset();
  }
  const auto size = static_cast<std::size_t>(map_->size());
  CountMap::Slot* const rows = map_->compact();
  std::sort(rows, rows + size, [](const CountMap::Slot& a, const CountMap::Slot& b) {
    const std::uint64_t left = tally::count(a.value), right = tally::count(b.value);
    return left != right ? left > right : a.key < b.key;
  });
  ranked.ids.resize(size);
  ranked.counts.resize(size);
  if (!exact()) ranked.errors.resize(size);
  for (std::size_t i = 0; i < size; ++i) {
    ranked.ids[i] = rows[i].id();
    ranked.counts[i] = static_cast<std::int64_t>(tally::count(rows[i].value));
    if (!exact()) ranked.errors[i] = static_cast<std::uint32_t>(tally::error(rows[i].value));
  }
  return ranked;
}

}  // namespace screc
