#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "statistics/distinct.h"
#include "statistics/row_counter.h"

namespace screc::bindings {
namespace {

template <typename T>
using Vector = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

// A view of a vector that belongs to `owner`.
template <typename T>
Vector<const T> view(const std::vector<T>& values, nb::handle owner) {
  return Vector<const T>(values.data(), {values.size()}, owner);
}

// body(table, thread) for every table, on the pool where there is one.
void for_tables(ThreadPool* pool, std::int64_t num_tables,
                const std::function<void(std::int64_t, int)>& body) {
  const auto piece = [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t table = begin; table < end; ++table) body(table, thread);
  };
  if (pool == nullptr) {
    piece(0, num_tables, 0);
  } else {
    pool->parallel_for(num_tables, 1, piece);
  }
}

struct Bags {
  const std::int64_t *ids, *offsets;
  std::int64_t num_tables, batch_size;

  Bags(const AnyConstArray& ids_array, const AnyConstArray& offsets_array, std::int64_t size)
      : ids(checked<std::int64_t>(ids_array, "ids", 1)),
        offsets(checked<std::int64_t>(offsets_array, "offsets", 1)),
        batch_size(size) {
    const auto entries = static_cast<std::int64_t>(offsets_array.shape(0)) - 1;
    if (size < 1 || entries < 0 || entries % size != 0) {
      throw nb::value_error(("offsets: " + std::to_string(entries + 1) + " entries are not tables x " +
                             std::to_string(size) + " samples + 1")
                                .c_str());
    }
    num_tables = entries / size;
    bool rising = offsets[0] >= 0;
    for (std::int64_t i = 0; i < entries; ++i) rising &= offsets[i] <= offsets[i + 1];
    if (!rising || offsets[entries] > static_cast<std::int64_t>(ids_array.shape(0))) {
      throw nb::value_error(
          ("offsets: must rise from 0 to the number of ids, " + std::to_string(ids_array.shape(0))).c_str());
    }
  }
};

Vector<std::int64_t> count_batch(const std::vector<RowCounter*>& counters, const AnyConstArray& ids,
                                 const AnyConstArray& offsets, std::int64_t batch_size, ThreadPool* pool) {
  const Bags bags(ids, offsets, batch_size);
  if (bags.num_tables != static_cast<std::int64_t>(counters.size())) {
    throw nb::value_error(("counters: " + std::to_string(counters.size()) + " for a batch of " +
                           std::to_string(bags.num_tables) + " tables")
                              .c_str());
  }
  std::vector<std::int64_t> nonempty(counters.size(), 0);
  {
    nb::gil_scoped_release release;
    for_tables(pool, bags.num_tables, [&](std::int64_t table, int) {
      const std::int64_t* own = bags.offsets + table * batch_size;
      counters[static_cast<std::size_t>(table)]->add(bags.ids + own[0], own[batch_size] - own[0]);
      std::int64_t found = 0;
      for (std::int64_t b = 0; b < batch_size; ++b) found += own[b + 1] > own[b];
      nonempty[static_cast<std::size_t>(table)] = found;
    });
  }
  return adopt(std::move(nonempty));
}

nb::ndarray<nb::numpy, std::int64_t, nb::ndim<2>> count_distinct(const AnyConstArray& ids,
                                                                 const AnyConstArray& offsets,
                                                                 std::int64_t batch_size, std::int64_t window,
                                                                 std::int64_t every, ThreadPool* pool) {
  const Bags bags(ids, offsets, batch_size);
  if (window < 1 || every < 1) {
    throw nb::value_error(("window and every: must be at least 1, got " + std::to_string(window) + " and " +
                           std::to_string(every))
                              .c_str());
  }
  const std::int64_t windows = (batch_size / window + every - 1) / every;
  auto* distinct = new std::vector<std::int64_t>(static_cast<std::size_t>(bags.num_tables * windows));
  nb::capsule owner(distinct, [](void* p) noexcept { delete static_cast<std::vector<std::int64_t>*>(p); });
  {
    nb::gil_scoped_release release;
    std::vector<DistinctRows> sets(static_cast<std::size_t>(pool == nullptr ? 1 : pool->num_threads()));
    for_tables(pool, bags.num_tables, [&](std::int64_t table, int thread) {
      for (std::int64_t w = 0; w < windows; ++w) {
        const std::int64_t* edge = bags.offsets + table * batch_size + w * every * window;
        (*distinct)[static_cast<std::size_t>(table * windows + w)] =
            sets[static_cast<std::size_t>(thread)].count(bags.ids + edge[0], edge[window] - edge[0]);
      }
    });
  }
  return {distinct->data(),
          {static_cast<std::size_t>(bags.num_tables), static_cast<std::size_t>(windows)},
          owner};
}

}  // namespace

