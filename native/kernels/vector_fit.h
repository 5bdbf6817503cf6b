// The two products of a tensor-train fit with the rows of a band, for any vector of vec_*.h.
//
// Both run over tiles (fit/row_tiles.h): n rows, the slices of the last core, of four vectors of columns; a
// column is a column of the cores before (and a prefix of slots) and one of the last core's Q columns, Q a
// power of two up to the lanes. So vectors run along the rows as they lie in memory, and what depends on the
// last core's column alone, or on all but it alone, is the same pattern in every vector:
//   fit_project    Z[b][column]  = sum over rows i of pattern(G[i][b]) * tile[i][column]
//   fit_correlate  R[i][b][lane] = sum over tiles and vectors of tile[i][vector] * pattern(P[b][vector])
// where lanes of the same column of the last core are still to be added up, once at the end.
//
// Limits: a table of N x d costs 2 N d r operations per product at TT rank r, and 4 N d bytes, once. At 16
// multiply-adds a cycle and more for r >= 16 operations are the limit. A block of 6 TT ranks x 4 vectors, or
// 8 rows x 3 TT ranks, has 24 sums in registers and takes 10 or 11 loads for 24 multiply-adds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace screc {
namespace {

constexpr int kTileVectors = 4;
constexpr int64_t kLineFloats = 16, kMostTiles = 16;

template <typename V>
struct FitShape {
  static constexpr int64_t kWidth = kTileVectors * V::kLanes, kLines = kWidth / kLineFloats;
  static constexpr bool kWide = V::kRegisters == 32;
  static constexpr int kProjected = kWide ? 6 : 2;  // TT ranks of a block of fit_project
  static constexpr int kRows = kWide ? 8 : 4;       // rows and TT ranks of a block of fit_correlate
  static constexpr int kCorrelated = kWide ? 3 : 2;
};

// body.template operator()<R>(first) for blocks of nearly equal size R <= kMost that cover [0, n).
template <int kMost, typename Body>
void in_blocks(int64_t n, const Body& body) {
  const int64_t blocks = (n + kMost - 1) / kMost;
  int64_t first = 0;
  for (int64_t k = 0; k < blocks; ++k) {
    const int64_t size = n / blocks + (k < n % blocks ? 1 : 0);
    [&]<int... kSizes>(std::integer_sequence<int, kSizes...>) {
      static_cast<void>(((size == kSizes + 1 && (body.template operator()<kSizes + 1>(first), true)) || ...));
    }(std::make_integer_sequence<int, kMost>());
    first += size;
  }
}

// Rows that are needed soon are fetched into the second level of cache meanwhile, kAhead lines with each row
// of the tile: in the order in which they lie, which the processor's own prefetching then takes up.
template <typename V, int R, bool kFour, int kAhead>
void project_block(const float* tile, int64_t n, const float* core, int64_t core_stride, const float* ahead,
                   int64_t ahead_stride, float* out) {
  using F = typename V::F;
  constexpr int64_t kWidth = FitShape<V>::kWidth, kPeriod = kFour ? 4 : V::kLanes;
  F sum[R][kTileVectors];
#pragma GCC unroll 8
  for (int b = 0; b < R; ++b) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) sum[b][v] = V::load(out + b * kWidth + v * V::kLanes);
  }
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (kAhead > 0) {
      constexpr int64_t kTimes = FitShape<V>::kLines / kAhead;  // a row ahead takes so many rows of the tile
      const float* line = ahead + i / kTimes * ahead_stride + i % kTimes * kAhead * kLineFloats;
#pragma GCC unroll 2
      for (int l = 0; l < kAhead; ++l) __builtin_prefetch(line + l * kLineFloats, 0, 2);
    }
    F x[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) x[v] = V::load(tile + i * kWidth + v * V::kLanes);
#pragma GCC unroll 8
    for (int b = 0; b < R; ++b) {
      const float* at = core + i * core_stride + b * kPeriod;
      const F g = kFour ? V::load4(at) : V::load(at);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sum[b][v] = V::fma(g, x[v], sum[b][v]);
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < R; ++b) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) V::store(out + b * kWidth + v * V::kLanes, sum[b][v]);
  }
}

template <typename V>
void fit_project(const float* tile, int64_t n, const float* core, int64_t period, int64_t rank,
                 const float* ahead, int64_t ahead_stride, float* out) {
  using Shape = FitShape<V>;
  constexpr int kMost = Shape::kProjected;
  const int64_t stride = rank * period;
  const int lines = rank > 3 * kMost ? 1 : 2;  // with each row
  int64_t fetched = ahead == nullptr ? n : 0;  // rows ahead
  in_blocks<kMost>(rank, [&]<int R>(int64_t first) {
    const auto run = [&]<bool kFour, int kAhead>() {
      project_block<V, R, kFour, kAhead>(tile, n, core + first * period, stride,
                                         ahead + fetched * ahead_stride, ahead_stride,
                                         out + first * Shape::kWidth);
    };
    if (period != 4) {
      run.template operator()<false, 0>();
    } else if (fetched >= n) {
      run.template operator()<true, 0>();
    } else {
      lines == 1 ? run.template operator()<true, 1>() : run.template operator()<true, 2>();
      fetched += n * lines / Shape::kLines;
    }
  });
}

