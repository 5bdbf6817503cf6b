#include "store/lookup.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace screc {
namespace {

// Look-ups in a unit of work: some 10 us of DRAM rows.
constexpr std::int64_t kUnitLookups = 1024;
// Below this many look-ups of DRAM rows, waking other threads costs more than they save.
constexpr std::int64_t kAlone = 1024;

[[noreturn]] void refuse_id(const Segment& segment, std::int64_t position) {
  throw std::invalid_argument("ids[" + std::to_string(position) + "] is " +
                              std::to_string(segment.ids[position]) + ", outside table " +
                              std::to_string(segment.number) + " of " +
                              std::to_string(segment.table->num_embeddings) + " rows");
}

bool is_owned(const Segment& segment) {
  return segment.part != nullptr && segment.part->core != CoreTables::kNobody;
}

bool is_counted(const Segment& segment) { return segment.part == nullptr || segment.part->counts; }

// Throws for an id outside the table among look-ups [first, first + count) of the segment.
void check_ids(const Segment& segment, std::int64_t first, std::int64_t count) {
  const std::int64_t* ids = segment.ids + segment.first_id + first;
  const std::int64_t last = segment.table->num_embeddings - 1;
  std::uint64_t wrong = 0;  // its sign bit: some id is negative or above the last
  for (std::int64_t i = 0; i < count; ++i) {
    const auto id = static_cast<std::uint64_t>(ids[i]);
    wrong |= id | (static_cast<std::uint64_t>(last) - id);
  }
  if ((wrong >> 63) == 0) return;
  for (std::int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] > last) refuse_id(segment, segment.first_id + first + i);
  }
}

bool has_one_id_each(const Segment& segment) {
  std::int64_t other = 0;
  for (std::int64_t i = 0; i < segment.num_samples; ++i) other |= segment.offsets[i] ^ (segment.first_id + i);
  return other == 0;
}

// Splits the open positions into those whose id the index knows (found, with slots; returns how many) and the
// rest.
template <typename Index>
std::int64_t split(const Index& index, const std::int64_t* ids, std::int32_t* open, std::int64_t& num_open,
                   std::int32_t* found, std::int64_t* slots) {
  for (std::int64_t i = 0; i < num_open; ++i) index.prefetch(ids[open[i]]);
  std::int64_t known = 0, left = 0;
  for (std::int64_t i = 0; i < num_open; ++i) {
    const std::int32_t position = open[i];
    const std::int64_t slot = index.find(ids[position]);
    found[known] = position;
    slots[known] = slot;
    known += slot >= 0;
    open[left] = position;
    left += slot < 0;
  }
  num_open = left;
  return known;
}

// That of the unit; empty ones, which begin where the next does, come before it.
std::vector<Segment>::const_iterator segment_of(const std::vector<Segment>& segments, std::int64_t unit) {
  return std::upper_bound(segments.begin(), segments.end(), unit,
                          [](std::int64_t u, const Segment& s) { return u < s.first_unit; }) -
         1;
}

}  // namespace

Lookup::Lookup(ThreadPool& threads) : tt_(arena_), shares_(threads.num_threads()) { use(threads); }

void Lookup::use(ThreadPool& threads) {
  threads_ = &threads;
  first_thread_ = 0;
  const int count = threads.num_threads();
  if (workers_.size() < static_cast<std::size_t>(count)) workers_.resize(static_cast<std::size_t>(count));
  if (shares_.num_threads() < count) shares_ = Shares(count);
  tt_.use(count);
}

void Lookup::use_caller(int thread) {
  threads_ = nullptr;
  first_thread_ = thread;
}

std::int64_t Lookup::scratch_bytes(const Table& table) {
  if (table.whole() != nullptr) return 0;
  const std::int64_t row_bytes = table.dim * static_cast<std::int64_t>(sizeof(float));
  std::int64_t bytes = sizeof(const void*);
  if (table.staged) bytes += row_bytes;
  if (table.has_tt) bytes += TtRows::kLookupBytes;
  // The look-up is held by a worker and by the call, and its page has an entry in each list.
  if (table.has_ssd) bytes += row_bytes + 2 * sizeof(WantedRow) + 64;
  return bytes;
}

