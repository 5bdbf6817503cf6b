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
constexpr int64_t kRowsAhead = 24;

// All of a row's cache lines, without a branch that depends on where it stands in them.
inline void prefetch_row(const void* row, int64_t bytes) {
  const auto* p = static_cast<const char*>(row);
  __builtin_prefetch(p);
  for (int64_t c = 64; c < bytes; c += 64) __builtin_prefetch(p + c);
  __builtin_prefetch(p + bytes - 1);
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
inline void decode_row(const RowCodec& codec, const void* row, int64_t dim, float* out) {
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
  for (; c + V::kLanes <= dim; c += V::kLanes) V::store(out + c, value(Rows::load(values, c)));
  const int64_t rest = dim - c;
  if (rest > 0) V::store_part(out + c, value(Rows::load_part(values, c, rest)), rest);
}

// The first n of `known` rows.
template <typename V, typename Rows>
void decode_run(const RowCodec& shared_codec, const void* const* rows, int64_t n, int64_t known, float* out,
                int64_t out_stride) {
  const RowCodec codec = shared_codec;  // nobody writes to this copy
  const int64_t bytes = codec.row_bytes();
  const auto run = [&](int64_t dim) {
    for (int64_t i = 0; i < n; ++i) {
      if (i + kRowsAhead < known) prefetch_row(rows[i + kRowsAhead], bytes);
      decode_row<V, Rows>(codec, rows[i], dim, out + i * out_stride);
    }
  };
  if (codec.dim == 16) return run(16);  // the usual widths without loops over columns
  if (codec.dim == 64) return run(64);
  run(codec.dim);
}

template <typename V>
void decode_rows(const RowCodec& codec, const void* const* rows, int64_t n, float* out, int64_t out_stride) {
  with_rows<V>(codec,
               [&](auto policy) { decode_run<V, decltype(policy)>(codec, rows, n, n, out, out_stride); });
}

// Columns [first, first + width) of a bag of two rows or more, width = (kVectors - 1) * V::kLanes + last,
// kept in registers and summed for kRows rows side by side, so that an addition need not wait for the one
// before. The rows kRowsAhead further on, of `known` from this bag's first, are asked for on the way.
template <typename V, typename Rows, int kVectors, int kRows>
inline void pool_columns(const RowCodec& codec, const void* const* rows, int64_t count, int64_t known,
                         int64_t row_bytes, int64_t first, int64_t last, bool mean, float* out) {
  using F = typename V::F;
  constexpr int64_t kLanes = V::kLanes;
  F sum[kRows][kVectors];
  __m128 scales = _mm_setzero_ps();  // of all rows; the sum of their biases is float 1
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[i][v] = V::zero();
  }
  const auto add_row = [&](F* to, int64_t k) {
    const auto* row = static_cast<const std::byte*>(rows[k]);
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
  const int64_t grouped = count / kRows * kRows;
  int64_t k = 0;
  for (; k < grouped && k + kRowsAhead + kRows <= known; k += kRows) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) prefetch_row(rows[k + kRowsAhead + i], row_bytes);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) add_row(sum[i], k + i);
  }
  for (; k < grouped; k += kRows) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) add_row(sum[i], k + i);
  }
  for (; k < count; ++k) {
    if (k + kRowsAhead < known) prefetch_row(rows[k + kRowsAhead], row_bytes);
    add_row(sum[0], k);
  }

  const float n = static_cast<float>(count);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    F total = sum[0][v];
    if constexpr (kRows == 2) total = V::add(total, sum[1][v]);
    if constexpr (kRows == 4) total = V::add(V::add(total, sum[1][v]), V::add(sum[2][v], sum[3][v]));
    if constexpr (Rows::kHeader > 0) {
      total = V::add(total, V::set1(_mm_cvtss_f32(_mm_movehdup_ps(scales))));
    } else if constexpr (Rows::kCodes) {
      total = V::fma(V::set1(codec.shared.scale), total, V::set1(codec.shared.bias * n));
    }
    if (mean) total = V::div(total, V::set1(n));
    float* to = out + first + v * kLanes;
    if (v < kVectors - 1 || last == kLanes) {
      V::store(to, total);
    } else {
      V::store_part(to, total, last);
    }
  }
}

// The columns from `first` on, which need no prefetch any more.
template <typename V, typename Rows>
void pool_rest(const RowCodec& codec, const void* const* rows, int64_t count, int64_t first, bool mean,
               float* out) {
  constexpr int64_t kLanes = V::kLanes;
  for (; codec.dim - first >= 4 * kLanes; first += 4 * kLanes) {
    pool_columns<V, Rows, 4, 1>(codec, rows, count, 0, 0, first, kLanes, mean, out);
  }
  for (; first < codec.dim; first += kLanes) {
    const int64_t last = codec.dim - first < kLanes ? codec.dim - first : kLanes;
    pool_columns<V, Rows, 1, 1>(codec, rows, count, 0, 0, first, last, mean, out);
  }
}

// All bags, the first kVectors vectors of each row in one pass.
template <typename V, typename Rows, int kVectors>
void pool_bags(const RowCodec& shared_codec, const void* const* rows, const int64_t* offsets,
               int64_t num_bags, bool mean, float* out, int64_t out_stride) {
  constexpr int kRows = kVectors == 1 ? 4 : kVectors == 2 ? 2 : 1;
  const RowCodec codec = shared_codec;  // nobody writes to this copy
  const int64_t row_bytes = codec.row_bytes(), end = offsets[num_bags];
  const int64_t width = codec.dim < kVectors * V::kLanes ? codec.dim : kVectors * V::kLanes;
  const int64_t last = width - (kVectors - 1) * V::kLanes;
  for (int64_t b = 0; b < num_bags;) {
    const int64_t begin = offsets[b], count = offsets[b + 1] - begin;
    float* to = out + b * out_stride;
    if (count == 1) {
      int64_t run = 1;
      while (b + run < num_bags && offsets[b + run + 1] == begin + run + 1) ++run;
      decode_run<V, Rows>(codec, rows + begin, run, end - begin, to, out_stride);
      b += run;
      continue;
    }
    if (count > 0) {
      const void* const* bag = rows + begin;
      if (count >= kRows) {
        pool_columns<V, Rows, kVectors, kRows>(codec, bag, count, end - begin, row_bytes, 0, last, mean, to);
      } else {
        pool_columns<V, Rows, kVectors, 1>(codec, bag, count, end - begin, row_bytes, 0, last, mean, to);
      }
      if (width < codec.dim) pool_rest<V, Rows>(codec, bag, count, width, mean, to);
    } else {
      for (int64_t c = 0; c < codec.dim; ++c) to[c] = 0.0f;
    }
    ++b;
  }
}

template <typename V>
void pool_rows(const RowCodec& codec, const void* const* rows, const int64_t* offsets, int64_t num_bags,
               bool mean, float* out, int64_t out_stride) {
  if (num_bags == 0) return;
  const int64_t vectors = (codec.dim + V::kLanes - 1) / V::kLanes;
  with_rows<V>(codec, [&](auto policy) {
    using Rows = decltype(policy);
    auto* run = pool_bags<V, Rows, 1>;
    if (vectors == 2) run = pool_bags<V, Rows, 2>;
    if (vectors == 3) run = pool_bags<V, Rows, 3>;
    if (vectors > 3) run = pool_bags<V, Rows, 4>;
    if (vectors > 7) run = pool_bags<V, Rows, 8>;
    run(codec, rows, offsets, num_bags, mean, out, out_stride);
  });
}

}  // namespace
}  // namespace screc
