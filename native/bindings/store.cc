#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/band_index.h"
#include "bindings/bindings.h"
#include "bindings/row_codec.h"
#include "store/index.h"
#include "store/page.h"
#include "store/row_store.h"

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

void add_dram_band(RowStore& store, int table, const AnyConstArray& rows, nb::handle index,
                   const std::string& format, const SharedScale& scale) {
  RowCodec codec = codec_of(format, released([&] { return store.embedding_dim(table); }), scale);
  const void* data = checked_rows_of(codec, rows);
  if (codec.format == RowFormat::kFp32) codec.dim = static_cast<std::int64_t>(rows.shape(1));
  const BandIndex form = index_of(index);
  nb::gil_scoped_release release;
  store.add_dram_band(table, data, static_cast<std::int64_t>(rows.shape(0)), codec, form);
}

void add_tt_band(RowStore& store, int table, const std::vector<AnyConstArray>& cores, nb::handle index) {
  std::vector<TtCoreView> views;
  for (const AnyConstArray& core : cores) {
    const std::string name = "cores[" + std::to_string(views.size()) + "]";
    const auto* data = checked<float>(core, name.c_str(), 4);
    const auto extent = [&](std::size_t axis) { return static_cast<std::int64_t>(core.shape(axis)); };
    views.push_back({data, extent(0), extent(1), extent(2), extent(3)});
  }
  const BandIndex form = index_of(index);
  nb::gil_scoped_release release;
  store.add_tt_band(table, views, form);
}

void add_ssd_band(RowStore& store, int table, const std::filesystem::path& path, int band, nb::handle index,
                  const std::string& format, const SharedScale& scale, nb::handle written,
                  nb::handle default_row) {
  const RowCodec codec = codec_of(format, released([&] { return store.embedding_dim(table); }), scale);
  const BandIndex form = index_of(index);
  auto pages = written_pages(written, default_row, codec);
  nb::gil_scoped_release release;
  store.add_ssd_band(table, path.string(), band, codec, form, std::move(pages));
}

void check_out_shape(const AnyArray& out, std::int64_t rows, std::int64_t columns) {
  if (out.shape(0) != static_cast<std::size_t>(rows) || out.shape(1) != static_cast<std::size_t>(columns)) {
    throw nb::value_error(("out: expected shape [" + std::to_string(rows) + ", " + std::to_string(columns) +
                           "], got " + shape_text(out))
                              .c_str());
  }
}

void gather(RowStore& store, int table, const AnyConstArray& ids, const AnyArray& out) {
  const auto* wanted = checked<std::int64_t>(ids, "ids", 1);
  auto* target = checked<float>(out, "out", 2);
  const auto n = static_cast<std::int64_t>(ids.shape(0));
  check_out_shape(out, n, released([&] { return store.embedding_dim(table); }));
  nb::gil_scoped_release release;
  store.gather(table, wanted, n, target);
}

// The request and where its answer goes, once all shapes fit.
struct LookupArrays {
  LookupRequest request;
  float* out;
  std::int64_t width;
};

LookupArrays checked_lookup(const RowStore& store, const AnyConstArray& ids, const AnyConstArray& offsets,
                            std::int64_t batch_size, const AnyArray& out) {
  LookupRequest request{checked<std::int64_t>(ids, "ids", 1), static_cast<std::int64_t>(ids.shape(0)),
                        checked<std::int64_t>(offsets, "offsets", 1), batch_size};
  auto* target = checked<float>(out, "out", 2);
  if (batch_size < 0) {
    throw nb::value_error(("batch_size: must not be negative, got " + std::to_string(batch_size)).c_str());
  }
  const auto [tables, width] =
      released([&] { return std::pair<std::int64_t, std::int64_t>(store.num_tables(), store.total_dim()); });
  if (static_cast<std::int64_t>(offsets.shape(0)) != tables * batch_size + 1) {
    throw nb::value_error(("offsets: expected " + std::to_string(tables) + " tables x " +
                           std::to_string(batch_size) +
                           " samples + 1 = " + std::to_string(tables * batch_size + 1) + " entries, got " +
                           std::to_string(offsets.shape(0)))
                              .c_str());
  }
  check_out_shape(out, batch_size, width);
  return {request, target, width};
}

