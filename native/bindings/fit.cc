#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <initializer_list>
#include <string>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "fit/middle_core.h"
#include "fit/row_correlation.h"
#include "fit/row_projection.h"
#include "fit/symmetric.h"

namespace screc::bindings {
namespace {

using namespace nb::literals;
using IsaName = std::optional<std::string>;

Isa chosen_isa(const IsaName& isa) { return isa ? parse_isa(*isa) : selected_isa(); }

int64_t dim(const auto& array, size_t i) { return static_cast<int64_t>(array.shape(i)); }

// The array's data once its dtype is T and its shape is the one given.
template <typename T>
auto shaped(const auto& array, const char* name, std::initializer_list<int64_t> shape) {
  const auto data = checked<T>(array, name, shape.size());
  size_t i = 0;
  bool same = true;
  std::string wanted = "[";
  for (int64_t size : shape) {
    same = same && dim(array, i) == size;
    wanted += (i++ ? ", " : "") + std::to_string(size);
  }
  if (!same) {
    throw nb::value_error(
        (std::string(name) + ": expected shape " + wanted + "], got " + shape_text(array)).c_str());
  }
  return data;
}

RowChunk chunk_of(const AnyConstArray& rows, const AnyConstArray& prefixes, const AnyConstArray& weights,
                  int64_t slices, int64_t width) {
  const float* row = checked<float>(rows, "rows", 2);
  const int64_t num_rows = dim(rows, 0), n = dim(prefixes, 0);
  shaped<float>(rows, "rows", {num_rows, width});
  const int64_t* numbers = checked<int64_t>(prefixes, "prefixes", 1);
  const float* weight = shaped<float>(weights, "weights", {n * slices});
  for (int64_t k = 0; k < n; ++k) {
    const int64_t there = std::clamp<int64_t>(num_rows - numbers[k] * slices, 0, slices);
    const float* beyond = weight + k * slices + there;
    if (numbers[k] >= 0 && std::all_of(beyond, beyond + slices - there, [](float w) { return w == 0.0f; })) {
      continue;
    }
    throw nb::value_error(("prefixes[" + std::to_string(k) + "] = " + std::to_string(numbers[k]) +
                           " has a weight where there is no row; there are " + std::to_string(num_rows) +
                           " rows, " + std::to_string(slices) + " to a prefix")
                              .c_str());
  }
  return {row, numbers, weight, n};
}

RowProjection make_projection(const AnyConstArray& core, int64_t left_columns, ThreadPool& pool,
                              const IsaName& isa) {
  const float* data = checked<float>(core, "core", 3);
  if (core.size() == 0 || left_columns < 1) throw nb::value_error("core: must not be empty");
  return {data, dim(core, 0), dim(core, 1), dim(core, 2), left_columns, chosen_isa(isa), pool};
}

double project(RowProjection& projection, const AnyConstArray& rows, const AnyConstArray& prefixes,
               const AnyConstArray& weights, const AnyArray& z, const AnyArray& e) {
  const int64_t rank = projection.rank();
  const RowChunk chunk = chunk_of(rows, prefixes, weights, projection.slices(), projection.dim());
  float* z_out = shaped<float>(z, "z", {chunk.prefixes, projection.left_columns(), rank});
  float* e_out = shaped<float>(e, "e", {chunk.prefixes, num_pairs(rank)});
  nb::gil_scoped_release nogil;
  return projection.add(chunk, z_out, e_out);
}

RowCorrelation make_correlation(const AnyConstArray& left, const AnyConstArray& middle, int64_t slices,
                                int64_t columns, ThreadPool& pool, const IsaName& isa) {
  const float* first = checked<float>(left, "left", 3);
  const int64_t inner = dim(left, 2);
  const float* second = checked<float>(middle, "middle", 4);
  if (dim(middle, 0) != inner || left.size() == 0 || middle.size() == 0 || slices < 1 || columns < 1) {
    throw nb::value_error(
        ("middle: expected first dimension " + std::to_string(inner) + ", got " + shape_text(middle))
            .c_str());
  }
  const RowCorrelation::Cores cores{first, second,         dim(left, 0),   dim(left, 1),
                                    inner, dim(middle, 1), dim(middle, 2), dim(middle, 3)};
  return {cores, slices, columns, chosen_isa(isa), pool};
}

void correlate(RowCorrelation& correlation, const AnyConstArray& rows, const AnyConstArray& prefixes,
               const AnyConstArray& weights, int64_t first_left, int64_t first_middle, int64_t num_middles) {
  const RowChunk chunk = chunk_of(rows, prefixes, weights, correlation.slices(), correlation.dim());
  const RowCorrelation::Cores& cores = correlation.cores();
  if (first_left < 0 || first_middle < 0 || num_middles < 1 || first_middle + num_middles > cores.middles ||
      first_left + (chunk.prefixes + num_middles - 1) / num_middles > cores.lefts) {
    throw nb::value_error("first_left, first_middle, num_middles: the prefixes are not all the cores'");
  }
  nb::gil_scoped_release nogil;
  correlation.add(chunk, first_left, first_middle, num_middles);
}

void read_sums(const RowCorrelation& correlation, const AnyArray& right, const AnyArray& normal) {
  const int64_t slices = correlation.slices(), rank = correlation.rank();
  const int64_t columns = correlation.columns();
  double* right_out = shaped<double>(right, "right", {slices, rank, columns});
  double* normal_out = shaped<double>(normal, "normal", {slices, num_pairs(rank)});
  std::copy_n(correlation.right(), slices * columns * rank, right_out);
  std::copy_n(correlation.normal(), slices * num_pairs(rank), normal_out);
}

MiddleSolver make_solver(const AnyConstArray& left, int64_t own, int64_t rank, ThreadPool& pool,
                         const IsaName& isa) {
  const float* data = checked<float>(left, "left", 3);
  if (left.size() == 0 || own < 1 || rank < 1)
    throw nb::value_error("left, columns, rank: must not be empty");
  return {data, {dim(left, 0), dim(left, 1), dim(left, 2), own, rank}, chosen_isa(isa), pool};
}

void solve(MiddleSolver& solver, const AnyConstArray& e, const AnyConstArray& z, const AnyArray& slices,
           const AnyArray& e_out, const AnyArray& z_out) {
  const MiddleSolver::Shape& p = solver.shape();
  float* unknown = checked<float>(slices, "slices", 4);
  const int64_t n = dim(slices, 0);
  shaped<float>(slices, "slices", {n, p.inner, p.own, p.rank});
  const float* squares = shaped<float>(e, "e", {p.lefts, n, num_pairs(p.rank)});
  const float* rows = shaped<float>(z, "z", {p.lefts, n, p.before, p.own, p.rank});
  double* e_sum = shaped<double>(e_out, "e_out", {p.lefts, p.inner, p.inner});
  double* z_sum = shaped<double>(z_out, "z_out", {p.lefts, p.before, p.inner});
  nb::gil_scoped_release nogil;
  solver.solve(squares, rows, n, unknown, e_sum, z_sum);
}

}  // namespace

void bind_fit(nb::module_& module) {
  nb::class_<RowProjection>(
      module, "RowProjection",
      "The rows of a band contracted with the last core of a tensor train.\n\n"
      "core float32 [R, P, Q]; left_columns is the product of the columns of the cores before it.")
      .def(
          "__init__",
          [](RowProjection* self, const AnyConstArray& core, int64_t left_columns, ThreadPool& pool,
             const IsaName& isa) {
            new (self) RowProjection(make_projection(core, left_columns, pool, isa));
          },
          "core"_a, "left_columns"_a, "pool"_a, "isa"_a = nb::none(), nb::keep_alive<1, 4>())
      .def(
          "add", &project, "rows"_a, "prefixes"_a, "weights"_a, "z"_a, "e"_a,
          "For n prefixes of P slots: z [n, C, R] = sum over i, j of w row[i, (c, j)] core[b, i, j] and the\n"
          "lower triangles of e [n, R, R] = sum over i, j of w core[a, i, j] core[b, i, j], by rows.\n\n"
          "rows float32 [N, C * Q]; prefixes int64 [n], k being rows P k to P k + P - 1; weights float32 [n "
          "* P].\n"
          "Returns the sum of w |row|^2. Rows of weight 0 are not read and may lie beyond N.");
  nb::class_<RowCorrelation>(
      module, "RowCorrelation",
      "The rows of a band contracted with all cores but the last: the last core's normal equations.\n\n"
      "left float32 [M, C', R'] is the product of all cores before the last two, middle float32 [R', I, Q', "
      "R].")
      .def(
          "__init__",
          [](RowCorrelation* self, const AnyConstArray& left, const AnyConstArray& middle, int64_t slices,
             int64_t columns, ThreadPool& pool, const IsaName& isa) {
            new (self) RowCorrelation(make_correlation(left, middle, slices, columns, pool, isa));
          },
          "left"_a, "middle"_a, "slices"_a, "columns"_a, "pool"_a, "isa"_a = nb::none(),
          nb::keep_alive<1, 2>(), nb::keep_alive<1, 6>())
      .def("add", &correlate, "rows"_a, "prefixes"_a, "weights"_a, "first_left"_a, "first_middle"_a,
           "num_middles"_a,
           "Adds prefixes (m, i): m from first_left on and, for each, num_middles of i from first_middle "
           "on.\n\n"
           "rows, prefixes and weights are as RowProjection.add takes them.")
      .def("sums", &read_sums, "right"_a, "normal"_a,
           "Writes right float64 [slices, R, columns] = sum of w row L, L[(m, i)][(c', j')][b] being left "
           "times\n"
           "middle, and the lower triangles of normal float64 [slices, R, R] = sum of w L L, by rows.");
  nb::class_<MiddleSolver>(
      module, "MiddleSolver",
      "Slices of a core by least squares, the cores after it being contracted away.\n\n"
      "left float32 [M, C, R'] is the product of the cores before, which is read here and not kept; columns "
      "and\n"
      "rank are Q and R of the core [R', I, Q, R].")
      .def(
          "__init__",
          [](MiddleSolver* self, const AnyConstArray& left, int64_t columns, int64_t rank, ThreadPool& pool,
             const IsaName& isa) { new (self) MiddleSolver(make_solver(left, columns, rank, pool, isa)); },
          "left"_a, "columns"_a, "rank"_a, "pool"_a, "isa"_a = nb::none(), nb::keep_alive<1, 5>())
      .def("solve", &solve, "e"_a, "z"_a, "slices"_a, "e_out"_a, "z_out"_a,
           "Lowers, for each slice i, sum over m of <P e[m, i], P> - 2 <P, z[m, i]> with P = left[m] "
           "slices[i].\n\n"
           "e holds the lower triangles of float32 [M, n, R, R], by rows; z float32 [M, n, C, Q, R], slices "
           "float32\n"
           "[n, R', Q, R]. The same two for the cores before are added to e_out float64 [M, R', R'] and "
           "z_out\n"
           "float64 [M, C, R'].")
      .def_static(
          "bytes",
          [](int64_t lefts, int64_t before, int64_t inner, int64_t columns, int64_t rank,
             const ThreadPool& pool, const IsaName& isa) {
            return MiddleSolver::bytes({lefts, before, inner, columns, rank}, chosen_isa(isa),
                                       pool.num_threads());
          },
          "lefts"_a, "before"_a, "inner"_a, "columns"_a, "rank"_a, "pool"_a, "isa"_a = nb::none(),
          "Bytes that a solver for left [lefts, before, inner] takes.");
}

}  // namespace screc::bindings
