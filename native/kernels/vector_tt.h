// Rebuilding the rows of a tensor-train band, for any vector of vec_*.h.
//
// Limits for one row, cores taken from the left (TtShape.flops_per_row): 10 kflop at TT rank 16 and d = 4 x 4
// x 4, so 6-12 M rows/s on a core of 32-64 flops a cycle and 3 GHz at perfect use; the slices read (4.7 KB
// there) come from the second or third level of cache. Consecutive slots that share leading digits keep the
// products so far.
//
// The product up to core k is kept as S[m][r][c]: m the columns of the cores before, c those of core k, r the
// TT rank that is summed over next. So a middle step is a small matrix product whose long axis is core k's
// slice, [r'][c'] for each r; and in the last step the outputs (c, c') of one m are consecutive, and each
// vector of them is S[m][r][*] and slice[r][*] with their lanes repeated: one permutation each instead of a
// short, odd loop.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace screc {
namespace {

// Rows [first, first + R) of a step: row (m, c) is S[m][.][c] times the slice, [rank][width], into a row of
// `next`.
template <typename V, int R, int kVectors>
void tt_step_block(const float* state, const TtCores::Level& left, const float* slice, int64_t width,
                   int64_t first, int64_t column, float* next, int64_t stride) {
  using F = typename V::F;
  const float* s[R];
  for (int i = 0; i < R; ++i) {
    s[i] = state + (first + i) / left.columns * left.state_stride + (first + i) % left.columns;
  }
  F sum[R][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[i][v] = V::zero();
  }
  for (int64_t r = 0; r < left.next_rank; ++r) {
    F b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = V::load(slice + r * width + column + v * V::kLanes);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const F x = V::set1(s[i][r * left.columns]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = V::fma(x, b[v], sum[i][v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      V::store(next + (first + i) * stride + column + v * V::kLanes, sum[i][v]);
    }
  }
}

template <typename V, int R>
void tt_step_rows(const float* state, const TtCores::Level& left, const float* slice, int64_t width,
                  int64_t first, float* next, int64_t stride) {
  constexpr int kMost = V::kRegisters == 32 ? 4 : 2;
  int64_t column = 0;
  for (; column + (kMost - 1) * V::kLanes < width; column += kMost * V::kLanes) {
    tt_step_block<V, R, kMost>(state, left, slice, width, first, column, next, stride);
  }
  for (; column < width; column += V::kLanes) {
    tt_step_block<V, R, 1>(state, left, slice, width, first, column, next, stride);
  }
}

// S of the next core. Lanes past `width` are computed from whatever lies there and written to the padding.
template <typename V>
void tt_step(const float* state, const TtCores::Level& left, const float* slice, int64_t width, float* next,
             int64_t stride) {
  const int64_t rows = left.left_columns * left.columns;
  int64_t first = 0;
  for (; first + 4 <= rows; first += 4) tt_step_rows<V, 4>(state, left, slice, width, first, next, stride);
  if (first + 2 <= rows) {
    tt_step_rows<V, 2>(state, left, slice, width, first, next, stride);
    first += 2;
  }
  if (first < rows) tt_step_rows<V, 1>(state, left, slice, width, first, next, stride);
}

// Which lanes of S[m][r][*] and of slice[r][*] make outputs [start, start + lanes) of one m.
struct TtLanes {
  int32_t left[16], right[16];
  int64_t left_start;
};

template <typename V>
void tt_lanes(int64_t columns, int64_t last_columns, int64_t start, TtLanes* lanes) {
  lanes->left_start = start / last_columns;
  for (int64_t l = 0; l < V::kLanes; ++l) {
    const int64_t output = start + l < columns * last_columns ? start + l : columns * last_columns - 1;
    lanes->left[l] = static_cast<int32_t>(output / last_columns - lanes->left_start);
    lanes->right[l] = static_cast<int32_t>(output % last_columns);
  }
}

// Outputs [start, start + n) of parts m to m + R - 1. kFour: neither side has more than 4 columns.
template <typename V, int R, bool kFour>
void tt_last_block(const float* state, const TtCores::Level& left, const float* slice, int64_t last_columns,
                   const TtLanes& lanes, int64_t m, int64_t n, float* out, int64_t out_stride) {
  using F = typename V::F;
  const typename V::Index left_index = V::load_index(lanes.left), right_index = V::load_index(lanes.right);
  const float* s[R];
  for (int i = 0; i < R; ++i) s[i] = state + (m + i) * left.state_stride + lanes.left_start;
  F sum[R];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) sum[i] = V::zero();
  for (int64_t r = 0; r < left.next_rank; ++r) {
    const float* g = slice + r * last_columns;
    const F b = kFour ? V::permute4(V::load4(g), right_index) : V::permute(V::load(g), right_index);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const float* p = s[i] + r * left.columns;
      const F a = kFour ? V::permute4(V::load4(p), left_index) : V::permute(V::load(p), left_index);
      sum[i] = V::fma(a, b, sum[i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
    if (n == V::kLanes) {
      V::store(out + i * out_stride, sum[i]);
    } else {
      V::store_part(out + i * out_stride, sum[i], n);
    }
  }
}

template <typename V, bool kFour>
void tt_last(const float* state, const TtCores::Level& left, const float* slice, int64_t last_columns,
             const TtLanes* lanes, float* out) {
  const int64_t outputs = left.columns * last_columns;
  for (int64_t start = 0; start < outputs; start += V::kLanes, ++lanes) {
    const int64_t n = outputs - start < V::kLanes ? outputs - start : V::kLanes;
    float* to = out + start;
    int64_t m = 0;
    for (; m + 4 <= left.left_columns; m += 4) {
      tt_last_block<V, 4, kFour>(state, left, slice, last_columns, *lanes, m, n, to + m * outputs, outputs);
    }
    if (m + 2 <= left.left_columns) {
      tt_last_block<V, 2, kFour>(state, left, slice, last_columns, *lanes, m, n, to + m * outputs, outputs);
      m += 2;
    }
    if (m < left.left_columns) {
      tt_last_block<V, 1, kFour>(state, left, slice, last_columns, *lanes, m, n, to + m * outputs, outputs);
    }
  }
}

// V for the middle steps, L for the last one.
template <typename V, typename L>
void tt_rows_with(const TtCores& cores, const int64_t* slots, int64_t n, float* out) {
  const int last = cores.num_cores() - 1;
  const TtCores::Level& before = cores.level(last - 1);
  const TtCores::Level& end = cores.level(last);
  const int64_t outputs = before.columns * end.columns;
  const bool wide = end.columns > L::kLanes;  // long last cores need no permutation
  const int64_t num_lanes = wide ? 0 : (outputs + L::kLanes - 1) / L::kLanes;
  const int64_t lane_floats = num_lanes * static_cast<int64_t>(sizeof(TtLanes) / sizeof(float));
  float* scratch = thread_scratch(cores.scratch_floats() + lane_floats + TtCores::kSlack);
  TtLanes* lanes = reinterpret_cast<TtLanes*>(scratch + (cores.scratch_floats() + 15) / 16 * 16);
  for (int64_t i = 0; i < num_lanes; ++i) tt_lanes<L>(before.columns, end.columns, i * L::kLanes, lanes + i);
  const bool four = before.columns <= 4 && end.columns <= 4;

  int64_t chosen[TtCores::kMaxCores];
  for (int64_t& digit : chosen) digit = -1;
  const float* states[TtCores::kMaxCores];
  for (int64_t i = 0; i < n; ++i) {
    int from = last;  // the first core whose slice differs from that of the slot before; the last always runs
    int64_t rest = slots[i];
    for (int k = 0; k <= last; ++k) {
      const TtCores::Level& level = cores.level(k);
      const int64_t digit = TtCores::quotient(level, rest);
      rest -= digit * level.digit_unit;
      if (digit != chosen[k] && k < from) from = k;
      chosen[k] = digit;
    }
    if (from == 0) {
      states[0] = cores.level(0).slices + chosen[0] * cores.level(0).slice_floats;
      from = 1;
    }
    for (int k = from; k < last; ++k) {
      const TtCores::Level& level = cores.level(k);
      float* next = scratch + level.state_offset;
      tt_step<V>(states[k - 1], cores.level(k - 1), level.slices + chosen[k] * level.slice_floats,
                 level.next_rank * level.columns, next, level.state_stride);
      states[k] = next;
    }
    const float* slice = end.slices + chosen[last] * end.slice_floats;
    float* to = out + i * cores.embedding_dim();
    if (wide) {
      float* padded = scratch + end.state_offset;
      tt_step<V>(states[last - 1], before, slice, end.columns, padded, end.state_stride);
      for (int64_t m = 0; m < end.left_columns; ++m) {
        __builtin_memcpy(to + m * end.columns, padded + m * end.state_stride,
                         static_cast<size_t>(end.columns) * sizeof(float));
      }
    } else if (four) {
      tt_last<L, true>(states[last - 1], before, slice, end.columns, lanes, to);
    } else {
      tt_last<L, false>(states[last - 1], before, slice, end.columns, lanes, to);
    }
  }
}

}  // namespace
}  // namespace screc