void Lookup::prepare(std::vector<Segment>& segments) {
  std::int64_t lookups = 0, pointers = 0, work = 0, tt_lookups = 0, staged_floats = 0;
  for (Segment& segment : segments) {
    segment.base = pointers;
    if (is_counted(segment)) lookups += segment.num_ids;
    work += segment.num_ids * segment.table->weight;
    if (segment.table->whole() == nullptr) pointers += segment.num_ids;
    if (segment.table->has_tt) tt_lookups += segment.num_ids;
    if (segment.table->staged) staged_floats += segment.num_ids * segment.table->dim;
  }
  alone_ = threads_ == nullptr || work <= kAlone;
  num_units_ = ssd_units_ = 0;
  owned_ = !alone_ && !segments.empty() && is_owned(segments.back());
  ranges_.assign(owned_ ? static_cast<std::size_t>(shares_.num_threads()) : 0, {});
  for (Segment& segment : segments) {
    segment.first_unit = num_units_;
    if (alone_) {
      segment.unit_samples = std::max<std::int64_t>(segment.num_samples, 1);
      num_units_ += segment.num_samples > 0;
    } else {
      const std::int64_t per_unit =
          segment.num_samples * kUnitLookups / std::max<std::int64_t>(segment.num_ids, 1);
      segment.unit_samples = std::clamp<std::int64_t>(per_unit, 1, kUnitLookups);
      num_units_ += (segment.num_samples + segment.unit_samples - 1) / segment.unit_samples;
    }
    if (segment.table->has_ssd) ssd_units_ = num_units_;
    if (!owned_ || !is_owned(segment)) continue;
    Shares::Range& range = ranges_[static_cast<std::size_t>(segment.part->core)];
    if (range.end == 0) range.begin = segment.first_unit;
    range.end = num_units_;
  }
  if (rows_.size() < static_cast<std::size_t>(pointers)) rows_.resize(static_cast<std::size_t>(pointers));
  arena_.begin(staged_floats);
  tt_.begin(tt_lookups);
  for (const Segment& segment : segments) {
    if (!segment.table->has_tt) continue;
    float* out = segment.offsets == nullptr ? segment.out : nullptr;
    for (const Band& band : segment.table->bands) {
      if (band.kind != Band::Kind::kTt) continue;
      tt_.expect(band.number, *band.cores, segment.num_ids, rows_.data() + segment.base, out,
                 segment.out_stride);
    }
  }
  for (Worker& worker : workers_) {
    worker.wanted.clear();
    worker.dram_rows = worker.tt_rows = worker.updated_tt_rows = 0;
  }
  wanted_.clear();
  num_lookups_ = lookups;
}

void Lookup::resolve_band(const Segment& segment, const Band& band, std::int64_t first, std::int64_t found,
                          Worker& worker) {
  const Table& table = *segment.table;
  const std::int64_t dim = table.dim, base = segment.base + first;
  switch (band.kind) {
    case Band::Kind::kDram: {
      const std::int64_t row_bytes = band.codec.row_bytes();
      worker.dram_rows += found;
      if (band.codec == table.codec) {
        for (std::int64_t i = 0; i < found; ++i) {
          rows_[static_cast<std::size_t>(base + worker.found[i])] = band.rows + worker.slots[i] * row_bytes;
        }
        break;
      }
      for (std::int64_t i = 0; i < found; ++i) worker.encoded[i] = band.rows + worker.slots[i] * row_bytes;
      float* target = arena_.take(found * dim);
      kernels().decode_rows(band.codec, worker.encoded, found, target, dim);
      for (std::int64_t i = 0; i < found; ++i) {
        rows_[static_cast<std::size_t>(base + worker.found[i])] = target + i * dim;
      }
      break;
    }
    case Band::Kind::kTt:
      worker.tt_rows += found;
      if (band.updated != nullptr) found = take_updated(band, base, found, worker);
      tt_.add(static_cast<int>(&worker - workers_.data()), band.number, worker.slots, first, worker.found,
              found);
      break;
    case Band::Kind::kSsd:
      for (std::int64_t i = 0; i < found; ++i) {
        worker.wanted.emplace_back(band.number, worker.slots[i], base + worker.found[i]);
      }
      break;
  }
}

