// Gathering, decoding and pooling rows, for any vector of vec_*.h.
//
// Limits: memory, then loads. A row of d values is read once (its bytes as encoded, in whole cache lines) and
// a bag written once, against d additions, or conversions and multiply-adds of codes; rows out of a large
// table are bound by the cache misses in flight, so rows further on are asked for early, into the
// second-level cache: it takes more misses at a time than the first (rows of 64, 256 and 512 bytes out of 2
// GB come 1.4, 1.7 and 1.5 times as fast so on Zen 4). Out of the cache, int8 takes 3 and int4 4 vector
// operations for every vector of values, fp32 one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/id_bags.h"
#include "kernels/vector_rows.h"

namespace screc {
namespace {

// Rows ahead that are prefetched. 64 tables of int8 rows of 64 values, 32 a bag: 64 rows ahead take 7 % less
// time than 32 on an Intel core of 2 MiB of second-level cache, 16 take 24 % more, and so does asking for
// them into the first.
constexpr int64_t kRowsAhead = 64;

// All of a row's cache lines, without a branch that depends on where it stands in them. Inlined: a call among
// sums that are kept in registers would spill them.
[[gnu::always_inline]] inline void prefetch_row(const std::byte* row, int64_t bytes) {
  __builtin_prefetch(row, 0, 2);
  for (int64_t c = 64; c < bytes; c += 64) __builtin_prefetch(row + c, 0, 2);
  __builtin_prefetch(row + bytes - 1, 0, 2);
}

// Where the row of the k-th look-up is.
struct PointedRows {
  const void* const* rows;
  const std::byte* operator[](int64_t k) const { return static_cast<const std::byte*>(rows[k]); }
  PointedRows from(int64_t k) const { return {rows + k}; }
};
struct NumberedRows {
  const std::byte* rows;
  int64_t row_bytes;
  const int64_t* ids;
  const std::byte* operator[](int64_t k) const { return rows + ids[k] * row_bytes; }
  NumberedRows from(int64_t k) const { return {rows, row_bytes, ids + k}; }
};

template <typename V, typename Rows>
inline void decode_row(const RowCodec& codec, const std::byte* bytes, int64_t dim, float* out) {
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

// The first n of `known` rows; the others are asked for.
template <typename V, typename Rows, typename Source>
void decode_run(const RowCodec& shared_codec, Source rows, int64_t n, int64_t known, float* out,
                int64_t out_stride) {
  const RowCodec codec = shared_codec;  // nobody writes to this copy
  const int64_t bytes = codec.row_bytes();
  const auto run = [&](int64_t dim) __attribute__((always_inline)) {
    int64_t i = 0;
    for (; i < n && i + kRowsAhead < known; ++i) {
      prefetch_row(rows[i + kRowsAhead], bytes);
      decode_row<V, Rows>(codec, rows[i], dim, out + i * out_stride);
    }
    for (; i < n; ++i) decode_row<V, Rows>(codec, rows[i], dim, out + i * out_stride);
  };
  if (codec.dim == 16) return run(16);  // the usual widths without loops over columns
  if (codec.dim == 64) return run(64);
  run(codec.dim);
}

template <typename V>
void decode_rows(const RowCodec& codec, const void* const* rows, int64_t n, float* out, int64_t out_stride) {
  with_rows<V>(codec, [&](auto policy) {
    decode_run<V, decltype(policy)>(codec, PointedRows{rows}, n, n, out, out_stride);
  });
}

// Rows that are summed side by side, so that an addition need not wait for the one before, where rows have so
// many vectors.
constexpr int rows_beside(int64_t vectors) { return vectors == 1 ? 4 : vectors == 2 ? 2 : 1; }

// Columns [first, first + width) of a bag of two rows or more, width = (kVectors - 1) * V::kLanes + last,
// kept in registers and summed for kRows rows side by side. The rows kRowsAhead further on, of `known` from
// this bag's first, are asked for on the way.
template <typename V, typename Rows, int kVectors, int kRows, typename Source>
inline void pool_columns(const RowCodec& codec, Source rows, int64_t count, int64_t known, int64_t row_bytes,
                         int64_t first, int64_t last, bool mean, float* out) {
  using F = typename V::F;
  constexpr int64_t kLanes = V::kLanes;
  F sum[kRows][kVectors];
  __m128 scales = _mm_setzero_ps();  // of all rows; the sum of their biases is float 1
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[i][v] = V::zero();
  }
  const auto add_row = [&](F* to, int64_t k) __attribute__((always_inline)) {
    const std::byte* row = rows[k];
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
template <typename V, typename Rows, typename Source>
void pool_rest(const RowCodec& codec, Source rows, int64_t count, int64_t first, bool mean, float* out) {
  constexpr int64_t kLanes = V::kLanes;
  for (; codec.dim - first >= 4 * kLanes; first += 4 * kLanes) {
    pool_columns<V, Rows, 4, 1>(codec, rows, count, 0, 0, first, kLanes, mean, out);
  }
  for (; first < codec.dim; first += kLanes) {
    const int64_t last = codec.dim - first < kLanes ? codec.dim - first : kLanes;
    pool_columns<V, Rows, 1, 1>(codec, rows, count, 0, 0, first, last, mean, out);
  }
}

// All bags, the first kVectors vectors of each row in one pass, kRows rows side by side. `ahead`: rows
// further on are asked for.
template <typename V, typename Rows, int kVectors, int kRows, typename Source>
void pool_bags(const RowCodec& shared_codec, Source rows, const int64_t* offsets, int64_t num_bags, bool mean,
               bool ahead, float* out, int64_t out_stride) {
  const RowCodec codec = shared_codec;  // nobody writes to this copy
  const int64_t row_bytes = codec.row_bytes(), end = ahead ? offsets[num_bags] : 0;
  const int64_t width = codec.dim < kVectors * V::kLanes ? codec.dim : kVectors * V::kLanes;
  const int64_t last = width - (kVectors - 1) * V::kLanes;
  for (int64_t b = 0; b < num_bags;) {
    const int64_t begin = offsets[b], count = offsets[b + 1] - begin;
    float* to = out + b * out_stride;
    if (count == 1) {
      int64_t run = 1;
      while (b + run < num_bags && offsets[b + run + 1] == begin + run + 1) ++run;
      decode_run<V, Rows>(codec, rows.from(begin), run, end - begin, to, out_stride);
      b += run;
      continue;
    }
    if (count > 0) {
      const Source bag = rows.from(begin);
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

// whole_dim: as in RowArray.
template <typename V, typename Source>
void pool_all(const RowCodec& codec, int64_t whole_dim, Source rows, const int64_t* offsets, int64_t num_bags,
              bool mean, bool ahead, float* out, int64_t out_stride) {
  if (num_bags == 0) return;
  const int64_t row_bytes = codec.row_bytes();
  for (int64_t k = offsets[0]; ahead && k < offsets[num_bags] && k < offsets[0] + kRowsAhead; ++k) {
    prefetch_row(rows[k], row_bytes);
  }
  const int64_t vectors = (codec.dim + V::kLanes - 1) / V::kLanes;
  const int beside = rows_beside((whole_dim + V::kLanes - 1) / V::kLanes);
  with_rows<V>(codec, [&](auto policy) {
    using Rows = decltype(policy);
    auto* run = pool_bags<V, Rows, 1, 4, Source>;
    if (vectors == 1 && beside == 2) run = pool_bags<V, Rows, 1, 2, Source>;
    if (vectors == 1 && beside == 1) run = pool_bags<V, Rows, 1, 1, Source>;
    if (vectors == 2) run = beside == 2 ? pool_bags<V, Rows, 2, 2, Source> : pool_bags<V, Rows, 2, 1, Source>;
    if (vectors == 3) run = pool_bags<V, Rows, 3, 1, Source>;
    if (vectors > 3) run = pool_bags<V, Rows, 4, 1, Source>;
    if (vectors > 7) run = pool_bags<V, Rows, 8, 1, Source>;
    run(codec, rows, offsets, num_bags, mean, ahead, out, out_stride);
  });
}

template <typename V>
void pool_rows(const RowCodec& codec, const void* const* rows, const int64_t* offsets, int64_t num_bags,
               bool mean, float* out, int64_t out_stride) {
  pool_all<V>(codec, codec.dim, PointedRows{rows}, offsets, num_bags, mean, true, out, out_stride);
}

template <typename V>
void pool_ids(const RowArray& table, const IdBags& bags) {
  // Rows that the second-level cache holds anyway are not asked for.
  constexpr int64_t kCached = int64_t{2} << 20;
  const bool ahead = table.bytes() > kCached;
  const NumberedRows rows{table.rows, table.codec.row_bytes(), bags.ids};
  if (bags.offsets != nullptr) {
    const int64_t whole_dim = std::max(table.whole_dim, table.codec.dim);
    return pool_all<V>(table.codec, whole_dim, rows, bags.offsets, bags.num_bags, bags.mean, ahead, bags.out,
                       bags.out_stride);
  }
  with_rows<V>(table.codec, [&](auto policy) {
    decode_run<V, decltype(policy)>(table.codec, rows, bags.num_bags, ahead ? bags.num_bags : 0, bags.out,
                                    bags.out_stride);
  });
}

}  // namespace
}  // namespace screc
