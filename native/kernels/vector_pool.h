// Gathering and pooling rows, for any vector of vec_*.h.
//
// Limit: memory. A row of d floats is read once (4d bytes, whole cache lines) and a bag written once, against
// d additions; 64-byte rows out of a large table are bound by the cache misses in flight, so rows further on
// are asked for early.
#pragma once

#include <cstdint>

#include "kernels/id_bags.h"

namespace screc {
namespace {

// Rows ahead that are prefetched: about the misses that one core keeps in flight.
constexpr int64_t kRowsAhead = 12;

inline void prefetch_row(const float* row, int64_t dim) {
  for (int64_t c = 0; c < dim; c += 16) __builtin_prefetch(row + c);
}

template <typename V>
void copy_row(const float* from, int64_t dim, float* to) {
  int64_t c = 0;
  for (; c + V::kLanes <= dim; c += V::kLanes) V::store(to + c, V::load(from + c));
  if (c < dim) V::store_part(to + c, V::load_part(from + c, dim - c), dim - c);
}

template <typename V>
void gather_rows(const float* rows, int64_t dim, const int64_t* ids, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    if (i + kRowsAhead < n) prefetch_row(rows + ids[i + kRowsAhead] * dim, dim);
    copy_row<V>(rows + ids[i] * dim, dim, out + i * dim);
  }
}

// Where the k-th look-up's row is.
struct PointedRows {
  const float* const* rows;
  const float* operator[](int64_t k) const { return rows[k]; }
};
struct NumberedRows {
  const float* rows;
  int64_t dim;
  const int64_t* ids;
  const float* operator[](int64_t k) const { return rows + ids[k] * dim; }
};

// Columns [column, column + width) of the bag of look-ups [begin, end), width <= kVectors * V::kLanes, kept
// in registers.
template <typename V, int kVectors, typename Rows>
void pool_columns(Rows rows, int64_t begin, int64_t end, int64_t column, int64_t width, bool mean,
                  float* out) {
  constexpr int64_t kLanes = V::kLanes;
  const int64_t last = width - (kVectors - 1) * kLanes;  // lanes of the last vector
  typename V::F sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sum[v] = V::zero();
  for (int64_t k = begin; k < end; ++k) {
    const float* row = rows[k] + column;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors - 1; ++v) sum[v] = V::add(sum[v], V::load(row + v * kLanes));
    const float* tail = row + (kVectors - 1) * kLanes;
    sum[kVectors - 1] = V::add(sum[kVectors - 1], last == kLanes ? V::load(tail) : V::load_part(tail, last));
  }
  if (mean && end - begin > 1) {
    const typename V::F divisor = V::set1(static_cast<float>(end - begin));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v] = V::div(sum[v], divisor);
  }
  out += column;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors - 1; ++v) V::store(out + v * kLanes, sum[v]);
  V::store_part(out + (kVectors - 1) * kLanes, sum[kVectors - 1], last);
}

template <typename V, typename Rows>
void pool_bag(Rows rows, int64_t begin, int64_t end, int64_t dim, bool mean, float* out) {
  constexpr int64_t kLanes = V::kLanes;
  if (end - begin == 1) return copy_row<V>(rows[begin], dim, out);
  if (dim <= kLanes) return pool_columns<V, 1>(rows, begin, end, 0, dim, mean, out);
  if (dim <= 2 * kLanes) return pool_columns<V, 2>(rows, begin, end, 0, dim, mean, out);
  if (dim <= 4 * kLanes && dim > 3 * kLanes) {
    return pool_columns<V, 4>(rows, begin, end, 0, dim, mean, out);
  }
  if (dim <= 8 * kLanes && dim > 7 * kLanes) {
    return pool_columns<V, 8>(rows, begin, end, 0, dim, mean, out);
  }
  for (int64_t c = 0; c < dim; c += kLanes) {
    pool_columns<V, 1>(rows, begin, end, c, dim - c < kLanes ? dim - c : kLanes, mean, out);
  }
}

