#include "store/row_store.h"

#include <algorithm>
#include <stdexcept>

namespace screc {
namespace {

// A call's working memory; larger ones are served in parts.
constexpr int64_t kScratchBytes = int64_t{64} << 20;
constexpr size_t kMaxBands = 16;

std::string text(int64_t value) { return std::to_string(value); }

int64_t bytes_of(const BandIndex& index) {
  return std::visit([](const auto& form) { return form.bytes(); }, index);
}

// Of a scale and bias that all rows share.
int64_t shared_bytes(const RowCodec& codec) {
  return codec.own_scale ? 0 : static_cast<int64_t>(sizeof(RowScale));
}

// Multiply-adds x 2 to rebuild a row, cores taken from the left (TtShape.flops_per_row).
int64_t rebuild_flops(const std::vector<TtCoreView>& cores) {
  int64_t flops = 0, columns = 1;
  for (const TtCoreView& core : cores) {
    flops += 2 * columns * core.rank * core.columns * core.next_rank;
    columns *= core.columns;
  }
  return flops;
}

}  // namespace

void check_pages_of(const Band& band) {
  const PageGeometry& geometry = band.geometry;
  const int64_t pages = geometry.num_pages(band.num_rows);
  if (band.file->num_pages() != pages) {
    throw IoError("file " + band.file->path() + " has " + text(band.file->num_pages()) + " pages, " +
                  text(band.num_rows) + " rows of " + text(geometry.row_bytes) + " bytes (table " +
                  std::to_string(band.owner.table) + ", band " + std::to_string(band.owner.band) + ") take " +
                  text(pages));
  }
  int64_t first = 0, last = pages - 1;
  if (band.written != nullptr) {
    const int64_t groups = (last + 1) / geometry.pages_per_row;
    if (checked_size(band.written->groups, groups) == 0) return;
    const auto [least, most] = bounds(band.written->groups);
    first = least * geometry.pages_per_row;
    last = (most + 1) * geometry.pages_per_row - 1;
  }
  const AlignedBuffer buffer(kPageBytes);
  for (const int64_t page : {first, last}) {
    band.file->read_page(page, buffer.data());
    check_page(buffer.as<unsigned char>(), band.owner, page, geometry.used(band.num_rows, page),
               band.file->path());
  }
}

RowStore::RowStore(const std::string& io, int queue_depth, int num_threads, int64_t cache_bytes,
                   const std::string& cache_policy)
    : io_((check_io(io, queue_depth), io)),
      queue_depth_(queue_depth),
      threads_(num_threads >= 0 ? num_threads
                                : throw std::invalid_argument("threads: must not be negative, got " +
                                                              std::to_string(num_threads))),
      cache_bytes_(cache_bytes >= 0 ? cache_bytes
                                    : throw std::invalid_argument("cache_bytes: must not be negative, got " +
                                                                  text(cache_bytes))),
      cache_policy_(parse_cache_policy(cache_policy)),
      contexts_(threads_) {
  stats_.io_backend = "none";
  stats_.direct_io = true;
  stats_.queue_depth = queue_depth;
  stats_.num_threads = threads_.num_threads();
}

// ----------------------------------------------------------------------------------------------------
// building

int RowStore::add_table(int64_t num_embeddings, int64_t embedding_dim, bool mean) {
  if (num_embeddings < 1 || num_embeddings >= int64_t{1} << WantedRow::kSlotBits) {
    throw std::invalid_argument("num_embeddings: must be from 1 to 2^44 - 1, got " + text(num_embeddings));
  }
  if (embedding_dim < 1 || embedding_dim > int64_t{1} << 20) {
    throw std::invalid_argument("embedding_dim: must be from 1 to 2^20, got " + text(embedding_dim));
  }
  std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
  if (!core_tables_.empty()) {
    throw std::invalid_argument("table: the mapping has none more; take it off before a table is added");
  }
  all_whole_ = false;
  auto table = std::make_unique<Table>();
  table->num_embeddings = num_embeddings;
  table->dim = embedding_dim;
  table->mean = mean;
  tables_.push_back(std::move(table));
  return static_cast<int>(tables_.size()) - 1;
}

const Table& RowStore::checked_table(int table) const {
  if (table < 0 || table >= static_cast<int>(tables_.size())) {
    throw std::invalid_argument("table: " + text(table) + " does not exist, the store has " +
                                std::to_string(tables_.size()) + " tables");
  }
  return *tables_[static_cast<size_t>(table)];
}

Table& RowStore::open_table(int table) {
  auto& found = const_cast<Table&>(checked_table(table));
  if (found.closed) {
    throw std::invalid_argument("table " + text(table) +
                                " is complete: a band that takes every id must be the last");
  }
  return found;
}

void RowStore::append(int table, Band band, int64_t bytes) {
  Table& owner = *tables_[static_cast<size_t>(table)];
  owner.bands.reserve(kMaxBands);  // ssd_ points at them
  if (owner.bands.size() == kMaxBands) {
    throw std::invalid_argument("table " + text(table) + " has " + std::to_string(kMaxBands) +
                                " bands; no more fit");
  }
  {
    std::lock_guard<std::mutex> lock(stats_mutex_);
    stats_.dram_bytes += bytes + bytes_of(band.index);
  }
  owner.closed = knows_every_id(band.index);
  owner.bands.push_back(std::move(band));
  owner.choose_codec();
  all_whole_ = std::all_of(tables_.begin(), tables_.end(),
                           [](const auto& each) { return each->closed && each->whole() != nullptr; });
}

void RowStore::add_dram_band(int table, const void* rows, int64_t num_rows, const RowCodec& codec,
                             const BandIndex& index) {
  std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
  const Table& owner = open_table(table);
  const int64_t expected = checked_rows(index, owner.num_embeddings);
  if (num_rows != expected || codec.dim != owner.dim) {
    throw std::invalid_argument("rows: table " + text(table) +
                                (knows_every_id(index) ? " has" : "'s index has") + " room for shape [" +
                                text(expected) + ", " + text(owner.dim) + "], got [" + text(num_rows) + ", " +
                                text(codec.dim) + "]");
  }
  if (codec.format == RowFormat::kFp32 && reinterpret_cast<uintptr_t>(rows) % alignof(float) != 0) {
    throw std::invalid_argument("rows: must be aligned to 4 bytes; copy the array");
  }
  Band band{Band::Kind::kDram, index, num_rows, codec};
  band.rows = static_cast<const std::byte*>(rows);
  append(table, std::move(band), num_rows * codec.row_bytes() + shared_bytes(codec));
  if (owner.closed && owner.whole() != nullptr) apply_strategies();
}

Strategy RowStore::strategy(int table) const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  return checked_table(table).strategy.strategy();
}

