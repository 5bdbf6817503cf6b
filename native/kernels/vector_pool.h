// Gathering, decoding and pooling rows, for any vector of vec_*.h.
//
// Limits: memory, then loads. A row of d values is read once (its bytes as encoded, in whole cache lines) and
// a bag written once, against d additions, or conversions and multiply-adds of codes; rows out of a large
// table are bound by the cache misses in flight, so rows further on are asked for early, into the
// second-level cache: it takes more misses at a time than the first (rows of 64, 256 and 512 bytes out of 2
// GB come 1.4, 1.7 and 1.5 times as fast so on Zen 4). Out of the cache, int8 takes 3 and int4 4 vector
// operations for every vector of values, fp32 one.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/id_bags.h"
#include "kernels/vector_rows.h"

namespace screc {
namespace {

// Rows ahead that are prefetched: about the misses that the second-level cache keeps in flight.
constexpr int64_t kRowsAhead = 32;

// Inlined: a call among sums that are kept in registers would spill them.
[[gnu::always_inline]] inline void prefetch_row(const std::byte* row, int64_t bytes) {
  for (int64_t c = 0; c < bytes; c += 64) __builtin_prefetch(row + c, 0, 2);
  __builtin_prefetch(row + bytes - 1, 0, 2);  // a row need not begin where a cache line does
}

// Where the row of the k-th look-up is.
struct PointedRows {
  const void* const* rows;
  const std::byte* operator[](int64_t k) const { return static_cast<const std::byte*>(rows[k]); }
};
struct NumberedRows {
  const std::byte* rows;
  int64_t row_bytes;
  const int64_t* ids;
  const std::byte* operator[](int64_t k) const { return rows + ids[k] * row_bytes; }
};

// kVectors: of a row, all whole; 0: rows of any length.
template <typename V, typename Rows, int kVectors>
[[gnu::always_inline]] inline void decode_row(const RowCodec& codec, const std::byte* row, float* out) {
  const std::byte* values = row + Rows::kHeader;
  typename V::F scale = V::set1(codec.shared.scale), bias = V::set1(codec.shared.bias);
  if constexpr (Rows::kHeader > 0) {
    const __m128 own = scale_and_bias(row);
    scale = V::set1(_mm_cvtss_f32(own));
    bias = V::set1(_mm_cvtss_f32(_mm_movehdup_ps(own)));
  }
  const auto value = [&](typename V::F x) {
    if constexpr (Rows::kCodes) return V::fma(scale, x, bias);
    return x;
  };
  const int64_t dim = kVectors > 0 ? kVectors * V::kLanes : codec.dim;
  int64_t c = 0;
  for (; c + V::kLanes <= dim; c += V::kLanes) V::store(out + c, value(Rows::load(values, c)));
  const int64_t rest = dim - c;
  if (rest > 0) V::store_part(out + c, value(Rows::load_part(values, c, rest)), rest);
}

// kAhead: rows further on are prefetched.
template <typename V, typename Rows, int kVectors, bool kAhead, typename Source>
void decode_each(const RowCodec& codec, Source rows, int64_t n, float* out, int64_t out_stride) {
  const int64_t bytes = codec.row_bytes();
  int64_t i = 0;
  if constexpr (kAhead) {
    for (int64_t k = 0; k < n && k < kRowsAhead; ++k) prefetch_row(rows[k], bytes);
    for (; i + kRowsAhead < n; ++i) {
      prefetch_row(rows[i + kRowsAhead], bytes);
      decode_row<V, Rows, kVectors>(codec, rows[i], out + i * out_stride);
    }
  }
  for (; i < n; ++i) decode_row<V, Rows, kVectors>(codec, rows[i], out + i * out_stride);
}

// With loops of constant length where a row is 1, 2, 4 or 8 whole vectors.
template <typename V, bool kAhead, typename Source>
void decode_all(const RowCodec& codec, Source rows, int64_t n, float* out, int64_t out_stride) {
  with_rows<V>(codec, [&](auto policy) {
    using Rows = decltype(policy);
    const auto run = [&]<int kVectors>() {
      decode_each<V, Rows, kVectors, kAhead>(codec, rows, n, out, out_stride);
    };
    if (codec.dim == V::kLanes) return run.template operator()<1>();
    if (codec.dim == 2 * V::kLanes) return run.template operator()<2>();
    if (codec.dim == 4 * V::kLanes) return run.template operator()<4>();
    if (codec.dim == 8 * V::kLanes) return run.template operator()<8>();
    run.template operator()<0>();
  });
}

template <typename V>
void decode_rows(const RowCodec& codec, const void* const* rows, int64_t n, float* out, int64_t out_stride) {
  decode_all<V, true>(codec, PointedRows{rows}, n, out, out_stride);
}

// One bag of two rows or more, and what follows it in the call.
template <typename Source>
struct Bag {
  Source rows;
  int64_t begin, end;  // look-ups
  int64_t last;        // look-up of the call
  int64_t row_bytes;
  bool mean;
  float* out;
};

// Rows that are summed side by side, so that an addition need not wait for the one before, where so many
// vectors of columns are kept in registers.
constexpr int rows_beside(int vectors) { return vectors == 1 ? 4 : vectors == 2 ? 2 : 1; }

// Columns [first, first + width) of a bag, width <= kVectors * V::kLanes (kWhole: equal), kept in registers.
// kAhead: asks for the rows ahead on the way.
template <typename V, typename Rows, int kVectors, bool kWhole, bool kAhead, typename Source>
void pool_columns(const RowCodec& codec, const Bag<Source>& bag, int64_t first, int64_t width) {
  using F = typename V::F;
  constexpr int64_t kLanes = V::kLanes;
  constexpr int kRows = rows_beside(kVectors);
  const int64_t last = width - (kVectors - 1) * kLanes;  // lanes of the last vector
  F sum[kRows][kVectors];
  __m128 scales = _mm_setzero_ps();  // of all rows; the sum of their biases is float 1
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[i][v] = V::zero();
  }
  const auto add_row = [&](F* to, int64_t k) __attribute__((always_inline)) {
    if constexpr (kAhead) {
      prefetch_row(bag.rows[k + kRowsAhead < bag.last ? k + kRowsAhead : bag.last], bag.row_bytes);
    }
    const std::byte* row = bag.rows[k];
    const std::byte* values = row + Rows::kHeader;
    F scale = V::zero();
    if constexpr (Rows::kHeader > 0) {
      const __m128 own = scale_and_bias(row);
      scales = _mm_add_ps(scales, own);
      scale = V::set1(_mm_cvtss_f32(own));
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const int64_t c = first + v * kLanes;
      const F x = kWhole || v < kVectors - 1 || last == kLanes ? Rows::load(values, c)
                                                               : Rows::load_part(values, c, last);
      to[v] = Rows::kHeader > 0 ? V::fma(scale, x, to[v]) : V::add(to[v], x);
    }
  };
  int64_t k = bag.begin;
  for (; k + kRows <= bag.end; k += kRows) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) add_row(sum[i], k + i);
  }
  for (; k < bag.end; ++k) add_row(sum[0], k);

  const float n = static_cast<float>(bag.end - bag.begin);
  const F scale = V::set1(Rows::kHeader > 0 ? 1.0f : codec.shared.scale);
  const F bias = V::set1(Rows::kHeader > 0 ? _mm_cvtss_f32(_mm_movehdup_ps(scales)) : codec.shared.bias * n);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    F total = sum[0][v];
    if constexpr (kRows == 2) total = V::add(total, sum[1][v]);
    if constexpr (kRows == 4) total = V::add(V::add(total, sum[1][v]), V::add(sum[2][v], sum[3][v]));
    if constexpr (Rows::kCodes) total = V::fma(scale, total, bias);
    if (bag.mean) total = V::div(total, V::set1(n));
    float* to = bag.out + first + v * kLanes;
    if (kWhole || v < kVectors - 1 || last == kLanes) {
      V::store(to, total);
    } else {
      V::store_part(to, total, last);
    }
  }
}