void lookup(RowStore& store, const AnyConstArray& ids, const AnyConstArray& offsets, std::int64_t batch_size,
            const AnyArray& out, const std::string& data_flow) {
  const LookupArrays arrays = checked_lookup(store, ids, offsets, batch_size, out);
  nb::gil_scoped_release release;
  store.lookup(arrays.request, 0, batch_size, arrays.out, arrays.width, parse_data_flow(data_flow));
}

Ticket begin(RowStore& store, const AnyConstArray& ids, const AnyConstArray& offsets, std::int64_t batch_size,
             const AnyArray& out, const std::string& data_flow) {
  const LookupArrays arrays = checked_lookup(store, ids, offsets, batch_size, out);
  nb::gil_scoped_release release;
  return store.begin(arrays.request, 0, batch_size, arrays.out, arrays.width, parse_data_flow(data_flow));
}

// (strategy, cores, split) of every table.
using MappingEntries = std::vector<std::tuple<std::string, std::vector<int>, std::string>>;

void set_mapping(RowStore& store, const MappingEntries& entries) {
  nb::gil_scoped_release release;
  std::vector<TableCores> mapping;
  for (const auto& [strategy, cores, split] : entries) {
    mapping.push_back({parse_strategy(strategy), cores, parse_split(split)});
  }
  store.set_mapping(mapping);
}