// kFour: a vector of the pattern is made of 4 numbers at most.
// kAhead: the lines of two rows ahead of every tile are fetched into the second level of cache.
template <typename V, int kRows, int R, bool kFour, bool kAhead>
void correlate_block(const float* tiles, int64_t tile_stride, int64_t num_tiles, const float* products,
                     int64_t step, int64_t products_stride, int64_t rank, typename V::Index index,
                     const float* const* ahead, int64_t ahead_stride, float* out) {
  using F = typename V::F;
  constexpr int64_t kWidth = FitShape<V>::kWidth;
  F sum[kRows][R];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int b = 0; b < R; ++b) sum[i][b] = V::load(out + (i * rank + b) * V::kLanes);
  }
  for (int64_t t = 0; t < num_tiles; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      if constexpr (kAhead) {
        constexpr int kHalf = kTileVectors / 2;
        const float* line = ahead[t] + v / kHalf * ahead_stride + v % kHalf * 2 * V::kLanes;
        __builtin_prefetch(line, 0, 2);
        if constexpr (V::kLanes >= kLineFloats) __builtin_prefetch(line + kLineFloats, 0, 2);
      }
      F p[R];
#pragma GCC unroll 4
      for (int b = 0; b < R; ++b) {
        const float* at = products + b * products_stride + v * step;
        p[b] = kFour ? V::permute4(V::load4(at), index) : V::permute(V::load(at), index);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const F x = V::load(tiles + i * kWidth + v * V::kLanes);
#pragma GCC unroll 4
        for (int b = 0; b < R; ++b) sum[i][b] = V::fma(x, p[b], sum[i][b]);
      }
    }
    tiles += tile_stride;
    products += rank * products_stride;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int b = 0; b < R; ++b) V::store(out + (i * rank + b) * V::kLanes, sum[i][b]);
  }
}

template <typename V>
void fit_correlate(const float* tiles, int64_t tile_stride, int64_t num_tiles, int64_t n,
                   const float* products, int64_t columns, int64_t rank, const float* const* ahead,
                   int64_t ahead_stride, float* out) {
  using Shape = FitShape<V>;
  const int64_t step = V::kLanes / columns;  // numbers of a pattern that a vector takes
  const int64_t stride = kTileVectors * step;
  alignas(64) int32_t numbers[V::kLanes];
  for (int64_t l = 0; l < V::kLanes; ++l) numbers[l] = static_cast<int32_t>(l / columns);
  const typename V::Index index = V::load_index(numbers);
  int64_t fetched = ahead == nullptr ? n : 0;  // rows ahead
  const float* from[kMostTiles];
  in_blocks<Shape::kRows>(n, [&]<int kRows>(int64_t row) {
    in_blocks<Shape::kCorrelated>(rank, [&]<int R>(int64_t first) {
      const auto run = [&]<bool kFour, bool kAhead>() {
        correlate_block<V, kRows, R, kFour, kAhead>(
            tiles + row * Shape::kWidth, tile_stride, num_tiles, products + first * stride, step, stride,
            rank, index, from, ahead_stride, out + (row * rank + first) * V::kLanes);
      };
      if (step > 4) {
        run.template operator()<false, false>();
      } else if (fetched + 2 > n) {
        run.template operator()<true, false>();
      } else {
        for (int64_t t = 0; t < num_tiles; ++t) from[t] = ahead[t] + fetched * ahead_stride;
        run.template operator()<true, true>();
        fetched += 2;
      }
    });
  });
}

// to[c][r] = from[r][c] for rows r < n and columns c < m.
template <typename V>
void transpose(const float* from, int64_t from_stride, int64_t n, int64_t m, float* to, int64_t to_stride) {
  constexpr int64_t kLanes = V::kLanes;
  for (int64_t r = 0; r < n; r += kLanes) {
    for (int64_t c = 0; c < m; c += kLanes) {
      const int64_t rows = std::min(kLanes, n - r), columns = std::min(kLanes, m - c);
      alignas(64) float block[kLanes * kLanes];
      V::transpose(from + r * from_stride + c, from_stride, rows, columns, block, kLanes);
      for (int64_t k = 0; k < columns; ++k) {
        V::store_part(to + (c + k) * to_stride + r, V::load(block + k * kLanes), rows);
      }
    }
  }
}

template <typename V>
float scale_rows(const float* rows, int64_t stride, const float* weights, int64_t n, int64_t length,
                 float* out, int64_t out_stride) {
  using F = typename V::F;
  F sum[2] = {V::zero(), V::zero()};
  for (int64_t i = 0; i < n; ++i, rows += stride, out += out_stride) {
    if (weights[i] == 0.0f) {  // whatever the row holds
      for (int64_t c = 0; c < length; ++c) out[c] = 0.0f;
      continue;
    }
    const F w = V::set1(weights[i]);
    int64_t c = 0;
    for (; c + 2 * V::kLanes <= length; c += 2 * V::kLanes) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const F x = V::load(rows + c + v * V::kLanes), y = V::mul(w, x);
        sum[v] = V::fma(x, y, sum[v]);
        V::store(out + c + v * V::kLanes, y);
      }
    }
    for (; c < length; c += V::kLanes) {
      const int64_t left = length - c < V::kLanes ? length - c : V::kLanes;
      const F x = V::load_part(rows + c, left), y = V::mul(w, x);
      sum[0] = V::fma(x, y, sum[0]);
      V::store_part(out + c, y, left);
    }
  }
  return V::sum(V::add(sum[0], sum[1]));
}

}  // namespace
}  // namespace screc
