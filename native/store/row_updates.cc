// Updates of rows: RowStore's part of them. What makes them last is for whoever calls.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "store/row_store.h"

namespace screc {
namespace {

// Look-ups are kept out for the time of so many rows at once, a fraction of a millisecond.
constexpr size_t kRowsAtOnce = 512;

std::string text(int64_t value) { return std::to_string(value); }

int64_t find_slot(const BandIndex& index, int64_t id) {
  return std::visit([=](const auto& form) { return form.find(id); }, index);
}

void check_finite(const float* row, int64_t dim, int64_t number) {
  for (int64_t c = 0; c < dim; ++c) {
    if (std::isfinite(row[c])) continue;
    throw std::invalid_argument("rows[" + text(number) + ", " + text(c) + "] is " + std::to_string(row[c]) +
                                "; rows must be finite");
  }
}

int64_t written_bytes(const Band& band) {
  if (band.written == nullptr) return 0;
  return std::visit([](const auto& set) { return set.bytes(); }, band.written->groups);
}

}  // namespace

Band& RowStore::checked_band(int table, int band, const char* argument) {
  auto& bands = const_cast<Table&>(checked_table(table)).bands;
  if (band < 0 || band >= static_cast<int>(bands.size())) {
    throw std::invalid_argument(std::string(argument) + ": table " + std::to_string(table) + " has no band " +
                                std::to_string(band));
  }
  return bands[static_cast<size_t>(band)];
}

void RowStore::allow_updates(int table, int number, void* rows) {
  std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
  Band& band = checked_band(table, number, "band");
  if (band.kind != Band::Kind::kDram || band.rows != rows) {
    throw std::invalid_argument("rows: not those that band " + std::to_string(number) + " of table " +
                                std::to_string(table) + " was added with");
  }
  band.writable = static_cast<std::byte*>(rows);
}

RowUpdate RowStore::prepare_update(int number, const int64_t* ids, int64_t n, const float* rows) {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  const Table& table = checked_table(number);
  check_closed(number);
  RowUpdate update{number, {}, {}};
  update.changes.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] < 0 || ids[i] >= table.num_embeddings) {
      throw std::invalid_argument("ids[" + text(i) + "] is " + text(ids[i]) + ", outside table " +
                                  std::to_string(number) + " of " + text(table.num_embeddings) + " rows");
    }
    int64_t slot = -1;
    size_t b = 0;
    while ((slot = find_slot(table.bands[b].index, ids[i])) < 0) ++b;
    const Band& band = table.bands[b];
    if (band.kind == Band::Kind::kDram && band.writable == nullptr) {
      throw std::invalid_argument("table: rows of table " + std::to_string(number) + ", band " +
                                  std::to_string(b) + ", may only be read; open the artifact for updates");
    }
    check_finite(rows + i * table.dim, table.dim, i);
    const int64_t bytes = band.codec.row_bytes(), offset = static_cast<int64_t>(update.rows.size());
    // Rows of fp32 are read where they are, so they need their alignment.
    update.rows.resize(static_cast<size_t>(offset + (bytes + 3) / 4 * 4));
    encode_rows(band.codec, rows + i * table.dim, 1,
                reinterpret_cast<unsigned char*>(update.rows.data() + offset), i);
    update.changes.push_back({const_cast<Band*>(&band), slot, ids[i], offset});
    if (band.kind != Band::Kind::kDram) update.held_bytes += UpdatedRows::bytes_of(1, bytes);
  }
  return update;
}

std::uint64_t RowStore::apply(const RowUpdate& update) {
  std::lock_guard<std::mutex> updating(updates_mutex_);
  const std::uint64_t stamp = last_stamp_.load() + 1;
  int64_t rows = 0, bytes = 0;
  for (size_t first = 0; first < update.changes.size(); first += kRowsAtOnce) {
    const size_t last = std::min(update.changes.size(), first + kRowsAtOnce);
    std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
    int64_t first_column = 0;
    for (int t = 0; t < update.table; ++t) first_column += tables_[static_cast<size_t>(t)]->dim;
    Table& table = *tables_[static_cast<size_t>(update.table)];
    for (size_t i = first; i < last; ++i) {
      const auto& [band, slot, id, offset] = update.changes[i];
      const std::byte* row = update.rows.data() + offset;
      if (band->kind == Band::Kind::kDram) {
        const int64_t row_bytes = band->codec.row_bytes();
        std::memcpy(band->writable + slot * row_bytes, row, static_cast<size_t>(row_bytes));
        if (table.whole() == nullptr) continue;
        table.strategy.refresh(table.array(), slot);
        core_tables_.refresh(update.table, table.array(), first_column, slot);
        continue;
      }
      if (band->updated == nullptr) band->updated = std::make_unique<UpdatedRows>(band->codec.row_bytes());
      UpdatedRows& held = *band->updated;
      rows -= held.size(), bytes -= held.bytes();
      held.put(slot, id, stamp, row);
      rows += held.size(), bytes += held.bytes();
    }
  }
  last_stamp_.store(stamp);
  count_held(rows, bytes);
  std::lock_guard<std::mutex> lock(stats_mutex_);
  ++stats_.updates;
  stats_.updated_rows += static_cast<int64_t>(update.changes.size());
  return stamp;
}