std::int64_t Lookup::take_updated(const Band& band, std::int64_t base, std::int64_t found, Worker& worker) {
  const std::int64_t dim = band.codec.dim;
  if (band.updated->is_large()) {
    for (std::int64_t i = 0; i < found; ++i) band.updated->prefetch(worker.slots[i]);
  }
  std::int64_t left = 0;
  for (std::int64_t i = 0; i < found; ++i) {
    if (const std::byte* const row = band.updated->find(worker.slots[i])) {
      // Copied, for it may be updated again before finish().
      float* const target = arena_.take(dim);
      std::memcpy(target, row, static_cast<std::size_t>(dim) * sizeof(float));
      rows_[static_cast<std::size_t>(base + worker.found[i])] = target;
      continue;
    }
    worker.slots[left] = worker.slots[i];
    worker.found[left++] = worker.found[i];
  }
  worker.updated_tt_rows += found - left;
  return left;
}

// Look-ups [first, first + count) of the segment, at most kPiece.
void Lookup::resolve(const Segment& segment, std::int64_t first, std::int64_t count, Worker& worker) {
  const Table& table = *segment.table;
  const std::int64_t* ids = segment.ids + segment.first_id + first;
  check_ids(segment, first, count);
  for (std::int64_t i = 0; i < count; ++i) worker.open[i] = static_cast<std::int32_t>(i);
  std::int64_t open = count;
  for (const Band& band : table.bands) {
    const std::int64_t found = std::visit(
        [&](const auto& index) { return split(index, ids, worker.open, open, worker.found, worker.slots); },
        band.index);
    if (found > 0) resolve_band(segment, band, first, found, worker);
    if (open == 0) break;
  }
}

void Lookup::decode_fetched(const std::vector<Segment>& segments, const SsdBands& ssd) {
  for (const WantedRow& wanted : wanted_) {
    const RowCodec& codec = ssd.bands[WantedRow::band_of(wanted.key)]->codec;
    const auto segment =
        std::upper_bound(segments.begin(), segments.end(), wanted.position,
                         [](std::int64_t position, const Segment& s) { return position < s.base; }) -
        1;
    const Table& table = *segment->table;
    if (codec == table.codec) continue;
    float* target = arena_.take(table.dim);
    const void*& row = rows_[static_cast<std::size_t>(wanted.position)];
    kernels().decode_rows(codec, &row, 1, target, table.dim);
    row = target;
  }
}

void Lookup::pool(const Segment& segment, std::int64_t first, std::int64_t last) {
  const RowCodec& codec = segment.table->codec;
  float* out = segment.out + first * segment.out_stride;
  if (segment.offsets != nullptr) {
    // The offsets count from the request's first id, the pointers from the call's: shift the base of the
    // latter.
    const auto shift = static_cast<std::uintptr_t>(segment.first_id - segment.base) * sizeof(const void*);
    const auto* rows =
        reinterpret_cast<const void* const*>(reinterpret_cast<std::uintptr_t>(rows_.data()) - shift);
    kernels().pool_rows(codec, rows, segment.offsets + first, last - first, segment.table->mean, out,
                        segment.out_stride);
    return;
  }
  const void* const* rows = rows_.data() + segment.base + first;
  if (!segment.table->has_tt || !tt_.grouped()) {
    kernels().decode_rows(codec, rows, last - first, out, segment.out_stride);
    return;
  }
  for (std::int64_t i = 0; i < last - first; ++i, out += segment.out_stride) {  // some stand in their place
    if (rows[i] != out) kernels().decode_rows(codec, rows + i, 1, out, segment.out_stride);
  }
}

void Lookup::pool_unit(const Segment& segment, std::int64_t unit) {
  const std::int64_t first = (unit - segment.first_unit) * segment.unit_samples;
  pool(segment, first, std::min(segment.num_samples, first + segment.unit_samples));
}

