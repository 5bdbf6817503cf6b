// Gathering, decoding and pooling rows, for any vector of vec_*.h.
//
// Limits: memory, then loads. A row of d values is read once (its bytes as encoded, in whole cache lines) and
// a bag written once, against d additions, or conversions and multiply-adds of codes; short rows out of a
// large table are bound by the cache misses in flight, so rows further on are asked for early. Out of the
// cache, int8 takes 3 and int4 4 vector operations for every vector of values, fp32 one.
#pragma once

#include <cstdint>

#include "kernels/vector_rows.h"

namespace screc {
namespace {

// Rows ahead that are prefetched: about the misses that one core keeps in flight.
constexpr int64_t kRowsAhead = 12;

inline void prefetch_row(const void* row, int64_t bytes) {
  const auto* p = static_cast<const char*>(row);
  for (int64_t c = 0; c < bytes; c += 64) __builtin_prefetch(p + c);
  __builtin_prefetch(p + bytes - 1);  // a row need not begin where a cache line does
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
    if (i + kRowsAhead < n) {
      prefetch_row(rows + ids[i + kRowsAhead] * dim, dim * static_cast<int64_t>(sizeof(float)));
    }
    copy_row<V>(rows + ids[i] * dim, dim, out + i * dim);
  }
}

template <typename V, typename Rows>
void decode_row(const RowCodec& codec, const void* row, float* out) {
  const auto* bytes = static_cast<const std::byte*>(row);
  const std::byte* values = bytes + Rows::kHeader;
  typename V::F scale = V::set1(codec.shared.scale), bias = V::set1(codec.shared.bias);
  if constexpr (Rows::kHeader > 0) {
    const __m128 own = scale_and_bias(bytes);
    scale = V::set1(_mm_cvtss_f32(own));
    bias = V::set1(_mm_cvtss_f32(_mm_movehdup_ps(own)));
  }
  const auto value = [&](typename V::F x) {
    if constexpr (Rows::kCodes) return V::fma(scale, x, bias);
    return x;
  };
  int64_t c = 0;
  for (; c + V::kLanes <= codec.dim; c += V::kLanes) V::store(out + c, value(Rows::load(values, c)));
  const int64_t rest = codec.dim - c;
  if (rest > 0) V::store_part(out + c, value(Rows::load_part(values, c, rest)), rest);
}

template <typename V>
void decode_rows(const RowCodec& codec, const void* const* rows, int64_t n, float* out, int64_t out_stride) {
  const int64_t bytes = codec.row_bytes();
  with_rows<V>(codec, [&](auto policy) {
    for (int64_t i = 0; i < n; ++i) {
      if (i + kRowsAhead < n) prefetch_row(rows[i + kRowsAhead], bytes);
      decode_row<V, decltype(policy)>(codec, rows[i], out + i * out_stride);
    }
  });
}

// One bag of two rows or more, and what follows it in the call.
struct Bag {
  const void* const* rows;
  int64_t count;
  int64_t known;  // row pointers from `rows` on, those of later bags included
  int64_t row_bytes;
  bool mean;
  float* out;
};

// Columns [first, first + width) of a bag, width <= kVectors * V::kLanes, kept in registers. Few of them are
// summed for kRows rows side by side, so that an addition need not wait for the one before. kPrefetch: asks
// for the rows ahead on the way.
template <typename V, typename Rows, int kVectors, bool kPrefetch>
void pool_columns(const RowCodec& codec, const Bag& bag, int64_t first, int64_t width) {
  using F = typename V::F;
  constexpr int64_t kLanes = V::kLanes;
  constexpr int kRows = kVectors == 1 ? 4 : kVectors == 2 ? 2 : 1;
  const int64_t last = width - (kVectors - 1) * kLanes;  // lanes of the last vector
  F sum[kRows][kVectors];
  __m128 scales = _mm_setzero_ps();  // of all rows; the sum of their biases is float 1
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[i][v] = V::zero();
  }
  const auto add_row = [&](F* to, int64_t k) {
    if constexpr (kPrefetch) {
      const int64_t ahead = k + kRowsAhead < bag.known ? k + kRowsAhead : bag.known - 1;
      prefetch_row(bag.rows[ahead], bag.row_bytes);
    }
    const auto* row = static_cast<const std::byte*>(bag.rows[k]);
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
      const F x =
          v < kVectors - 1 || last == kLanes ? Rows::load(values, c) : Rows::load_part(values, c, last);
      to[v] = Rows::kHeader > 0 ? V::fma(scale, x, to[v]) : V::add(to[v], x);
    }
  };
  int64_t k = 0;
  for (; k + kRows <= bag.count; k += kRows) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) add_row(sum[i], k + i);
  }
  for (; k < bag.count; ++k) add_row(sum[0], k);

  const float n = static_cast<float>(bag.count);
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
    if (v < kVectors - 1 || last == kLanes) {
      V::store(to, total);
    } else {
      V::store_part(to, total, last);
    }
  }
}

// From column `first` on, as many vectors as fit the registers; returns the first column left.
template <typename V, typename Rows, bool kPrefetch>
int64_t pool_some(const RowCodec& codec, const Bag& bag, int64_t first) {
  constexpr int64_t kLanes = V::kLanes;
  const int64_t left = codec.dim - first;
  const auto run = [&]<int kVectors>() {
    const int64_t width = left < kVectors * kLanes ? left : kVectors * kLanes;
    pool_columns<V, Rows, kVectors, kPrefetch>(codec, bag, first, width);
    return first + width;
  };
  if (left > 7 * kLanes) return run.template operator()<8>();
  if (left > 3 * kLanes) return run.template operator()<4>();
  if (left > 2 * kLanes) return run.template operator()<3>();
  if (left > kLanes) return run.template operator()<2>();
  return run.template operator()<1>();
}

template <typename V>
void pool_rows(const RowCodec& codec, const void* const* rows, const int64_t* offsets, int64_t num_bags,
               bool mean, float* out, int64_t out_stride) {
  const int64_t dim = codec.dim, bytes = codec.row_bytes();
  const int64_t end = num_bags > 0 ? offsets[num_bags] : 0;
  with_rows<V>(codec, [&](auto policy) {
    using Rows = decltype(policy);
    for (int64_t b = 0; b < num_bags; ++b) {
      const int64_t begin = offsets[b], count = offsets[b + 1] - begin;
      float* to = out + b * out_stride;
      if (count == 0) {
        for (int64_t c = 0; c < dim; ++c) to[c] = 0.0f;
      } else if (count == 1) {
        if (begin + kRowsAhead < end) prefetch_row(rows[begin + kRowsAhead], bytes);
        decode_row<V, Rows>(codec, rows[begin], to);
      } else {
        const Bag bag{rows + begin, count, end - begin, bytes, mean, to};
        int64_t first = pool_some<V, Rows, true>(codec, bag, 0);
        while (first < dim) first = pool_some<V, Rows, false>(codec, bag, first);
      }
    }
  });
}

}  // namespace
}  // namespace screc
