#include "store/ssd_rows.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace screc {
namespace {

// Rows in fp32 must be aligned even after rows of other formats.
std::int64_t padded(std::int64_t row_bytes) { return (row_bytes + 3) / 4 * 4; }

// Rows between the stages in which the cache's memory is asked for.
constexpr std::size_t kAhead = 8;

std::uint64_t band_of(std::uint64_t key) { return WantedRow::band_of(key); }
std::int64_t slot_of(std::uint64_t key) { return WantedRow::slot_of(key); }

}  // namespace

void SsdRows::place(const SsdBands& ssd, const std::vector<WantedRow>& wanted, const void** pointers) {
  rows_.clear();
  hits_.clear();
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (i > 0 && wanted[i].key == wanted[i - 1].key) continue;
    bytes += padded(ssd.bands[band_of(wanted[i].key)]->geometry.row_bytes);
  }
  if (arena_.size() < static_cast<std::size_t>(bytes)) {
    arena_ = AlignedBuffer();  // not both at once
    arena_ = AlignedBuffer(static_cast<std::size_t>(bytes + bytes / 2));
  }
  auto* next = arena_.as<std::byte>();
  const std::byte* row = nullptr;
  std::int64_t* count = nullptr;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Band& band = *ssd.bands[band_of(wanted[i].key)];
    if (i == 0 || wanted[i].key != wanted[i - 1].key) {
      const std::int64_t slot = slot_of(wanted[i].key), row_bytes = band.geometry.row_bytes;
      if (const std::byte* const updated = band.updated_row(slot)) {
        // Copied, for it may be updated again before finish().
        std::memcpy(next, updated, static_cast<std::size_t>(row_bytes));
        count = &counts_.updated_rows;
        row = next;
        next += padded(row_bytes);
      } else if (row = band.default_row(slot); row != nullptr) {
        count = &counts_.default_rows;
      } else {
        rows_.push_back({wanted[i].key, next});
        count = nullptr;
        row = next;
        next += padded(row_bytes);
      }
    }
    if (count == nullptr) {
      counts_.page_requests += band.geometry.pages_per_row;
    } else {
      ++*count;
    }
    pointers[wanted[i].position] = row;
  }
}

void SsdRows::take_held(SsdBands& ssd) {
  const std::size_t num_rows = rows_.size();
  std::size_t left = 0;
  // The rows are copied before another call can make the cache replace them.
  std::lock_guard<std::mutex> lock(ssd.cache_mutex);
  for (std::size_t i = 0; i < num_rows; ++i) {
    for (int stage = 0; stage < CachedRows::kStages; ++stage) {
      const std::size_t coming = i + kAhead * static_cast<std::size_t>(CachedRows::kStages - stage);
      if (coming < num_rows) ssd.cache.prefetch(band_of(rows_[coming].key), rows_[coming].key, stage);
    }
    const Row row = rows_[i];
    if (const std::byte* held = ssd.cache.access(band_of(row.key), row.key)) {
      hits_.push_back({held, row.target, ssd.bands[band_of(row.key)]->geometry.row_bytes});
    } else {
      rows_[left++] = row;
    }
  }
  for (const Hit& hit : hits_) std::memcpy(hit.target, hit.row, static_cast<std::size_t>(hit.row_bytes));
  rows_.erase(rows_.begin() + static_cast<std::ptrdiff_t>(left), rows_.end());
}

void SsdRows::list_pages(const SsdBands& ssd) {
  pages_.clear();
  requests_.clear();
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Band& band = *ssd.bands[band_of(rows_[i].key)];
    const PageGeometry& geometry = band.geometry;
    const auto row = static_cast<std::int64_t>(i);
    const std::int64_t first = geometry.first_page(slot_of(rows_[i].key));
    if (geometry.pages_per_row == 1 && !pages_.empty() && pages_.back().band == &band &&
        requests_.back().page == first) {
      pages_.back().last_row = row + 1;
      continue;
    }
    for (std::int64_t part = 0; part < geometry.pages_per_row; ++part) {
      requests_.push_back({band.file.get(), first + part});
      pages_.push_back({&band, row, row + 1});
    }
  }
}

void SsdRows::page_read(std::int64_t index, const unsigned char* data) {
  const Page& page = pages_[static_cast<std::size_t>(index)];
  const Band& band = *page.band;
  const PageGeometry& geometry = band.geometry;
  const std::int64_t number = requests_[static_cast<std::size_t>(index)].page;
  const std::int64_t used = geometry.used(band.num_rows, number);
  // The band may have another file by now.
  check_page(data, band.owner, number, used, requests_[static_cast<std::size_t>(index)].file->path());
  const unsigned char* payload = data + kPageHeaderBytes;
  if (geometry.pages_per_row > 1) {
    const std::int64_t part = number % geometry.pages_per_row;
    std::byte* target = rows_[static_cast<std::size_t>(page.first_row)].target;
    std::memcpy(target + part * kPagePayloadBytes, payload, static_cast<std::size_t>(used));
    return;
  }
  for (std::int64_t row = page.first_row; row < page.last_row; ++row) {
    const auto [key, target] = rows_[static_cast<std::size_t>(row)];
    const std::int64_t offset = slot_of(key) % geometry.rows_per_page * geometry.row_bytes;
    std::memcpy(target, payload + offset, static_cast<std::size_t>(geometry.row_bytes));
  }
}

void SsdRows::begin(PageReader& reader, SsdBands& ssd, std::vector<WantedRow>& wanted,
                    const void** pointers) {
  std::sort(wanted.begin(), wanted.end(),
            [](const WantedRow& a, const WantedRow& b) { return a.key < b.key; });
  counts_ = {};
  place(ssd, wanted, pointers);
  if (ssd.cache.bytes() > 0) take_held(ssd);
  counts_.cache_hits = static_cast<std::int64_t>(hits_.size());
  counts_.cache_misses = static_cast<std::int64_t>(rows_.size());
  list_pages(ssd);
  counts_.pages_read = static_cast<std::int64_t>(requests_.size());
  reader.start(requests_.data(), counts_.pages_read, *this);
  ssd_ = &ssd;
  in_use_ = ssd.pages;
  reader_ = &reader;
}

void SsdRows::finish() {
  if (reader_ == nullptr) return;
  const auto in_use = std::exchange(in_use_, nullptr);
  std::exchange(reader_, nullptr)->finish();
  // Rows of pages that have been replaced meanwhile may be old.
  if (ssd_->cache.bytes() == 0 || in_use != ssd_->pages) return;
  std::lock_guard<std::mutex> lock(ssd_->cache_mutex);
  for (const Row& row : rows_) {
    counts_.cache_admissions += ssd_->cache.offer(band_of(row.key), row.key, row.target);
  }
}

void SsdRows::abandon() noexcept {
  if (reader_ != nullptr) std::exchange(reader_, nullptr)->abandon();
  in_use_ = nullptr;
}

}  // namespace screc
