// Fetches the rows of one call that stand on SSD: each page is read once, however many rows are wanted of it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "io/page_reader.h"
#include "store/band.h"

namespace screc {

// A look-up that ended in an SSD band. Ordering by key orders by band, then slot.
struct WantedRow {
  static constexpr int kSlotBits = 44;
  WantedRow(std::uint64_t band, std::int64_t slot, std::int64_t position)
      : key(band << kSlotBits | static_cast<std::uint64_t>(slot)), position(position) {}
  std::uint64_t band() const { return key >> kSlotBits; }
  std::int64_t slot() const { return static_cast<std::int64_t>(key & ((std::uint64_t{1} << kSlotBits) - 1)); }

  std::uint64_t key;
  std::int64_t position;  // of the look-up among those of the call
};

class SsdRows final : private PageSink {
 public:
  // Reads the rows and points pointers[position] at them; they stay until the next call. Sorts `wanted`.
  // Throws IoError for pages that cannot be read or are damaged.
  void fetch(PageReader& reader, const std::vector<const Band*>& bands, std::vector<WantedRow>& wanted,
             const void** pointers);

  // Of the last fetch.
  std::int64_t page_requests() const { return page_requests_; }  // pages of all look-ups
  std::int64_t pages_read() const { return static_cast<std::int64_t>(requests_.size()); }

 private:
  struct Row {
    std::int64_t slot;
    char* target;
  };
  // What to do with the page of the request of the same index.
  struct Page {
    const Band* band;
    std::int64_t first_row, last_row;  // of rows_, exclusive
  };

  void plan(const std::vector<const Band*>& bands, const std::vector<WantedRow>& wanted);
  void page_read(std::int64_t index, const unsigned char* data) override;

  std::vector<Row> rows_;
  std::vector<Page> pages_;
  std::vector<PageRequest> requests_;
  AlignedBuffer arena_;
  std::int64_t page_requests_ = 0;
};

}  // namespace screc
