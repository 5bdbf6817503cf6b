#include <nanobind/stl/string.h>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "store/row_store.h"

namespace screc::bindings {

using namespace nb::literals;

void bind_store(nb::module_& module) {
  nb::class_<RowStore>(module, "RowStore")
      .def(nb::init<const std::string&, int, int>(), "io"_a = "auto", "queue_depth"_a = 64, "threads"_a = 0)
      .def("add_table", &RowStore::add_table, "num_embeddings"_a, "embedding_dim"_a, "mean"_a)
      .def(
          "add_dram_band",
          [](RowStore& self, int table, const AnyConstArray& rows, const nb::object&) {
            self.add_dram_band(table, checked<float>(rows, "rows", 2), static_cast<int64_t>(rows.shape(0)));
          },
          "table"_a, "rows"_a, "index"_a = nb::none(), nb::keep_alive<1, 3>())
      .def("stats", [](const RowStore& self) {
        nb::dict stats;
        stats["lookups"] = self.num_lookups();
        return stats;
      });
}

}  // namespace screc::bindings
