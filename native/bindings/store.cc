#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "store/index.h"
#include "store/page.h"

namespace screc::bindings {
namespace {

template <typename Array>
void check_page_shape(const Array& pages, const char* name) {
  if (pages.shape(1) != static_cast<std::size_t>(kPageBytes)) {
    throw nb::value_error(
        (std::string(name) + ": expected shape [pages, 4096], got " + shape_text(pages)).c_str());
  }
}

void check_first_page(std::int64_t first_page) {
  if (first_page < 0) {
    throw nb::value_error(("first_page: must not be negative, got " + std::to_string(first_page)).c_str());
  }
}

void fill(const AnyConstArray& rows, std::uint32_t table, std::uint32_t band, std::int64_t first_page,
          const AnyArray& out) {
  const auto* source = checked<std::uint8_t>(rows, "rows", 2);
  auto* target = checked<std::uint8_t>(out, "out", 2);
  check_page_shape(out, "out");
  check_first_page(first_page);
  const auto num_rows = static_cast<std::int64_t>(rows.shape(0));
  if (rows.shape(1) == 0) throw nb::value_error("rows: must have at least one byte per row");
  const PageGeometry geometry = PageGeometry::of(static_cast<std::int64_t>(rows.shape(1)));
  const std::int64_t num_pages = geometry.num_pages(num_rows);
  if (out.shape(0) != static_cast<std::size_t>(num_pages)) {
    throw nb::value_error(("out: " + std::to_string(num_rows) + " rows of " + std::to_string(rows.shape(1)) +
                           " bytes need shape [" + std::to_string(num_pages) + ", 4096], got " +
                           shape_text(out))
                              .c_str());
  }
  nb::gil_scoped_release release;
  fill_pages(source, num_rows, geometry, {table, band}, first_page, target);
}

std::int64_t first_damaged(const AnyConstArray& pages, std::uint32_t table, std::uint32_t band,
                           std::int64_t first_page) {
  const auto* data = checked<std::uint8_t>(pages, "pages", 2);
  check_page_shape(pages, "pages");
  check_first_page(first_page);
  nb::gil_scoped_release release;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(pages.shape(0)); ++i) {
    if (!page_is_good(data + i * kPageBytes, {table, band}, first_page + i)) return i;
  }
  return -1;
}

void build_hash(const AnyConstArray& ids, const AnyConstArray& slots, const AnyArray& keys_out,
                const AnyArray& slots_out) {
  const auto* id = checked<std::int64_t>(ids, "ids", 1);
  const auto* slot = checked<std::uint32_t>(slots, "slots", 1);
  auto* keys = checked<std::int64_t>(keys_out, "keys_out", 1);
  auto* key_slots = checked<std::uint32_t>(slots_out, "slots_out", 1);
  if (slots.shape(0) != ids.shape(0)) {
    throw nb::value_error(("slots: expected " + std::to_string(ids.shape(0)) + " entries as in ids, got " +
                           std::to_string(slots.shape(0)))
                              .c_str());
  }
  if (slots_out.shape(0) != keys_out.shape(0)) {
    throw nb::value_error(("slots_out: expected " + std::to_string(keys_out.shape(0)) +
                           " entries as in keys_out, got " + std::to_string(slots_out.shape(0)))
                              .c_str());
  }
  nb::gil_scoped_release release;
  build_hash_index(id, slot, static_cast<std::int64_t>(ids.shape(0)), keys, key_slots,
                   static_cast<std::int64_t>(keys_out.shape(0)));
}

}  // namespace

void bind_store(nb::module_& module) {
  module.def(
      "fill_pages", fill, nb::arg("rows"), nb::arg("table"), nb::arg("band"), nb::arg("first_page"),
      nb::arg("out"),
      "Packs rows (uint8 [n, row_bytes]) into out (uint8 [p, 4096]), pages numbered from first_page.\n\n"
      "To write a band in pieces, all but the last must have a multiple of the rows that fit a page.");
  module.def(
      "check_pages", first_damaged, nb::arg("pages"), nb::arg("table"), nb::arg("band"),
      nb::arg("first_page"),
      "Index of the first page of pages (uint8 [p, 4096]) that is damaged or not page first_page + index of\n"
      "that table and band; -1 when all are good.");
  module.def(
      "build_hash_index", build_hash, nb::arg("ids"), nb::arg("slots"), nb::arg("keys_out"),
      nb::arg("slots_out"),
      "Fills the hash index (docs/format.md) of ids (int64 [n], unique) and their slots (uint32 [n]) into\n"
      "keys_out (int64 [c], c > n) and slots_out (uint32 [c]).");
}

}  // namespace screc::bindings
