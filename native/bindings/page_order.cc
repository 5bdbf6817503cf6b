#include "store/page_order.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace screc::bindings {
namespace {

void order_rows(const AnyConstArray& rows, const AnyConstArray& groups, std::int64_t num_groups,
                std::int64_t rows_per_page, int iterations, const AnyArray& order, ThreadPool* pool) {
  const RowGroups pairs{checked<std::uint32_t>(rows, "rows", 1), checked<std::uint32_t>(groups, "groups", 1),
                        static_cast<std::int64_t>(rows.shape(0)), static_cast<std::int64_t>(order.shape(0)),
                        num_groups};
  auto* target = checked<std::uint32_t>(order, "order", 1);
  if (groups.shape(0) != rows.shape(0)) {
    throw nb::value_error(
        ("groups: expected shape " + shape_text(rows) + ", got " + shape_text(groups)).c_str());
  }
  if (num_groups < 0) {
    throw nb::value_error(("num_groups: must not be negative, got " + std::to_string(num_groups)).c_str());
  }
  nb::gil_scoped_release release;
  order_by_co_access(pairs, rows_per_page, iterations, pool, target);
}

}  // namespace

void bind_page_order(nb::module_& module) {
  module.def(
      "order_by_co_access", order_rows, nb::arg("rows"), nb::arg("groups"), nb::arg("num_groups"),
      nb::arg("rows_per_page"), nb::arg("iterations"), nb::arg("order"), nb::arg("pool").none() = nb::none(),
      "Orders rows 0 to n - 1 so that rows read together share pages of rows_per_page rows.\n\n"
      "Row rows[i] is in group groups[i], each pair once (uint32 [pairs]; groups below num_groups); order\n"
      "(uint32 [n]) holds the first order, any permutation, and receives the answer. Recursive bisection, "
      "at\n"
      "most `iterations` rounds of exchanges per cut. The answer does not depend on the pool.");
}

}  // namespace screc::bindings
