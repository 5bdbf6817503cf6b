#include "store/page_order.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace screc::bindings {
namespace {

void order_rows(const AnyConstArray& starts, const AnyConstArray& groups, std::int64_t num_groups,
                std::int64_t rows_per_page, int iterations, const AnyArray& order, ThreadPool* pool) {
  const RowGroups rows{checked<std::int64_t>(starts, "starts", 1),
                       checked<std::uint32_t>(groups, "groups", 1),
                       static_cast<std::int64_t>(starts.shape(0)) - 1, num_groups};
  auto* target = checked<std::uint32_t>(order, "order", 1);
  const auto num_pairs = static_cast<std::int64_t>(groups.shape(0));
  if (rows.num_rows < 0 || rows.starts[0] != 0 || rows.starts[rows.num_rows] != num_pairs) {
    throw nb::value_error(("starts: must run from 0 to the " + std::to_string(num_pairs) +
                           " entries of groups, one more than rows")
                              .c_str());
  }
  if (static_cast<std::int64_t>(order.shape(0)) != rows.num_rows) {
    throw nb::value_error(
        ("order: expected shape [" + std::to_string(rows.num_rows) + "], got " + shape_text(order)).c_str());
  }
  if (num_groups < 0) {
    throw nb::value_error(("num_groups: must not be negative, got " + std::to_string(num_groups)).c_str());
  }
  nb::gil_scoped_release release;
  order_by_co_access(rows, rows_per_page, iterations, pool, target);
}

}  // namespace

void bind_page_order(nb::module_& module) {
  module.def(
      "order_by_co_access", order_rows, nb::arg("starts"), nb::arg("groups"), nb::arg("num_groups"),
      nb::arg("rows_per_page"), nb::arg("iterations"), nb::arg("order"), nb::arg("pool").none() = nb::none(),
      "Orders rows 0 to n - 1 so that rows read together share pages of rows_per_page rows.\n\n"
      "Row i is in groups[starts[i] : starts[i + 1]] (uint32 below num_groups; starts int64 [n + 1]); order\n"
      "(uint32 [n]) holds the first order, any permutation, and receives the answer. Recursive bisection, "
      "at\n"
      "most `iterations` rounds of exchanges per cut. The answer does not depend on the pool.");
}

}  // namespace screc::bindings
