// Gathering and pooling rows, for any vector of vec_*.h.
//
// Limit: memory. A row of d floats is read once (4d bytes, whole cache lines) and a bag written once, against
// d additions; 64-byte rows out of a large table are bound by the cache misses in flight, so rows further on
// are asked for early.
#pragma once

#include <cstdint>

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

// Columns [0, width) of one bag, width <= kVectors * V::kLanes, kept in registers.
template <typename V, int kVectors>
void pool_columns(const float* const* rows, int64_t count, int64_t width, bool mean, float* out) {
  constexpr int64_t kLanes = V::kLanes;
  const int64_t last = width - (kVectors - 1) * kLanes;  // lanes of the last vector
  typename V::F sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sum[v] = V::zero();
  for (int64_t k = 0; k < count; ++k) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors - 1; ++v) sum[v] = V::add(sum[v], V::load(rows[k] + v * kLanes));
    const float* tail = rows[k] + (kVectors - 1) * kLanes;
    sum[kVectors - 1] = V::add(sum[kVectors - 1], last == kLanes ? V::load(tail) : V::load_part(tail, last));
  }
  if (mean && count > 1) {
    const typename V::F divisor = V::set1(static_cast<float>(count));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v] = V::div(sum[v], divisor);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors - 1; ++v) V::store(out + v * kLanes, sum[v]);
  V::store_part(out + (kVectors - 1) * kLanes, sum[kVectors - 1], last);
}

template <typename V>
void pool_bag(const float* const* rows, int64_t count, int64_t dim, bool mean, float* out) {
  constexpr int64_t kLanes = V::kLanes;
  if (dim <= kLanes) return pool_columns<V, 1>(rows, count, dim, mean, out);
  if (dim <= 2 * kLanes) return pool_columns<V, 2>(rows, count, dim, mean, out);
  if (dim <= 4 * kLanes && dim > 3 * kLanes) return pool_columns<V, 4>(rows, count, dim, mean, out);
  if (dim <= 8 * kLanes && dim > 7 * kLanes) return pool_columns<V, 8>(rows, count, dim, mean, out);
  for (int64_t c = 0; c < dim; c += kLanes) {
    const int64_t width = dim - c < kLanes ? dim - c : kLanes;
    typename V::F sum = V::zero();
    for (int64_t k = 0; k < count; ++k) {
      sum = V::add(sum, width == kLanes ? V::load(rows[k] + c) : V::load_part(rows[k] + c, width));
    }
    if (mean && count > 1) sum = V::div(sum, V::set1(static_cast<float>(count)));
    V::store_part(out + c, sum, width);
  }
}

template <typename V>
void pool_rows(const float* const* rows, const int64_t* offsets, int64_t num_bags, int64_t dim, bool mean,
               float* out, int64_t out_stride) {
  const int64_t end = num_bags > 0 ? offsets[num_bags] : 0;
  int64_t ahead = num_bags > 0 ? offsets[0] : 0;  // look-ups asked for so far
  for (int64_t b = 0; b < num_bags; ++b) {
    const int64_t wanted = offsets[b + 1] + kRowsAhead < end ? offsets[b + 1] + kRowsAhead : end;
    for (; ahead < wanted; ++ahead) prefetch_row(rows[ahead], dim);
    const int64_t count = offsets[b + 1] - offsets[b];
    float* to = out + b * out_stride;
    if (count == 1) {
      copy_row<V>(rows[offsets[b]], dim, to);
    } else {
      pool_bag<V>(rows + offsets[b], count, dim, mean, to);
    }
  }
}

}  // namespace
}  // namespace screc