template <typename V, bool kAhead, typename Rows, typename Start>
void pool_bags(Rows rows, Start start, int64_t num_bags, int64_t dim, bool mean, float* out,
               int64_t out_stride) {
  [[maybe_unused]] const int64_t end = num_bags > 0 ? start(num_bags) : 0;
  [[maybe_unused]] int64_t ahead = num_bags > 0 ? start(0) : 0;  // look-ups asked for so far
  for (int64_t b = 0; b < num_bags; ++b) {
    const int64_t next = start(b + 1);
    if constexpr (kAhead) {
      const int64_t wanted = next + kRowsAhead < end ? next + kRowsAhead : end;
      for (; ahead < wanted; ++ahead) prefetch_row(rows[ahead], dim);
    }
    pool_bag<V>(rows, start(b), next, dim, mean, out + b * out_stride);
  }
}

template <typename V>
void pool_rows(const float* const* rows, const int64_t* offsets, int64_t num_bags, int64_t dim, bool mean,
               float* out, int64_t out_stride) {
  const auto start = [offsets](int64_t b) { return offsets[b]; };
  pool_bags<V, true>(PointedRows{rows}, start, num_bags, dim, mean, out, out_stride);
}

// One row of kVectors whole vectors for each id.
template <typename V, int kVectors, bool kAhead>
void copy_ids(const float* rows, const int64_t* ids, int64_t n, float* out, int64_t out_stride) {
  constexpr int64_t kDim = kVectors * V::kLanes;
  const auto copy = [&](int64_t i) {
    const float* row = rows + ids[i] * kDim;
    for (int v = 0; v < kVectors; ++v) {
      V::store(out + i * out_stride + v * V::kLanes, V::load(row + v * V::kLanes));
    }
  };
  int64_t i = 0;
  if constexpr (kAhead) {
    for (int64_t k = 0; k < n && k < kRowsAhead; ++k) prefetch_row(rows + ids[k] * kDim, kDim);
    for (; i + kRowsAhead < n; ++i) {
      prefetch_row(rows + ids[i + kRowsAhead] * kDim, kDim);
      copy(i);
    }
  }
  for (; i < n; ++i) copy(i);
}

template <typename V, bool kAhead>
void pool_ids_from(const RowArray& table, const IdBags& bags) {
  const float* rows = table.rows;
  const int64_t dim = table.dim, stride = bags.out_stride;
  if (bags.single()) {
    const int64_t n = bags.num_bags;
    const int64_t* ids = n > 0 ? bags.ids + bags.start(0) : bags.ids;
    if (dim == V::kLanes) return copy_ids<V, 1, kAhead>(rows, ids, n, bags.out, stride);
    if (dim == 2 * V::kLanes) return copy_ids<V, 2, kAhead>(rows, ids, n, bags.out, stride);
    if (dim == 4 * V::kLanes) return copy_ids<V, 4, kAhead>(rows, ids, n, bags.out, stride);
    if (dim == 8 * V::kLanes) return copy_ids<V, 8, kAhead>(rows, ids, n, bags.out, stride);
  }
  const auto start = [offsets = bags.offsets](int64_t b) { return offsets == nullptr ? b : offsets[b]; };
  pool_bags<V, kAhead>(NumberedRows{rows, dim, bags.ids}, start, bags.num_bags, dim, bags.mean, bags.out,
                       stride);
}

template <typename V>
void pool_ids(const RowArray& table, const IdBags& bags) {
  // Rows that the second-level cache holds anyway are not asked for.
  constexpr int64_t kCached = (int64_t{1} << 18) / static_cast<int64_t>(sizeof(float));
  if (table.num_rows * table.dim <= kCached) return pool_ids_from<V, false>(table, bags);
  pool_ids_from<V, true>(table, bags);
}

}  // namespace
}  // namespace screc