// The vectors of columns that are kept in registers when so many columns are left.
constexpr int vectors_at_once(int64_t left, int64_t lanes) {
  return left > 7 * lanes ? 8 : left > 3 * lanes ? 4 : left > 2 * lanes ? 3 : left > lanes ? 2 : 1;
}

// From column `first` on, as many vectors as fit the registers; returns the first column left.
template <typename V, typename Rows, bool kAhead, typename Source>
int64_t pool_some(const RowCodec& codec, const Bag<Source>& bag, int64_t first) {
  const int64_t left = codec.dim - first;
  const auto run = [&]<int kVectors>() {
    constexpr int64_t kMost = kVectors * V::kLanes;
    if (left >= kMost) {
      pool_columns<V, Rows, kVectors, true, kAhead>(codec, bag, first, kMost);
      return first + kMost;
    }
    pool_columns<V, Rows, kVectors, false, kAhead>(codec, bag, first, left);
    return codec.dim;
  };
  switch (vectors_at_once(left, V::kLanes)) {
    case 8:
      return run.template operator()<8>();
    case 4:
      return run.template operator()<4>();
    case 3:
      return run.template operator()<3>();
    case 2:
      return run.template operator()<2>();
    default:
      return run.template operator()<1>();
  }
}

template <typename V, bool kAhead, typename Source>
void pool_bags(const RowCodec& codec, Source rows, const int64_t* offsets, int64_t num_bags, bool mean,
               float* out, int64_t out_stride) {
  if (num_bags == 0) return;
  const int64_t dim = codec.dim, bytes = codec.row_bytes(), end = offsets[num_bags];
  if constexpr (kAhead) {
    for (int64_t k = offsets[0]; k < end && k < offsets[0] + kRowsAhead; ++k) prefetch_row(rows[k], bytes);
  }
  with_rows<V>(codec, [&](auto policy) {
    using Rows = decltype(policy);
    for (int64_t b = 0; b < num_bags; ++b) {
      const Bag<Source> bag{rows, offsets[b], offsets[b + 1], end - 1, bytes, mean, out + b * out_stride};
      if (bag.begin == bag.end) {
        for (int64_t c = 0; c < dim; ++c) bag.out[c] = 0.0f;
      } else if (bag.end - bag.begin == 1) {
        if (kAhead && bag.begin + kRowsAhead < end) prefetch_row(rows[bag.begin + kRowsAhead], bytes);
        decode_row<V, Rows, 0>(codec, rows[bag.begin], bag.out);
      } else {
        int64_t first = pool_some<V, Rows, kAhead>(codec, bag, 0);
        while (first < dim) first = pool_some<V, Rows, false>(codec, bag, first);
      }
    }
  });
}