void RowStore::set_strategy(int number, Strategy strategy) {
  std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
  const Table& table = checked_table(number);
  check_closed(number);
  if (table.whole() == nullptr) {
    if (strategy == Strategy::kGather) return;
    throw std::invalid_argument("strategy '" + std::string(strategy_name(strategy)) +
                                "' is for tables whose only band is rows in DRAM; table " + text(number) +
                                " has other bands: use 'gather'");
  }
  check_strategy(table.array(), strategy, StrategyArrays::kMaxPrivateBytes);
  apply_strategies(number, strategy);
}

void RowStore::apply_strategies(int changed, Strategy strategy) {
  std::vector<StrategyArrays::Member> members;
  for (size_t number = 0; number < tables_.size(); ++number) {
    Table& table = *tables_[number];
    if (!table.closed || table.whole() == nullptr) continue;
    const bool change = static_cast<int>(number) == changed;
    members.push_back({table.array(), change ? strategy : table.strategy.strategy(), &table.strategy});
  }
  const int64_t before = strategy_arrays_.bytes();
  strategy_arrays_.build(members, threads_.num_threads());
  std::lock_guard<std::mutex> lock(stats_mutex_);
  stats_.dram_bytes += strategy_arrays_.bytes() - before;
}

void RowStore::add_tt_band(int table, const std::vector<TtCoreView>& cores, const BandIndex& index) {
  std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
  Table& owner = open_table(table);
  const int64_t expected = checked_rows(index, owner.num_embeddings);
  auto copy = std::make_unique<const TtCores>(cores);
  if (copy->embedding_dim() != owner.dim) {
    throw std::invalid_argument("cores: they give rows of " + text(copy->embedding_dim()) +
                                " columns, table " + text(table) + " has " + text(owner.dim));
  }
  if (copy->num_rows() < expected) {
    throw std::invalid_argument("cores: they address " + text(copy->num_rows()) + " rows, table " +
                                text(table) + "'s band needs " + text(expected));
  }
  const int64_t bytes = copy->num_parameters() * static_cast<int64_t>(sizeof(float));
  Band band{Band::Kind::kTt, index, expected, {RowFormat::kFp32, owner.dim}};
  band.cores = std::move(copy);
  band.number = num_tt_bands_;
  append(table, std::move(band), bytes);
  ++num_tt_bands_;
  owner.has_tt = true;
  owner.weight = std::max(owner.weight, 1 + rebuild_flops(cores) / 2000);
}