void bind_row_store(nb::module_& module) {
  nb::class_<StoreStats>(
      module, "StoreStats",
      "Counts since the store was made. dram_rows + tt_rows + ssd_rows == lookups; calls that "
      "raised are not counted.")
      .def_ro("lookups", &StoreStats::lookups, "Ids looked up.")
      .def_ro("dram_rows", &StoreStats::dram_rows, "Look-ups that ended in a band of rows in DRAM.")
      .def_ro("tt_rows", &StoreStats::tt_rows, "Look-ups that ended in a tensor-train band.")
      .def_ro("ssd_rows", &StoreStats::ssd_rows, "Look-ups that ended in a band on SSD.")
      .def_ro("default_rows", &StoreStats::default_rows,
              "Of ssd_rows, look-ups of rows whose page was never written: nothing is read for them.")
      .def_ro("updated_lookups", &StoreStats::updated_lookups,
              "Of ssd_rows and tt_rows, look-ups of rows that are held for an update: nothing is read or "
              "rebuilt for them.")
      .def_ro("page_requests", &StoreStats::page_requests,
              "4 KiB pages that the other look-ups on SSD needed, one by one; pages_read after each is read "
              "once per call.")
      .def_ro("pages_read", &StoreStats::pages_read, "4 KiB pages read.")
      .def_ro("bytes_read", &StoreStats::bytes_read, "Bytes read from SSD.")
      .def_ro("cache_hits", &StoreStats::cache_hits,
              "Rows on SSD of which the cache held a copy. cache_hits + cache_misses counts the distinct "
              "rows that\n"
              "calls wanted, call by call; ssd_rows every look-up.")
      .def_ro("cache_misses", &StoreStats::cache_misses, "Rows on SSD that were read.")
      .def_ro("cache_admissions", &StoreStats::cache_admissions, "Rows that the cache took in.")
      .def_ro("cache_bytes", &StoreStats::cache_bytes,
              "Bytes of the cache's rows and counts; at most what it was given.")
      .def_ro("updates", &StoreStats::updates, "Calls of apply_update.")
      .def_ro("updated_rows", &StoreStats::updated_rows, "Rows that they wrote.")
      .def_ro("held_rows", &StoreStats::held_rows,
              "Updated rows that are held in memory before the pages and the cores that have them otherwise.")
      .def_ro("held_bytes", &StoreStats::held_bytes, "Bytes that these take.")
      .def_ro("dram_bytes", &StoreStats::dram_bytes,
              "Bytes of rows, cores, indices, cache, held rows and the copies of strategies and of cores in "
              "DRAM.")
      .def_ro("io_backend", &StoreStats::io_backend, "'io_uring' or 'pread'; 'none' without SSD bands.")
      .def_ro("direct_io", &StoreStats::direct_io,
              "False when the file system of some band refused O_DIRECT: reads go through the page cache.")
      .def_ro("queue_depth", &StoreStats::queue_depth, "Page reads in flight at most.")
      .def_ro("num_threads", &StoreStats::num_threads, "Threads that look-ups share, the caller included.");

  nb::class_<Ticket>(
      module, "Ticket",
      "A look-up that has begun; given up when it is deleted unfinished. Safe to share between threads.")
      .def("poll", &Ticket::poll, nb::call_guard<nb::gil_scoped_release>(),
           "Lets reads from SSD go on, without waiting: at most queue_depth of them are in flight at a time.")
      .def("finish", &Ticket::finish, nb::call_guard<nb::gil_scoped_release>(),
           "Waits for the rows; out is then complete. Raises OSError naming file and page for a damaged page "
           "and\n"
           "RuntimeError when it was called before.");

  nb::class_<RowStore> store(
      module, "RowStore",
      "Rows of huge tables by id, wherever they live: DRAM, tensor-train cores, SSD pages.\n\n"
      "io: 'auto' (io_uring where the system lets us use it, else pread), 'io_uring' or 'pread'. "
      "queue_depth: page\n"
      "reads in flight of each look-up. threads: 0 means one per core. cache_bytes: DRAM for a cache of rows "
      "on "
      "SSD, 0\n"
      "for none; cache_policy: which rows stay in it, 'sketch' or 'lru'. An index is None (the last band, "
      "addressed by id),\n"
      "('order', slots uint32) (the last band, its slots in another order), "
      "('bitmap', bits uint64, directory uint32) or ('hash', keys int64, slots uint32) as in docs/format.md. "
      "Arrays\n"
      "are kept alive, not copied; they must not change. Calls may come from several threads.");
  store
      .def(nb::init<const std::string&, int, int, std::int64_t, const std::string&>(), nb::arg("io") = "auto",
           nb::arg("queue_depth") = kDefaultQueueDepth, nb::arg("threads") = 0, nb::arg("cache_bytes") = 0,
           nb::arg("cache_policy") = "sketch")
      .def("add_table", &RowStore::add_table, nb::arg("num_embeddings"), nb::arg("embedding_dim"),
           nb::arg("mean") = false, nb::call_guard<nb::gil_scoped_release>(),
           "Adds a table and returns its number. mean: bags are averaged, not summed.")
      .def("add_dram_band", add_dram_band, nb::arg("table"), nb::arg("rows"),
           nb::arg("index").none() = nb::none(), nb::arg("format") = "fp32", nb::arg("scale") = nb::none(),
           nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>(),
           "Adds rows, float32 [slots, dim] or in another format uint8 [slots, row_bytes], as the next "
           "band.\n\n"
           "scale: (scale, bias) that all int8 or int4 rows share; None where each row begins with its own.")
      .def("add_tt_band", add_tt_band, nb::arg("table"), nb::arg("cores"),
           nb::arg("index").none() = nb::none(), nb::keep_alive<1, 4>(),
           "Adds cores, each float32 [r_k, p_k, q_k, r_k+1] (docs/format.md), as the next band; they are "
           "copied.")
      .def("add_ssd_band", add_ssd_band, nb::arg("table"), nb::arg("path"), nb::arg("band"),
           nb::arg("index").none() = nb::none(), nb::arg("format") = "fp32", nb::arg("scale") = nb::none(),
           nb::arg("written").none() = nb::none(), nb::arg("default_row").none() = nb::none(),
           nb::keep_alive<1, 5>(), nb::keep_alive<1, 8>(),
           "Adds a file of pages as the next band; its pages must carry this table and band number.\n"
           "format and scale: as for add_dram_band.\n"
           "written: for a sparse band, the page groups (slot // rows a page) that were written, as "
           "('bitmap', "
           "bits,\n"
           "directory) or ('hash', keys, slots); rows of all others are default_row (uint8 [row_bytes], "
           "copied) "
           "and\n"
           "nothing is read for them.\n\n"
           "Raises OSError when the file is missing, has the wrong size, or its first or last page is "
           "damaged.")
      .def(
          "set_strategy",
          [](RowStore& store, int table, const std::string& name) {
            nb::gil_scoped_release release;
            store.set_strategy(table, parse_strategy(name));
          },
          nb::arg("table"), nb::arg("name"),
          "How the table's rows are fetched: 'gather' (the default), 'private', 'stream', 'private_stream' "
          "or\n"
          "'counts'. The table's only band must be in DRAM, of fp32 rows but for 'private'. Answers stay the "
          "same to the bit,\n"
          "except that 'counts' adds the look-ups of one row in a bag as one product. Raises ValueError "
          "where\n"
          "the table cannot have the strategy.")
      .def(
          "strategy",
          [](const RowStore& store, int table) {
            nb::gil_scoped_release release;
            return std::string(strategy_name(store.strategy(table)));
          },
          nb::arg("table"), "The table's strategy.")
      .def("set_mapping", set_mapping, nb::arg("mapping"),
           "Whose each table is in the asymmetric data flow: (strategy, cores, split) for every table, or [] "
           "for no\n"
           "such flow. cores are ascending numbers of threads; [] leaves the table to all. split, among "
           "several cores, is\n"
           "'columns' (of every row, strategy 'private') or 'samples'. Worker threads then stay on cores of "
           "their own.\n"
           "Raises ValueError naming the table and the reason.")
      .def_prop_ro("has_mapping", &RowStore::has_mapping, nb::call_guard<nb::gil_scoped_release>(),
                   "Whether there is an asymmetric data flow.")
      .def("gather", gather, nb::arg("table"), nb::arg("ids"), nb::arg("out"),
           "Rows of ids (int64 [n]) into out (float32 [n, dim]). Raises ValueError for an id outside the "
           "table and\n"
           "OSError naming file and page for a damaged page; out is then undefined.")
      .def(
          "lookup", lookup, nb::arg("ids"), nb::arg("offsets"), nb::arg("batch_size"), nb::arg("out"),
          nb::arg("data_flow") = "symmetric",
          "Pools the bags of all tables (ids int64 [nnz], offsets int64 [T * B + 1], table-major) into out\n"
          "(float32 [B, sum of dims]). An empty bag gives zeros. data_flow: 'symmetric', where every thread "
          "takes a\n"
          "part of the samples, or 'asymmetric', where it takes what set_mapping gave its core; the bits are "
          "the same.\n"
          "Raises as gather does, and RuntimeError for 'asymmetric' without a mapping.")
      .def("begin", begin, nb::arg("ids"), nb::arg("offsets"), nb::arg("batch_size"), nb::arg("out"),
           nb::arg("data_flow") = "symmetric", nb::keep_alive<0, 1>(), nb::keep_alive<0, 2>(),
           nb::keep_alive<0, 3>(), nb::keep_alive<0, 5>(),
           "The first half of lookup: starts the reads from SSD and does all work that need not wait for "
           "them.\n"
           "ids and offsets must not change, and out is undefined, until the ticket's finish(). Raises as "
           "lookup\n"
           "does, and RuntimeError when 8 tickets are in flight.")
      .def("stats", &RowStore::stats, nb::call_guard<nb::gil_scoped_release>(),
           "A StoreStats of this moment.")
      .def_prop_ro("num_tables", &RowStore::num_tables, nb::call_guard<nb::gil_scoped_release>(), "Tables.")
      .def_prop_ro("total_dim", &RowStore::total_dim, nb::call_guard<nb::gil_scoped_release>(),
                   "Sum of the tables' embedding dimensions.");
  bind_row_updates(module, store);
}

}  // namespace

void bind_store(nb::module_& module) {
  bind_row_store(module);
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
