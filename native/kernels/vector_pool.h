// Gathering and pooling rows, for any vector of vec_*.h.
//
// Limit: memory. A row of d floats is read once (4d bytes, whole cache lines) and a bag written once, against
// d additions; rows out of a large table are bound by the cache misses in flight, so rows further on are
// asked for early, into the second-level cache: it takes more misses at a time than the first (rows of 64 and
// 256 bytes out of 2 GB came 1.4 and 1.7 times as fast on Zen 4).
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/id_bags.h"

namespace screc {
namespace {

// Rows ahead that are prefetched: about the misses that the second-level cache keeps in flight.
constexpr int64_t kRowsAhead = 32;

// Inlined: a call among sums that are kept in registers would spill them.
[[gnu::always_inline]] inline void prefetch_row(const float* row, int64_t dim) {
  for (int64_t c = 0; c < dim; c += 16) __builtin_prefetch(row + c, 0, 2);
}

template <typename V>
[[gnu::always_inline]] inline void copy_row(const float* from, int64_t dim, float* to) {
  int64_t c = 0;
  for (; c + V::kLanes <= dim; c += V::kLanes) V::store(to + c, V::load(from + c));
  if (c < dim) V::store_part(to + c, V::load_part(from + c, dim - c), dim - c);
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

// Columns [column, column + width) of the bag of look-ups [begin, end), width <= kVectors * V::kLanes
// (kWhole: equal), kept in registers. `fetch(k)` is called for every look-up.
template <typename V, int kVectors, bool kWhole, typename Rows, typename Fetch>
[[gnu::always_inline]] inline void pool_columns(Rows rows, int64_t begin, int64_t end, int64_t column,
                                                int64_t width, bool mean, float* out, const Fetch& fetch) {
  constexpr int64_t kLanes = V::kLanes;
  const int64_t last = width - (kVectors - 1) * kLanes;  // lanes of the last vector
  typename V::F sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sum[v] = V::zero();
  for (int64_t k = begin; k < end; ++k) {
    fetch(k);
    const float* row = rows[k] + column;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const bool whole = kWhole || v + 1 < kVectors || last == kLanes;
      sum[v] = V::add(sum[v], whole ? V::load(row + v * kLanes) : V::load_part(row + v * kLanes, last));
    }
  }
  if (mean && end - begin > 1) {
    const typename V::F divisor = V::set1(static_cast<float>(end - begin));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v] = V::div(sum[v], divisor);
  }
  out += column;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    if (kWhole || v + 1 < kVectors) {
      V::store(out + v * kLanes, sum[v]);
    } else {
      V::store_part(out + v * kLanes, sum[v], last);
    }
  }
}

// One bag of rows of any length.
template <typename V, typename Rows, typename Fetch>
void pool_bag(Rows rows, int64_t begin, int64_t end, int64_t dim, bool mean, float* out, const Fetch& fetch) {
  constexpr int64_t kLanes = V::kLanes;
  if (end - begin == 1) {
    fetch(begin);
    return copy_row<V>(rows[begin], dim, out);
  }
  int64_t c = 0;
  if (dim > 3 * kLanes) {
    for (; c + 4 * kLanes <= dim; c += 4 * kLanes) {
      if (c == 0) {
        pool_columns<V, 4, true>(rows, begin, end, c, 4 * kLanes, mean, out, fetch);
      } else {
        pool_columns<V, 4, true>(rows, begin, end, c, 4 * kLanes, mean, out, [](int64_t) {});
      }
    }
  }
  for (; c < dim; c += kLanes) {
    const int64_t width = dim - c < kLanes ? dim - c : kLanes;
    if (c == 0) {
      pool_columns<V, 1, false>(rows, begin, end, c, width, mean, out, fetch);
    } else {
      pool_columns<V, 1, false>(rows, begin, end, c, width, mean, out, [](int64_t) {});
    }
  }
}