void RowStore::add_ssd_band(int table, const std::string& path, int number, const RowCodec& codec,
                            const BandIndex& index, std::unique_ptr<const WrittenPages> sparse) {
  std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
  Table& owner = open_table(table);
  if (number < 0) throw std::invalid_argument("band: must not be negative, got " + text(number));
  if (codec.dim != owner.dim) {
    throw std::invalid_argument("codec: has rows of " + text(codec.dim) + " columns, table " + text(table) +
                                " has " + text(owner.dim));
  }
  Band band{Band::Kind::kSsd, index, checked_rows(index, owner.num_embeddings), codec};
  band.geometry = PageGeometry::of(codec.row_bytes());
  band.owner = {static_cast<std::uint32_t>(table), static_cast<std::uint32_t>(number)};
  band.number = ssd_.bands.size();
  band.file = std::make_unique<const PageFile>(path);
  band.written = std::move(sparse);
  check_pages_of(band);
  if (ssd_.bands.empty()) choose_io();
  const bool direct = band.file->direct();
  int64_t bytes = shared_bytes(codec);
  if (band.written != nullptr) {
    bytes +=
        std::visit([](const auto& set) { return set.bytes(); }, band.written->groups) + codec.row_bytes();
  }
  append(table, std::move(band), bytes);
  owner.has_ssd = true;
  ssd_.bands.push_back(&owner.bands.back());
  make_cache();
  std::lock_guard<std::mutex> stats_lock(stats_mutex_);
  stats_.direct_io = stats_.direct_io && direct;
}

// Finds out what this system grants; each look-up in flight makes a reader of its own later.
void RowStore::choose_io() {
  const auto reader = make_page_reader(io_, queue_depth_);
  io_ = reader->backend();  // none of another kind, whatever happens
  std::lock_guard<std::mutex> lock(stats_mutex_);
  stats_.io_backend = io_;
  stats_.queue_depth = reader->queue_depth();
}

// Makes the cache of all SSD bands there are, with nothing in it.
void RowStore::make_cache() {
  std::vector<CachedBand> bands;
  for (const Band* band : ssd_.bands) bands.push_back({band->num_rows, band->geometry.row_bytes});
  ssd_.cache = RowCache();  // not both at once
  ssd_.cache = RowCache(cache_policy_, cache_bytes_, bands);
  std::lock_guard<std::mutex> lock(stats_mutex_);
  stats_.dram_bytes += ssd_.cache.bytes() - stats_.cache_bytes;
  stats_.cache_bytes = ssd_.cache.bytes();
}

void RowStore::set_mapping(const std::vector<TableCores>& mapping) {
  std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
  CoreTables made;
  if (!mapping.empty()) {
    if (mapping.size() != tables_.size()) {
      throw std::invalid_argument("mapping: expected an entry for each of " + std::to_string(tables_.size()) +
                                  " tables, got " + std::to_string(mapping.size()));
    }
    std::vector<CoreTables::Member> members;
    for (size_t number = 0; number < tables_.size(); ++number) {
      check_closed(static_cast<int>(number));
      members.push_back({tables_[number]->array(), tables_[number]->dim, &mapping[number]});
    }
    made = CoreTables(members, threads_.num_threads());
  }
  const int64_t before = core_tables_.bytes();
  core_tables_ = std::move(made);
  threads_.pin(!core_tables_.empty());
  std::lock_guard<std::mutex> stats_lock(stats_mutex_);
  stats_.dram_bytes += core_tables_.bytes() - before;
}

bool RowStore::has_mapping() const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  return !core_tables_.empty();
}

int RowStore::num_tables() const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  return static_cast<int>(tables_.size());
}

bool RowStore::reads_ssd() const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  return !ssd_.bands.empty();
}

bool RowStore::rows_in_dram() const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  return std::all_of(tables_.begin(), tables_.end(),
                     [](const auto& table) { return !table->has_ssd && !table->has_tt; });
}

