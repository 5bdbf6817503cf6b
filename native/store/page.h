// Pages of SSD bands (docs/format.md, "Pages"): the header, its checks, and where rows stand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "io/page_file.h"

namespace screc {

inline constexpr std::int64_t kPageHeaderBytes = 32;
inline constexpr std::int64_t kPagePayloadBytes = kPageBytes - kPageHeaderBytes;

struct PageHeader {
  std::uint32_t checksum;  // CRC32C of the page's other 4092 bytes
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t flags;
  std::uint32_t table;
  std::uint64_t page;  // its number in the file
  std::uint32_t band;
  std::uint32_t used;  // payload bytes
};
static_assert(sizeof(PageHeader) == kPageHeaderBytes && offsetof(PageHeader, page) == 16);

// Whole rows per page, or whole pages per row for rows longer than a payload.
struct PageGeometry {
  std::int64_t row_bytes;
  std::int64_t rows_per_page;
  std::int64_t pages_per_row;

  // row_bytes must be positive.
  static PageGeometry of(std::int64_t row_bytes);

  std::int64_t num_pages(std::int64_t num_rows) const {
    return (num_rows + rows_per_page - 1) / rows_per_page * pages_per_row;
  }
  std::int64_t first_page(std::int64_t slot) const { return slot / rows_per_page * pages_per_row; }
  // Payload bytes that a band of `num_rows` rows uses in its page `page`.
  std::int64_t used(std::int64_t num_rows, std::int64_t page) const;
};

// What a page should be: the band it belongs to.
struct PageOwner {
  std::uint32_t table;
  std::uint32_t band;
};

// Packs `num_rows` rows into pages numbered from `first_page`. `out` has room for num_pages(num_rows) pages.
void fill_pages(const unsigned char* rows, std::int64_t num_rows, const PageGeometry& geometry,
                PageOwner owner, std::int64_t first_page, unsigned char* out);

// True when the page is whole and is page `page` of `owner`. `used` < 0: any valid number of payload bytes.
bool page_is_good(const unsigned char* data, PageOwner owner, std::int64_t page, std::int64_t used = -1);

// Throws IoError "page 17 of FILE (table 3, band 2) is damaged: REASON" unless page_is_good.
void check_page(const unsigned char* data, PageOwner owner, std::int64_t page, std::int64_t used,
                const std::string& path);

}  // namespace screc
