// Fetches the rows of one call that stand on SSD: rows that the cache holds are copied from it, and of the
// others each page is read once, however many rows are wanted of it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/aligned_buffer.h"
#include "io/page_reader.h"
#include "store/band.h"
#include "store/row_cache.h"

namespace screc {

// A look-up that ended in an SSD band. Ordering by key orders by band, then slot.
struct WantedRow {
  static constexpr int kSlotBits = 44;
  WantedRow(std::uint64_t band, std::int64_t slot, std::int64_t position)
      : key(band << kSlotBits | static_cast<std::uint64_t>(slot)), position(position) {}
  static std::uint64_t band_of(std::uint64_t key) { return key >> kSlotBits; }
  static std::int64_t slot_of(std::uint64_t key) {
    return static_cast<std::int64_t>(key & ((std::uint64_t{1} << kSlotBits) - 1));
  }

  std::uint64_t key;
  std::int64_t position;  // of the look-up among those of the call
};

// What look-ups in flight may still read when the pages of a band have been replaced.
struct PagesInUse {
  std::vector<std::shared_ptr<const void>> retired;
};

// The SSD bands of a store and their cache.
struct SsdBands {
  std::vector<const Band*> bands;  // by number
  std::mutex cache_mutex;          // calls of several threads share the cache
  RowCache cache;
  // Another one once the pages of a band are replaced; the one before holds what was replaced.
  std::shared_ptr<PagesInUse> pages = std::make_shared<PagesInUse>();
};

struct SsdCounts {
  std::int64_t default_rows = 0;   // look-ups of rows whose page was never written
  std::int64_t updated_rows = 0;   // look-ups of rows that were updated
  std::int64_t page_requests = 0;  // pages of all other look-ups
  std::int64_t pages_read = 0;
  std::int64_t cache_hits = 0, cache_misses = 0;  // distinct rows
  std::int64_t cache_admissions = 0;
};

class SsdRows final : private PageSink {
 public:
  // Points pointers[position] at the place of each row, which finish() fills and which stays until the next
  // begin(), and starts to read; the reader must stay until finish() or abandon(). Sorts `wanted`. Throws
  // IoError when the reader cannot read any more.
  void begin(PageReader& reader, SsdBands& ssd, std::vector<WantedRow>& wanted, const void** pointers);
  // Lets the reads go on, without waiting.
  void poll() {
    if (reader_ != nullptr) reader_->poll();
  }
  // Waits for the rows and offers them to the cache. Throws IoError for pages that cannot be read or are
  // damaged.
  void finish();
  // Gives the rows up; waits for reads in flight. Nothing to do after finish().
  void abandon() noexcept;

  // Of the last begin() and finish().
  const SsdCounts& counts() const { return counts_; }

 private:
  struct Row {
    std::uint64_t key;
    std::byte* target;
  };
  // What to do with the page of the request of the same index.
  struct Page {
    const Band* band;
    std::int64_t first_row, last_row;  // of rows_, exclusive
  };
  struct Hit {
    const std::byte* row;
    std::byte* target;
    std::int64_t row_bytes;
  };

  // Gives every distinct row a place and lists those that stand in a page in rows_.
  void place(const SsdBands& ssd, const std::vector<WantedRow>& wanted, const void** pointers);
  // Takes the rows that the cache holds out of rows_.
  void take_held(SsdBands& ssd);
  void list_pages(const SsdBands& ssd);
  void page_read(std::int64_t index, const unsigned char* data) override;

  std::vector<Row> rows_;
  std::vector<Hit> hits_;
  std::vector<Page> pages_;
  std::vector<PageRequest> requests_;
  AlignedBuffer arena_;
  SsdCounts counts_;
  SsdBands* ssd_ = nullptr;
  std::shared_ptr<PagesInUse> in_use_;
  PageReader* reader_ = nullptr;  // between begin() and finish()
};

}  // namespace screc