void RowStore::count_held(int64_t rows, int64_t bytes) {
  std::lock_guard<std::mutex> lock(stats_mutex_);
  stats_.held_rows += rows;
  stats_.held_bytes += bytes;
  stats_.dram_bytes += bytes;
}

RowStore::HeldRows RowStore::held_rows(int table, int number, std::uint64_t stamp) const {
  std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
  const Band& band = const_cast<RowStore*>(this)->checked_band(table, number, "band");
  HeldRows held{{}, {}, {}, band.codec};
  if (band.updated == nullptr) return held;
  const std::vector<const UpdatedRows::Entry*> entries = band.updated->written_until(stamp);
  const auto row_bytes = static_cast<size_t>(band.codec.row_bytes());
  held.rows.resize(entries.size() * row_bytes);
  for (const UpdatedRows::Entry* entry : entries) {
    std::memcpy(held.rows.data() + held.slots.size() * row_bytes, entry->row.get(), row_bytes);
    held.slots.push_back(entry->slot);
    held.ids.push_back(entry->id);
  }
  return held;
}

void RowStore::replace_pages(int table, int number, const std::string& path, std::uint64_t stamp,
                             std::unique_ptr<const WrittenPages> sparse) {
  std::lock_guard<std::mutex> updating(updates_mutex_);
  Band* band;
  Band made{Band::Kind::kSsd, IdentityIndex{}, 0, {}};
  std::vector<int64_t> slots;
  {
    std::shared_lock<WriterFirstMutex> lock(tables_mutex_);
    band = &checked_band(table, number, "band");
    const std::string name = "band " + std::to_string(number) + " of table " + std::to_string(table);
    if (band->kind != Band::Kind::kSsd) throw std::invalid_argument("band: " + name + " has no pages");
    if ((band->written == nullptr) != (sparse == nullptr)) {
      throw std::invalid_argument("written: " + name + (sparse == nullptr ? " is" : " is not") + " sparse");
    }
    made.num_rows = band->num_rows;
    made.geometry = band->geometry;
    made.owner = band->owner;
    made.file = std::make_shared<const PageFile>(path);
    made.written = std::move(sparse);
    check_pages_of(made);
    if (band->updated != nullptr) {
      for (const UpdatedRows::Entry* entry : band->updated->written_until(stamp)) {
        slots.push_back(entry->slot);
      }
    }
  }
  {
    std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
    // Those who look up keep what they read until they finish.
    const auto before = std::exchange(ssd_.pages, std::make_shared<PagesInUse>());
    const int64_t grown = written_bytes(made) - written_bytes(*band);
    before->retired.push_back(std::exchange(band->file, made.file));
    before->retired.push_back(std::exchange(band->written, made.written));
    std::lock_guard<std::mutex> stats_lock(stats_mutex_);
    stats_.dram_bytes += grown;
    stats_.direct_io = stats_.direct_io && made.file->direct();
  }
  int64_t rows = 0, bytes = 0;
  for (size_t first = 0; first < slots.size(); first += kRowsAtOnce) {
    const size_t last = std::min(slots.size(), first + kRowsAtOnce);
    std::unique_lock<WriterFirstMutex> lock(tables_mutex_);
    std::lock_guard<std::mutex> cache_lock(ssd_.cache_mutex);
    UpdatedRows& held = *band->updated;
    rows -= held.size(), bytes -= held.bytes();
    for (size_t i = first; i < last; ++i) {
      // The cache may have the row as it was before.
      const WantedRow wanted(band->number, slots[i], 0);
      if (ssd_.cache.bytes() > 0) ssd_.cache.refresh(band->number, wanted.key, held.find(slots[i]));
      held.erase(slots[i]);
    }
    rows += held.size(), bytes += held.bytes();
  }
  count_held(rows, bytes);
}

}  // namespace screc
