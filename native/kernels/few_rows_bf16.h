// Dense layers in bf16 for a few rows, to the bit as TDPBF16PS makes them. Compiled for AVX-512.
//
// A tile product takes as long for one row as for sixteen, and reads the weights no faster. Here a word of
// weights takes two operations to unpack, shared by all rows, and two multiply-adds a row: for one row about
// what the second-level cache takes to bring it.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"
#include "kernels/no_denormals.h"
#include "kernels/tile_shape.h"
#include "kernels/vector_encode.h"

namespace screc {
namespace {

// One row of inputs as floats: even ones, then odd ones, `words` of each, filled up with a zero.
inline void part_inputs(const uint16_t* x, int64_t in, int64_t words, float* parts) {
  for (int64_t k = 0; k < words; ++k) {
    const uint32_t odd = 2 * k + 1 < in ? x[2 * k + 1] : 0;
    parts[k] = std::bit_cast<float>(uint32_t{x[2 * k]} << 16);
    parts[words + k] = std::bit_cast<float>(odd << 16);
  }
}

// Rows [row, row + R) and one panel; x are their inputs, parted. TDPBF16PS sums the products of even and of
// odd inputs of a tile apart, each in order and rounded once per product, and adds both sums' sum to the tile
// of sums.
template <typename V, int R>
void few_rows_panel(const LinearWeights& w, const LinearCall& call, const float* x, int64_t row,
                    int64_t panel) {
  using F = typename V::F;
  constexpr int64_t kPanel = 2 * V::kLanes;
  const uint32_t* words = static_cast<const uint32_t*>(w.words) + panel * w.steps * kPanel;
  const int64_t num_words = (w.in + 1) / 2;
  F sum[R][2];
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = V::zero();
  for (int64_t tile = 0; tile < num_words; tile += kTileSteps) {
    F even[R][2], odd[R][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) even[r][0] = even[r][1] = odd[r][0] = odd[r][1] = V::zero();
    for (int64_t k = tile; k < std::min(num_words, tile + kTileSteps); ++k) {
      const typename V::I left = V::load_words(words + k * kPanel);
      const typename V::I right = V::load_words(words + k * kPanel + V::kLanes);
      const typename V::I high = V::set1_word(0xffff0000u);
      const F left_even = V::as_floats(V::shift_up16(left)), left_odd = V::as_floats(V::bit_and(left, high));
      const F right_even = V::as_floats(V::shift_up16(right)),
              right_odd = V::as_floats(V::bit_and(right, high));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const F x_even = V::set1(x[2 * r * num_words + k]), x_odd = V::set1(x[(2 * r + 1) * num_words + k]);
        even[r][0] = V::fma(x_even, left_even, even[r][0]);
        even[r][1] = V::fma(x_even, right_even, even[r][1]);
        odd[r][0] = V::fma(x_odd, left_odd, odd[r][0]);
        odd[r][1] = V::fma(x_odd, right_odd, odd[r][1]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < 2; ++v) sum[r][v] = V::add(sum[r][v], V::add(even[r][v], odd[r][v]));
    }
  }
  const F least = V::set1(call.relu ? 0.0f : -std::numeric_limits<float>::infinity());
  const int64_t row_bytes = call.out_stride * element_bytes(call.output.precision);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < 2; ++v) {
      const int64_t column = panel * kPanel + v * V::kLanes, n = std::min(w.out - column, V::kLanes);
      if (n <= 0) break;
      const F y = V::max(least, V::add(sum[r][v], V::load(w.bias + column)));
      encode_vector<V>(y, column, n, call.output, static_cast<uint8_t*>(call.out) + (row + r) * row_bytes);
    }
  }
}

// Four rows at a time, panels inside: the rows stay in the first-level cache, the weights pass once for all
// four.
template <typename V>
void few_rows_bf16(const LinearWeights& w, const LinearCall& call) {
  const NoDenormals exact;
  const int64_t num_panels = (w.out + 2 * V::kLanes - 1) / (2 * V::kLanes), words = (w.in + 1) / 2;
  float* const parts = thread_scratch(4 * 2 * words);
  for (int64_t row = 0; row < call.m;) {
    const int64_t rows = std::min<int64_t>(call.m - row, 4);
    for (int64_t r = 0; r < rows; ++r) {
      part_inputs(static_cast<const uint16_t*>(call.x) + (row + r) * call.x_stride, w.in, words,
                  parts + 2 * r * words);
    }
    for (int64_t panel = 0; panel < num_panels; ++panel) {
      switch (rows) {
        case 1:
          few_rows_panel<V, 1>(w, call, parts, row, panel);
          break;
        case 2:
          few_rows_panel<V, 2>(w, call, parts, row, panel);
          break;
        case 3:
          few_rows_panel<V, 3>(w, call, parts, row, panel);
          break;
        default:
          few_rows_panel<V, 4>(w, call, parts, row, panel);
      }
    }
    row += rows;
  }
}

}  // namespace
}  // namespace screc