int64_t RowStore::num_embeddings(int table) const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  return checked_table(table).num_embeddings;
}

int64_t RowStore::embedding_dim(int table) const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  return checked_table(table).dim;
}

int64_t RowStore::total_dim() const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  int64_t total = 0;
  for (const auto& table : tables_) total += table->dim;
  return total;
}

// ----------------------------------------------------------------------------------------------------
// look-ups

void RowStore::check_closed(int table) const {
  if (checked_table(table).closed) return;
  throw std::invalid_argument("table " + text(table) + " has no last band; add one that takes every id");
}

void RowStore::check_request(const LookupRequest& request, int64_t first, int64_t count) const {
  const int64_t size = request.batch_size, bags = static_cast<int64_t>(tables_.size()) * size;
  if (size < 0 || first < 0 || count < 0 || first > size - count) {
    throw std::invalid_argument("batch_size: samples " + text(first) + " to " + text(first + count) +
                                " are not within a batch of " + text(size));
  }
  const int64_t* offsets = request.offsets;
  if (offsets[0] != 0 || offsets[bags] != request.num_ids) {
    throw std::invalid_argument("offsets: must run from 0 to the number of ids (" + text(request.num_ids) +
                                "), got " + text(offsets[0]) + " to " + text(offsets[bags]));
  }
}

void RowStore::check_offsets(const LookupRequest& request, size_t table, int64_t first, int64_t count) const {
  const int64_t begin = static_cast<int64_t>(table) * request.batch_size + first;
  const int64_t* own = request.offsets + begin;
  // Sign bits collect what is wrong; differences of numbers >= 0 cannot overflow.
  std::uint64_t wrong = static_cast<std::uint64_t>(own[0] | own[count]);
  wrong |= static_cast<std::uint64_t>(request.num_ids) - static_cast<std::uint64_t>(own[count]);
  for (int64_t i = 0; i < count; ++i) {
    const auto low = static_cast<std::uint64_t>(own[i]), high = static_cast<std::uint64_t>(own[i + 1]);
    wrong |= low | (high - low);
  }
  if ((wrong >> 63) == 0) return;
  for (int64_t i = 0; i <= count; ++i) {
    const std::string where = " (table " + std::to_string(table) + ", sample " + text(first + i) + ")";
    const std::string name = "offsets[" + text(begin + i) + "] is " + text(own[i]);
    if (own[i] < 0 || own[i] > request.num_ids) {
      throw std::invalid_argument(name + where + ", there are " + text(request.num_ids) + " ids");
    }
    if (i > 0 && own[i] < own[i - 1]) {
      throw std::invalid_argument(name + where + ", below the " + text(own[i - 1]) +
                                  " before it; offsets must not decrease");
    }
  }
}

int64_t RowStore::scratch_bytes(const LookupRequest& request, int64_t first, int64_t count) const {
  int64_t bytes = 0;
  for (size_t table = 0; table < tables_.size(); ++table) {
    const int64_t* own = request.offsets + static_cast<int64_t>(table) * request.batch_size + first;
    bytes += (own[count] - own[0]) * Lookup::scratch_bytes(*tables_[table]);
  }
  return bytes;
}

// The reader is made for the first look-up in flight that finds none.
PageReader* RowStore::reader_of(LookupContext& context) {
  if (!context.reader && !ssd_.bands.empty()) context.reader = make_page_reader(io_, queue_depth_);
  return context.reader.get();
}

void RowStore::set_up(LookupContext& context, const LookupRequest& request, int64_t first, int64_t count,
                      float* out, int64_t sample_stride, DataFlow flow) const {
  for (size_t table = 0; table < tables_.size(); ++table) check_closed(static_cast<int>(table));
  check_request(request, first, count);
  for (size_t table = 0; table < tables_.size(); ++table) check_offsets(request, table, first, count);
  context.request = request;
  context.flow = flow;
  context.first = first;
  context.count = count;
  context.out = out;
  context.sample_stride = sample_stride;
}

Segment RowStore::segment_of(const LookupRequest& request, int table, int64_t first, int64_t count,
                             float* out, int64_t sample_stride) const {
  const int64_t* own = request.offsets + table * request.batch_size + first;
  return {tables_[static_cast<size_t>(table)].get(),
          table,
          request.ids,
          own,
          own[0],
          own[count] - own[0],
          count,
          out,
          sample_stride};
}