// kVectors: of a row, all whole; 0: rows of any length. kAhead: rows are prefetched.
template <typename V, int kVectors, bool kAhead, typename Rows>
void pool_bags(Rows rows, const int64_t* offsets, int64_t num_bags, int64_t any_dim, bool mean, float* out,
               int64_t out_stride) {
  if (num_bags == 0) return;
  const int64_t dim = kVectors > 0 ? kVectors * V::kLanes : any_dim;
  const int64_t end = offsets[num_bags];
  const auto fetch = [&](int64_t k) __attribute__((always_inline)) {
    if constexpr (kAhead) prefetch_row(rows[k + kRowsAhead < end ? k + kRowsAhead : end - 1], dim);
  };
  if constexpr (kAhead) {
    for (int64_t k = offsets[0]; k < end && k < offsets[0] + kRowsAhead; ++k) prefetch_row(rows[k], dim);
  }
  for (int64_t b = 0; b < num_bags; ++b) {
    const int64_t first = offsets[b], last = offsets[b + 1];
    if constexpr (kVectors == 0) {
      pool_bag<V>(rows, first, last, dim, mean, out + b * out_stride, fetch);
    } else if (last - first == 1) {
      fetch(first);
      copy_row<V>(rows[first], dim, out + b * out_stride);
    } else {
      pool_columns<V, kVectors, true>(rows, first, last, 0, dim, mean, out + b * out_stride, fetch);
    }
  }
}

// call(kVectors): the number of whole vectors of a row where kernels are made for it, else 0.
template <typename V, typename Call>
void with_vectors(int64_t dim, const Call& call) {
  if (dim == V::kLanes) return call(std::integral_constant<int, 1>());
  if (dim == 2 * V::kLanes) return call(std::integral_constant<int, 2>());
  if (dim == 4 * V::kLanes) return call(std::integral_constant<int, 4>());
  if (dim == 8 * V::kLanes) return call(std::integral_constant<int, 8>());
  call(std::integral_constant<int, 0>());
}

template <typename V>
void pool_rows(const float* const* rows, const int64_t* offsets, int64_t num_bags, int64_t dim, bool mean,
               float* out, int64_t out_stride) {
  with_vectors<V>(dim, [&](auto vectors) {
    pool_bags<V, decltype(vectors)::value, true>(PointedRows{rows}, offsets, num_bags, dim, mean, out,
                                                 out_stride);
  });
}

// The row of each of n ids. kVectors and kAhead as in pool_bags.
template <typename V, int kVectors, bool kAhead>
void copy_ids(const float* rows, int64_t any_dim, const int64_t* ids, int64_t n, float* out,
              int64_t out_stride) {
  const int64_t dim = kVectors > 0 ? kVectors * V::kLanes : any_dim;
  int64_t i = 0;
  if constexpr (kAhead) {
    for (int64_t k = 0; k < n && k < kRowsAhead; ++k) prefetch_row(rows + ids[k] * dim, dim);
    for (; i + kRowsAhead < n; ++i) {
      prefetch_row(rows + ids[i + kRowsAhead] * dim, dim);
      copy_row<V>(rows + ids[i] * dim, dim, out + i * out_stride);
    }
  }
  for (; i < n; ++i) copy_row<V>(rows + ids[i] * dim, dim, out + i * out_stride);
}

template <typename V, bool kAhead>
void pool_ids_from(const RowArray& table, const IdBags& bags) {
  const int64_t dim = table.dim, n = bags.num_bags;
  if (bags.single()) {
    const int64_t* ids = bags.ids + (n > 0 ? bags.start(0) : 0);
    with_vectors<V>(dim, [&](auto vectors) {
      copy_ids<V, decltype(vectors)::value, kAhead>(table.rows, dim, ids, n, bags.out, bags.out_stride);
    });
  } else {
    with_vectors<V>(dim, [&](auto vectors) {
      pool_bags<V, decltype(vectors)::value, kAhead>(NumberedRows{table.rows, dim, bags.ids}, bags.offsets, n,
                                                     dim, bags.mean, bags.out, bags.out_stride);
    });
  }
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