// Samples [first, last) of a table that is one array: look-ups [begin, end) of the segment.
void Lookup::run_whole(const Segment& segment, std::int64_t first, std::int64_t last, std::int64_t begin,
                       std::int64_t end, Worker& worker) {
  check_ids(segment, begin, end - begin);
  IdBags bags{
      segment.ids,       nullptr, last - first, segment.table->mean, segment.out + first * segment.out_stride,
      segment.out_stride};
  if (segment.offsets != nullptr) {
    bags.offsets = segment.offsets + first;
  } else {
    bags.ids += segment.first_id + begin;
  }
  rows_of(segment, first_thread_ + static_cast<int>(&worker - workers_.data())).pool(bags);
  if (is_counted(segment)) worker.dram_rows += end - begin;
}

const StrategyRows& Lookup::rows_of(const Segment& segment, int thread) const {
  return segment.part != nullptr ? segment.part->rows : segment.table->strategy.rows(thread);
}

void Lookup::pool_part(const Segment& segment) {
  check_ids(segment, 0, segment.num_ids);
  segment.part->rows.pool({segment.ids, segment.offsets, segment.num_samples, segment.table->mean,
                           segment.out, segment.out_stride});
}

void Lookup::prefetch_checked(const Segment& segment) {
  check_ids(segment, 0, segment.num_ids);
  prefetch_rows(segment.table->strategy.rows(0).array, segment.ids + segment.first_id, segment.num_ids);
}

void Lookup::pool_checked(const Segment& segment) {
  IdBags bags{segment.ids,         segment.offsets, segment.num_samples,
              segment.table->mean, segment.out,     segment.out_stride};
  if (segment.num_ids == segment.num_samples && has_one_id_each(segment)) {
    bags.ids += segment.first_id;
    bags.offsets = nullptr;
  }
  segment.table->strategy.rows(0).pool(bags);
}

void Lookup::prefetch_rows(const RowArray& array, const std::int64_t* ids, std::int64_t count) {
  const auto bytes = static_cast<std::uintptr_t>(array.codec.row_bytes());
  const auto rows = reinterpret_cast<std::uintptr_t>(array.rows);
  for (std::int64_t i = 0; i < count; ++i) {
    // A prefetch from anywhere does no harm. Into the second-level cache, which takes more misses at a time.
    const std::uintptr_t row = rows + static_cast<std::uintptr_t>(ids[i]) * bytes;
    for (std::uintptr_t at = 0; at < bytes; at += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(row + at), 0, 2);
    }
    __builtin_prefetch(reinterpret_cast<const void*>(row + bytes - 1), 0, 2);
  }
}

void Lookup::run_unit(const Segment& segment, std::int64_t unit, Worker& worker) {
  const std::int64_t first = (unit - segment.first_unit) * segment.unit_samples;
  const std::int64_t last = std::min(segment.num_samples, first + segment.unit_samples);
  std::int64_t begin = first, end = last;
  if (segment.offsets != nullptr) {
    begin = segment.offsets[first] - segment.first_id;
    end = segment.offsets[last] - segment.first_id;
  }
  if (segment.table->whole() != nullptr) {
    run_whole(segment, first, last, begin, end, worker);
    return;
  }
  for (; begin < end; begin += kPiece) resolve(segment, begin, std::min(kPiece, end - begin), worker);
  if (!waits(segment)) pool(segment, first, last);
}

bool Lookup::waits(const Segment& segment) const {
  return segment.table->has_ssd || (segment.table->has_tt && tt_.grouped());
}

template <typename Body>
void Lookup::for_each_unit(const std::vector<Segment>& segments, std::int64_t first, std::int64_t last,
                           const Body& body) {
  if (first == last) return;
  const auto run = [&](std::int64_t begin, std::int64_t end, int thread) {
    begin += first;
    end += first;
    auto segment = segment_of(segments, begin);
    for (std::int64_t unit = begin; unit < end; ++unit) {
      while (segment + 1 != segments.end() && segment[1].first_unit <= unit) ++segment;
      body(*segment, unit, workers_[static_cast<std::size_t>(thread)]);
    }
  };
  if (alone_) {
    run(0, last - first, 0);
  } else {
    threads_->parallel_for(last - first, 1, std::cref(run));  // cref: std::function then allocates nothing
  }
}