Segment RowStore::segment_of(const CoreTables::Part& part, const LookupRequest& request, int64_t first,
                             int64_t count, float* out, int64_t sample_stride) const {
  const int64_t begin = count * part.sample_part / part.sample_parts;
  const int64_t end = count * (part.sample_part + 1) / part.sample_parts;
  Segment segment = segment_of(request, part.table, first + begin, end - begin,
                               out + begin * sample_stride + part.first_column, sample_stride);
  segment.part = &part;
  return segment;
}

void RowStore::add_segments(LookupContext& context) const {
  const bool parted = context.flow == DataFlow::kAsymmetric;
  if (parted && core_tables_.empty()) {
    throw std::logic_error("mapping: there is none; set it before look-ups in the asymmetric data flow");
  }
  context.segments.clear();
  for (const bool has_ssd : {true, false}) {  // tables with rows to wait for go first
    float* out = context.out;
    for (size_t number = 0; number < tables_.size(); ++number) {
      const Table& table = *tables_[number];
      if (table.has_ssd == has_ssd && !(parted && core_tables_.has_parts(number))) {
        context.segments.push_back(segment_of(context.request, static_cast<int>(number), context.first,
                                              context.part, out, context.sample_stride));
      }
      out += table.dim;
    }
  }
  if (!parted) return;
  for (const CoreTables::Part& part : core_tables_.parts()) {
    context.segments.push_back(
        segment_of(part, context.request, context.first, context.part, context.out, context.sample_stride));
  }
}

void RowStore::lookup_part(const CoreTables::Part& part, const LookupRequest& request, int64_t first,
                           int64_t count, float* out, int64_t sample_stride) const {
  check_request(request, first, count);
  check_offsets(request, static_cast<size_t>(part.table), first, count);
  Lookup::pool_part(segment_of(part, request, first, count, out, sample_stride));
}

bool RowStore::has_all_parts() const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  return !core_tables_.empty() && core_tables_.has_all_parts();
}

const std::vector<CoreTables::Part>& RowStore::all_parts() const {
  if (core_tables_.empty() || !core_tables_.has_all_parts()) {
    throw std::logic_error("mapping: there is none of all tables any more; set it and the data flow anew");
  }
  return core_tables_.parts();
}

void RowStore::count_lookups(int64_t lookups) {
  LookupCounts counts;
  counts.lookups = counts.dram_rows = lookups;
  count(counts);
}

void RowStore::begin_part(LookupContext& context) {
  context.part = context.count;
  while (context.part > 1 && scratch_bytes(context.request, context.first, context.part) > kScratchBytes) {
    context.part = (context.part + 1) / 2;
  }
  add_segments(context);
  context.lookup.begin(context.segments, ssd_, reader_of(context));
}

void RowStore::finish_part(LookupContext& context) {
  count(context.lookup.finish(context.segments, ssd_));
  context.first += context.part;
  context.count -= context.part;
  context.out += context.part * context.sample_stride;
}

void RowStore::lookup(const LookupRequest& request, int64_t first, int64_t count, float* out,
                      int64_t sample_stride, DataFlow flow) {
  if (lookup_few(request, first, count, out, sample_stride, flow)) return;
  const InUse context(contexts_, false);
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  context->lookup.use(threads_);
  set_up(*context, request, first, count, out, sample_stride, flow);
  while (context->count > 0) {
    begin_part(*context);
    finish_part(*context);
  }
}

bool RowStore::lookup_few(const LookupRequest& request, int64_t first, int64_t count, float* out,
                          int64_t sample_stride, DataFlow flow) {
  if (request.num_ids > Lookup::kFew || flow != DataFlow::kSymmetric) return false;
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  if (!all_whole_) return false;
  check_request(request, first, count);
  const int num_tables = static_cast<int>(tables_.size());
  int64_t lookups = 0;
  for (int table = 0; table < num_tables; ++table) {
    check_offsets(request, static_cast<size_t>(table), first, count);
    const Segment segment = segment_of(request, table, first, count, nullptr, sample_stride);
    Lookup::prefetch_checked(segment);
    lookups += segment.num_ids;
  }
  for (int table = 0; table < num_tables; ++table) {
    Lookup::pool_checked(segment_of(request, table, first, count, out, sample_stride));
    out += tables_[static_cast<size_t>(table)]->dim;
  }
  count_lookups(lookups);
  return true;
}

