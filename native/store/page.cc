#include "store/page.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "base/crc32c.h"

namespace screc {
namespace {

static_assert(std::endian::native == std::endian::little, "pages are little-endian");

constexpr std::uint32_t kMagic = 0x50524353;  // "SCRP"
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kChecksumBytes = 4;

PageHeader header_of(const unsigned char* data) {
  PageHeader header;
  std::memcpy(&header, data, sizeof(header));
  return header;
}

std::uint32_t checksum_of(const unsigned char* data) {
  return crc32c(data + kChecksumBytes, kPageBytes - kChecksumBytes);
}

std::string hexadecimal(std::uint32_t value) {
  char text[11];
  std::snprintf(text, sizeof(text), "0x%08x", value);
  return text;
}

std::string expected(const char* field, std::uint64_t found, std::uint64_t wanted) {
  return std::string(field) + " " + std::to_string(found) + ", expected " + std::to_string(wanted);
}

// Why the page is not good.
std::string fault(const unsigned char* data, PageOwner owner, std::int64_t page, std::int64_t used) {
  const PageHeader header = header_of(data);
  if (std::all_of(data, data + kPageBytes, [](unsigned char byte) { return byte == 0; })) {
    return "it is all zeros, as a hole in the file reads";
  }
  if (header.magic != kMagic) {
    return "it does not begin with the mark of a page (magic " + hexadecimal(header.magic) + ")";
  }
  const std::uint32_t checksum = checksum_of(data);
  if (checksum != header.checksum) {
    return "checksum " + hexadecimal(checksum) + ", expected " + hexadecimal(header.checksum);
  }
  if (header.version != kVersion) return expected("version", header.version, kVersion);
  if (header.flags != 0) return expected("flags", header.flags, 0);
  if (header.table != owner.table) return expected("table", header.table, owner.table);
  if (header.band != owner.band) return expected("band", header.band, owner.band);
  if (header.page != static_cast<std::uint64_t>(page)) return expected("page number", header.page, page);
  return expected("payload bytes", header.used, used < 0 ? kPagePayloadBytes : used);
}

}  // namespace

PageGeometry PageGeometry::of(std::int64_t row_bytes) {
  if (row_bytes <= kPagePayloadBytes) return {row_bytes, kPagePayloadBytes / row_bytes, 1};
  return {row_bytes, 1, (row_bytes + kPagePayloadBytes - 1) / kPagePayloadBytes};
}

std::int64_t PageGeometry::used(std::int64_t num_rows, std::int64_t page) const {
  if (pages_per_row == 1) return std::min(rows_per_page, num_rows - page * rows_per_page) * row_bytes;
  return std::min(kPagePayloadBytes, row_bytes - page % pages_per_row * kPagePayloadBytes);
}

void fill_pages(const unsigned char* rows, std::int64_t num_rows, const PageGeometry& geometry,
                PageOwner owner, std::int64_t first_page, unsigned char* out) {
  const std::int64_t num_pages = geometry.num_pages(num_rows);
  for (std::int64_t page = 0; page < num_pages; ++page, out += kPageBytes) {
    const std::int64_t used = geometry.used(num_rows, page);
    PageHeader header{0,           kMagic,
                      kVersion,    0,
                      owner.table, static_cast<std::uint64_t>(first_page + page),
                      owner.band,  static_cast<std::uint32_t>(used)};
    std::memcpy(out + kPageHeaderBytes, rows, static_cast<std::size_t>(used));
    std::memset(out + kPageHeaderBytes + used, 0, static_cast<std::size_t>(kPagePayloadBytes - used));
    std::memcpy(out, &header, sizeof(header));
    header.checksum = checksum_of(out);
    std::memcpy(out, &header, sizeof(header));
    rows += used;  // pages are filled in the order of the rows' bytes
  }
}

bool page_is_good(const unsigned char* data, PageOwner owner, std::int64_t page, std::int64_t used) {
  const PageHeader header = header_of(data);
  const bool used_fits = used < 0 ? header.used <= kPagePayloadBytes : header.used == used;
  return header.magic == kMagic && header.version == kVersion && header.flags == 0 &&
         header.table == owner.table && header.band == owner.band &&
         header.page == static_cast<std::uint64_t>(page) && used_fits && header.checksum == checksum_of(data);
}

void check_page(const unsigned char* data, PageOwner owner, std::int64_t page, std::int64_t used,
                const std::string& path) {
  if (page_is_good(data, owner, page, used)) return;
  throw IoError("page " + std::to_string(page) + " of " + path + " (table " + std::to_string(owner.table) +
                ", band " + std::to_string(owner.band) + ") is damaged: " + fault(data, owner, page, used));
}

}  // namespace screc