template <typename Body>
void Lookup::for_each_owned_unit(const std::vector<Segment>& segments, std::int64_t first, const Body& body) {
  std::int64_t common_end = num_units_;
  for (const Shares::Range& range : ranges_) {
    if (range.end > 0) common_end = std::min(common_end, range.begin);
  }
  shares_.part(ranges_, {first, common_end});
  const auto run = [&](std::int64_t, std::int64_t, int thread) {
    for (std::int64_t unit; (unit = shares_.take(thread)) != Shares::kNone;) {
      body(*segment_of(segments, unit), unit, workers_[static_cast<std::size_t>(thread)]);
    }
  };
  threads_->parallel_for(threads_->num_threads(), 1, std::cref(run));
}

void Lookup::begin(std::vector<Segment>& segments, SsdBands& ssd, PageReader* reader) {
  prepare(segments);
  if (alone_ && num_lookups_ <= kFew) {  // the call then waits for memory once, not table by table
    for (const Segment& segment : segments) {
      if (segment.table->whole() == nullptr) continue;
      prefetch_rows(rows_of(segment, first_thread_).array, segment.ids + segment.first_id, segment.num_ids);
    }
  }
  for_each_unit(segments, 0, ssd_units_, [this](const Segment& segment, std::int64_t unit, Worker& worker) {
    run_unit(segment, unit, worker);
  });
  for (const Worker& worker : workers_) {
    wanted_.insert(wanted_.end(), worker.wanted.begin(), worker.wanted.end());
  }
  if (!wanted_.empty()) ssd_.begin(*reader, ssd, wanted_, rows_.data());
  try {
    const auto run = [this](const Segment& segment, std::int64_t unit, Worker& worker) {
      run_unit(segment, unit, worker);
      if (&worker == workers_.data()) ssd_.poll();  // the reader belongs to the calling thread
    };
    if (owned_) {
      for_each_owned_unit(segments, ssd_units_, run);
    } else {
      for_each_unit(segments, ssd_units_, num_units_, run);
    }
    if (tt_.grouped()) rebuild(segments);
  } catch (...) {
    ssd_.abandon();
    throw;
  }
}

void Lookup::rebuild(const std::vector<Segment>& segments) {
  const auto parts = [this](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t part = begin; part < end; ++part) {
      tt_.rebuild(thread, part);
      if (thread == 0) ssd_.poll();
    }
  };
  if (threads_ == nullptr) {
    parts(0, tt_.num_parts(), 0);
  } else {
    threads_->parallel_for(tt_.num_parts(), 1, std::cref(parts));
  }
  for_each_unit(segments, ssd_units_, num_units_, [this](const Segment& segment, std::int64_t unit, Worker&) {
    if (waits(segment)) pool_unit(segment, unit);
  });
}

LookupCounts Lookup::finish(const std::vector<Segment>& segments, const SsdBands& ssd) {
  ssd_.finish();
  const bool staged = std::any_of(segments.begin(), segments.end(), [](const Segment& segment) {
    return segment.table->has_ssd && segment.table->staged;
  });
  if (staged) decode_fetched(segments, ssd);
  for_each_unit(segments, 0, ssd_units_,
                [this](const Segment& segment, std::int64_t unit, Worker&) { pool_unit(segment, unit); });
  LookupCounts counts;
  counts.lookups = num_lookups_;
  for (const Worker& worker : workers_) {
    counts.dram_rows += worker.dram_rows;
    counts.tt_rows += worker.tt_rows;
    counts.updated_tt_rows += worker.updated_tt_rows;
  }
  if (!wanted_.empty()) {
    counts.ssd_rows = static_cast<std::int64_t>(wanted_.size());
    counts.ssd = ssd_.counts();
  }
  return counts;
}

}  // namespace screc