void RowStore::lookup_alone(LookupContext& context, const LookupRequest& request, int64_t first,
                            int64_t count, float* out, int64_t sample_stride, int thread) {
  context.lookup.use_caller(thread);
  set_up(context, request, first, count, out, sample_stride, DataFlow::kSymmetric);
  while (context.count > 0) {
    begin_part(context);
    finish_part(context);
  }
}

void RowStore::prefetch(const LookupRequest& request, int64_t first, int64_t count) const {
  for (size_t number = 0; number < tables_.size(); ++number) {
    const Table& table = *tables_[number];
    if (table.whole() == nullptr) continue;
    const int64_t* own = request.offsets + static_cast<int64_t>(number) * request.batch_size + first;
    const int64_t begin = std::max<int64_t>(own[0], 0), end = std::min(own[count], request.num_ids);
    Lookup::prefetch_rows(table.strategy.rows(0).array, request.ids + begin, end - begin);
  }
}

Ticket RowStore::begin(const LookupRequest& request, int64_t first, int64_t count, float* out,
                       int64_t sample_stride, DataFlow flow) {
  return begin(request, first, count, out, sample_stride, flow, threads_);
}

Ticket RowStore::begin(const LookupRequest& request, int64_t first, int64_t count, float* out,
                       int64_t sample_stride, DataFlow flow, ThreadPool& threads) {
  InUse context(contexts_, true);
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  context->lookup.use(threads);
  set_up(*context, request, first, count, out, sample_stride, flow);
  begin_part(*context);
  return Ticket(*this, context.keep());
}

LookupContext* Ticket::take() {
  LookupContext* const context = context_.load();
  if (context == nullptr) return nullptr;
  std::lock_guard<std::mutex> lock(context->mutex);
  return context_.exchange(nullptr);
}

Ticket::~Ticket() {
  if (LookupContext* const context = take()) {
    context->lookup.abandon();
    store_.contexts_.release(*context, true);
  }
}

void Ticket::poll() {
  LookupContext* const context = context_.load();
  if (context == nullptr) return;
  std::lock_guard<std::mutex> lock(context->mutex);
  if (context_.load() == context) context->lookup.poll();  // else it is another's by now
}

void Ticket::finish() {
  LookupContext* const taken = take();
  if (taken == nullptr) throw std::runtime_error("ticket: its look-up is finished already");
  const InUse context(store_.contexts_, *taken);
  std::shared_lock<WriterFirstMutex> lock(store_.tables_mutex_);
  store_.finish_part(*context);
  while (context->count > 0) {
    store_.begin_part(*context);
    store_.finish_part(*context);
  }
}

void RowStore::gather(int number, const int64_t* ids, int64_t n, float* out) {
  const InUse context(contexts_, false);
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  context->lookup.use(threads_);
  const Table& table = checked_table(number);
  check_closed(number);
  const int64_t most = kScratchBytes / std::max<int64_t>(1, Lookup::scratch_bytes(table));
  for (int64_t first = 0; first < n; first += most) {
    const int64_t part = std::min(most, n - first);
    context->segments.clear();
    context->segments.push_back(
        {&table, number, ids, nullptr, first, part, part, out + first * table.dim, table.dim});
    context->lookup.begin(context->segments, ssd_, reader_of(*context));
    count(context->lookup.finish(context->segments, ssd_));
  }
}

// ----------------------------------------------------------------------------------------------------
// statistics

void RowStore::count(const LookupCounts& counts) {
  std::lock_guard<std::mutex> lock(stats_mutex_);
  stats_.lookups += counts.lookups;
  stats_.dram_rows += counts.dram_rows;
  stats_.tt_rows += counts.tt_rows;
  stats_.ssd_rows += counts.ssd_rows;
  stats_.default_rows += counts.ssd.default_rows;
  stats_.updated_lookups += counts.ssd.updated_rows + counts.updated_tt_rows;
  stats_.page_requests += counts.ssd.page_requests;
  stats_.pages_read += counts.ssd.pages_read;
  stats_.bytes_read += counts.ssd.pages_read * kPageBytes;
  stats_.cache_hits += counts.ssd.cache_hits;
  stats_.cache_misses += counts.ssd.cache_misses;
  stats_.cache_admissions += counts.ssd.cache_admissions;
}

StoreStats RowStore::stats() const {
  std::lock_guard<std::mutex> lock(stats_mutex_);
  return stats_;
}

}  // namespace screc