template <typename V>
void pool_rows(const RowCodec& codec, const void* const* rows, const int64_t* offsets, int64_t num_bags,
               bool mean, float* out, int64_t out_stride) {
  if (num_bags > 0 && single_look_ups(offsets, num_bags)) {
    return decode_all<V, true>(codec, PointedRows{rows + offsets[0]}, num_bags, out, out_stride);
  }
  pool_bags<V, true>(codec, PointedRows{rows}, offsets, num_bags, mean, out, out_stride);
}

template <typename V>
void pool_ids(const RowArray& table, const IdBags& bags) {
  const RowCodec& codec = table.codec;
  const auto run = [&]<bool kAhead>() {
    const int64_t bytes = codec.row_bytes();
    if (bags.single()) {
      const int64_t* ids = bags.ids + (bags.num_bags > 0 ? bags.start(0) : 0);
      decode_all<V, kAhead>(codec, NumberedRows{table.rows, bytes, ids}, bags.num_bags, bags.out,
                            bags.out_stride);
    } else {
      pool_bags<V, kAhead>(codec, NumberedRows{table.rows, bytes, bags.ids}, bags.offsets, bags.num_bags,
                           bags.mean, bags.out, bags.out_stride);
    }
  };
  // Rows that the second-level cache holds anyway are not asked for.
  constexpr int64_t kCached = int64_t{1} << 18;
  if (table.bytes() <= kCached) return run.template operator()<false>();
  run.template operator()<true>();
}

}  // namespace
}  // namespace screc
