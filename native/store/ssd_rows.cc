#include "store/ssd_rows.h"

#include <algorithm>
#include <cstring>

namespace screc {

void SsdRows::plan(const std::vector<const Band*>& bands, const std::vector<WantedRow>& wanted) {
  rows_.clear();
  pages_.clear();
  requests_.clear();
  page_requests_ = 0;
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (i == 0 || wanted[i].key != wanted[i - 1].key) bytes += bands[wanted[i].band()]->geometry.row_bytes;
  }
  if (arena_.size() < static_cast<std::size_t>(bytes)) {
    arena_ = AlignedBuffer();  // not both at once
    arena_ = AlignedBuffer(static_cast<std::size_t>(bytes + bytes / 2));
  }
  char* target = arena_.as<char>();
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Band& band = *bands[wanted[i].band()];
    const PageGeometry& geometry = band.geometry;
    page_requests_ += geometry.pages_per_row;
    if (i > 0 && wanted[i].key == wanted[i - 1].key) continue;
    const std::int64_t slot = wanted[i].slot();
    const auto row = static_cast<std::int64_t>(rows_.size());
    rows_.push_back({slot, target});
    target += geometry.row_bytes;
    const std::int64_t first = geometry.first_page(slot);
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
  check_page(data, band.owner, number, used, band.file->path());
  const unsigned char* payload = data + kPageHeaderBytes;
  if (geometry.pages_per_row > 1) {
    const std::int64_t part = number % geometry.pages_per_row;
    char* target = rows_[static_cast<std::size_t>(page.first_row)].target;
    std::memcpy(target + part * kPagePayloadBytes, payload, static_cast<std::size_t>(used));
    return;
  }
  for (std::int64_t row = page.first_row; row < page.last_row; ++row) {
    const auto [slot, target] = rows_[static_cast<std::size_t>(row)];
    const std::int64_t offset = slot % geometry.rows_per_page * geometry.row_bytes;
    std::memcpy(target, payload + offset, static_cast<std::size_t>(geometry.row_bytes));
  }
}

void SsdRows::fetch(PageReader& reader, const std::vector<const Band*>& bands, std::vector<WantedRow>& wanted,
                    const float** pointers) {
  std::sort(wanted.begin(), wanted.end(),
            [](const WantedRow& a, const WantedRow& b) { return a.key < b.key; });
  plan(bands, wanted);
  reader.start(requests_.data(), pages_read(), *this);
  reader.finish();
  std::size_t row = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (i > 0 && wanted[i].key != wanted[i - 1].key) ++row;
    pointers[wanted[i].position] = reinterpret_cast<const float*>(rows_[row].target);
  }
}

}  // namespace screc
