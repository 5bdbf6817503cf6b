#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/tuple.h>

#include <filesystem>
#include <memory>
#include <utility>

#include "bindings/arrays.h"
#include "bindings/band_index.h"
#include "bindings/bindings.h"
#include "store/row_store.h"

namespace screc::bindings {
namespace {

RowUpdate prepare(RowStore& store, int table, const AnyConstArray& ids, const AnyConstArray& rows) {
  const auto* id = checked<std::int64_t>(ids, "ids", 1);
  const auto* row = checked<float>(rows, "rows", 2);
  const std::int64_t dim = released([&] { return store.embedding_dim(table); });
  if (rows.shape(0) != ids.shape(0) || rows.shape(1) != static_cast<std::size_t>(dim)) {
    throw nb::value_error(("rows: expected shape [" + std::to_string(ids.shape(0)) + ", " +
                           std::to_string(dim) + "], got " + shape_text(rows))
                              .c_str());
  }
  nb::gil_scoped_release release;
  return store.prepare_update(table, id, static_cast<std::int64_t>(ids.shape(0)), row);
}

void allow_updates(RowStore& store, int table, int band, const AnyArray& rows) {
  nb::gil_scoped_release release;
  store.allow_updates(table, band, rows.data());
}

auto held_rows(const RowStore& store, int table, int band, std::uint64_t stamp) {
  RowStore::HeldRows held = released([&] { return store.held_rows(table, band, stamp); });
  return std::tuple(adopt(std::move(held.slots)), adopt(std::move(held.ids)), adopt(std::move(held.rows)));
}

void replace_pages(RowStore& store, int table, int band, const std::filesystem::path& path,
                   std::uint64_t stamp, nb::handle written, nb::handle default_row) {
  const RowCodec codec = released([&] { return store.held_rows(table, band, 0).codec; });
  auto pages = written_pages(written, default_row, codec);
  if (pages != nullptr) pages->own();
  nb::gil_scoped_release release;
  store.replace_pages(table, band, path.string(), stamp, std::move(pages));
}

}  // namespace

void bind_row_updates(nb::module_& module, nb::class_<RowStore>& store) {
  nb::class_<RowUpdate>(module, "RowUpdate",
                        "New rows of one table, encoded as its bands hold rows (RowStore.prepare_update).")
      .def_prop_ro(
          "num_rows", [](const RowUpdate& update) { return update.changes.size(); }, "Rows.")
      .def_ro("held_bytes", &RowUpdate::held_bytes,
              "Bytes by which StoreStats.held_bytes may grow when it is applied, at most.");

  store
      .def("allow_updates", allow_updates, nb::arg("table"), nb::arg("band"), nb::arg("rows"),
           "Lets updates write the rows of a band in DRAM: those that it was added with. Raises ValueError "
           "for "
           "others.")
      .def("prepare_update", prepare, nb::arg("table"), nb::arg("ids"), nb::arg("rows"),
           nb::keep_alive<0, 1>(),
           "New rows (float32 [n, dim]) for ids (int64 [n]) of a table, encoded; nothing changes yet. Raises "
           "ValueError\n"
           "naming the position of an id outside the table, of a value that is not finite or that the row's "
           "format cannot\n"
           "hold, and for a band in DRAM that may not be written.")
      .def("apply_update", &RowStore::apply, nb::arg("update"), nb::call_guard<nb::gil_scoped_release>(),
           "Look-ups that begin later see the new rows, those in progress the old or the new of each; of an "
           "id "
           "that is\n"
           "in the update twice, the last. Rows in DRAM are written in their place, others are held before "
           "their pages\n"
           "and cores. Returns the update's stamp: 1 and up.")
      .def_prop_ro("last_stamp", &RowStore::last_stamp,
                   "Stamp of the last update that was applied; 0 before.")
      .def("held_rows", held_rows, nb::arg("table"), nb::arg("band"), nb::arg("stamp"),
           "(slots int64 [n], ids int64 [n], rows uint8 [n * row_bytes]) of the held rows of a band that "
           "updates up to\n"
           "`stamp` wrote, in the order of their slots.")
      .def(
          "replace_pages", replace_pages, nb::arg("table"), nb::arg("band"), nb::arg("path"),
          nb::arg("stamp"), nb::arg("written").none() = nb::none(),
          nb::arg("default_row").none() = nb::none(),
          "Serves an SSD band from another file, which has the held rows of updates up to `stamp`: these are "
          "held no\n"
          "longer. Look-ups in progress read the file before. written, default_row: as for add_ssd_band, of "
          "a "
          "sparse\n"
          "band; copied. Raises OSError as add_ssd_band does; nothing has changed then.");
}

}  // namespace screc::bindings