void bind_statistics(nb::module_& module) {
  const auto array = [](auto member) {
    return [member](nb::handle self) { return view(nb::cast<const RankedRows&>(self).*member, self); };
  };
  nb::class_<RankedRows>(module, "RankedRows", "What a RowCounter counted; see screc.statistics.counting.")
      .def_prop_ro("ids", array(&RankedRows::ids), "int64 [ranked], by descending count, then ascending.")
      .def_prop_ro("counts", array(&RankedRows::counts), "int64 [ranked], look-ups, or at least so many.")
      .def_prop_ro("errors", array(&RankedRows::errors),
                   "uint32 [ranked], how many more they may be; empty where all counts are exact.")
      .def_ro("unranked_bound", &RankedRows::unranked_bound, "No other row was looked up more often.")
      .def_ro("sample_level", &RankedRows::sample_level,
              "Each row was in the sample with probability 2^-level.")
      .def_prop_ro("unranked_sample", array(&RankedRows::unranked_sample),
                   "int64 [n], exact counts of the rows in the sample that are not among ids.")
      .def_ro("sample_rows", &RankedRows::sample_rows, "Rows in the sample.")
      .def_ro("sample_singletons", &RankedRows::sample_singletons, "Of these, rows looked up once.");

  nb::class_<RowCounter>(module, "RowCounter",
                         "Counts the look-ups of one table in at most max_bytes: exactly while they suffice, "
                         "then\nwith stated bounds. `table` is for messages.")
      .def(nb::init<std::string, std::int64_t, std::int64_t>(), nb::arg("table"), nb::arg("num_embeddings"),
           nb::arg("max_bytes"))
      .def(
          "add",
          [](RowCounter& self, const AnyConstArray& ids) {
            const auto* data = checked<std::int64_t>(ids, "ids", 1);
            nb::gil_scoped_release release;
            self.add(data, static_cast<std::int64_t>(ids.shape(0)));
          },
          nb::arg("ids"), "Counts ids, int64 [n]; ValueError, and none counted, where one is outside.")
      .def("finish", &RowCounter::finish, nb::call_guard<nb::gil_scoped_release>(),
           "Ends counting, frees the counters and returns what they hold.")
      .def_prop_ro("num_lookups", &RowCounter::num_lookups, "Ids counted.")
      .def_prop_ro("exact", &RowCounter::exact, "Whether all counts so far are exact.")
      .def_prop_ro("bytes", &RowCounter::bytes, "Memory of the counters now.");

  module.def("count_batch", count_batch, nb::arg("counters"), nb::arg("ids"), nb::arg("offsets"),
             nb::arg("batch_size"), nb::arg("pool").none() = nb::none(),
             "Adds the bags of a batch (see screc.data.Batch) to one counter per table.\n\n"
             "Returns int64 [tables]: samples whose bag is not empty.");
  module.def(
      "count_distinct", count_distinct, nb::arg("ids"), nb::arg("offsets"), nb::arg("batch_size"),
      nb::arg("window"), nb::arg("every") = 1, nb::arg("pool").none() = nb::none(),
      "Different rows of every table in every every-th whole window of `window` samples of a batch.\n\n"
      "Returns int64 [tables, ceil((batch_size // window) / every)].");
}

}  // namespace screc::bindings
