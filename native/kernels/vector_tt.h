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
// `next`. kLong, for R = 4 and new columns 4: into T of the long last step instead, and the stride is T's.
template <typename V, int R, int kVectors, bool kLong>
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
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kLong) {
      const F parts[4] = {sum[0][v], sum[1][v], sum[2][v], sum[3][v]};  // each of 4 columns of one r
      V::store_parts(parts, next + (column + v * V::kLanes) / 4 * stride + first * 4, stride);
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        V::store(next + (first + i) * stride + column + v * V::kLanes, sum[i][v]);
      }
    }
  }
}

template <typename V, int R, bool kLong>
void tt_step_rows(const float* state, const TtCores::Level& left, const float* slice, int64_t width,
                  int64_t first, float* next, int64_t stride) {
  constexpr int kMost = V::kRegisters == 32 ? 4 : 2;
  int64_t column = 0;
  for (; column + (kMost - 1) * V::kLanes < width; column += kMost * V::kLanes) {
    tt_step_block<V, R, kMost, kLong>(state, left, slice, width, first, column, next, stride);
  }
  if constexpr (kMost > 2) {
    for (; column + V::kLanes < width; column += 2 * V::kLanes) {
      tt_step_block<V, R, 2, kLong>(state, left, slice, width, first, column, next, stride);
    }
  }
  for (; column < width; column += V::kLanes) {
    tt_step_block<V, R, 1, kLong>(state, left, slice, width, first, column, next, stride);
  }
}

// S of the next core. Lanes past `width` are computed from whatever lies there and written to the padding.
template <typename V>
void tt_step(const float* state, const TtCores::Level& left, const float* slice, int64_t width, float* next,
             int64_t stride) {
  const int64_t rows = left.left_columns * left.columns;
  int64_t first = 0;
  for (; first + 4 <= rows; first += 4)
    tt_step_rows<V, 4, false>(state, left, slice, width, first, next, stride);
  if (first + 2 <= rows) {
    tt_step_rows<V, 2, false>(state, left, slice, width, first, next, stride);
    first += 2;
  }
  if (first < rows) tt_step_rows<V, 1, false>(state, left, slice, width, first, next, stride);
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

// The last step where the state is long: T[r][l], l the columns of all cores but the last. Lanes are l, and
// every number of the slice is broadcast; kSlots slots share the loads of T. Outputs of one slot are
// [l][kColumns].
template <typename V, int kColumns, int kSlots>
void tt_long_block(const float* state, int64_t rank, int64_t length, const float* const* slices, float* out,
                   int64_t out_stride) {
  using F = typename V::F;
  for (int64_t first = 0; first < length; first += V::kLanes) {
    F sum[kSlots][kColumns];
#pragma GCC unroll 4
    for (int i = 0; i < kSlots; ++i) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) sum[i][c] = V::zero();
    }
    for (int64_t r = 0; r < rank; ++r) {
      const F s = V::load(state + r * length + first);
#pragma GCC unroll 4
      for (int i = 0; i < kSlots; ++i) {
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) {
          sum[i][c] = V::fma(V::set1(slices[i][r * kColumns + c]), s, sum[i][c]);
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kSlots; ++i) {
      float* to = out + i * out_stride + first * kColumns;
      if constexpr (kColumns == 4) {
        V::transpose4(sum[i]);
        V::store_parts(sum[i], to, 16);
      } else {
        static_assert(kColumns == 8);
        V::transpose4(sum[i]);
        V::transpose4(sum[i] + 4);
#pragma GCC unroll 2
        for (int j = 0; j < 4; j += 2) {  // two columns of the state
          const F parts[4] = {sum[i][j], sum[i][4 + j], sum[i][j + 1], sum[i][5 + j]};
          V::store_parts(parts, to + j * 8, 32);
        }
      }
    }
  }
}

template <typename V, int kColumns>
void tt_long(const float* state, const TtCores& cores, int64_t base, const int64_t* slots, int64_t n,
             float* out) {
  constexpr int kMost = V::kRegisters / 2 / kColumns;
  const TtCores::Level& end = cores.level(cores.num_cores() - 1);
  const int64_t dim = cores.embedding_dim();
  const float* slices[kMost];
  int64_t i = 0;
  for (; i + kMost <= n; i += kMost) {
    for (int k = 0; k < kMost; ++k) slices[k] = end.slices + (slots[i + k] - base) * end.slice_floats;
    tt_long_block<V, kColumns, kMost>(state, end.rank, end.left_columns, slices, out + i * dim, dim);
  }
  for (; i < n; ++i) {
    slices[0] = end.slices + (slots[i] - base) * end.slice_floats;
    tt_long_block<V, kColumns, 1>(state, end.rank, end.left_columns, slices, out + i * dim, dim);
  }
}

// T from S.
inline void tt_lengthen(const float* state, const TtCores::Level& left, float* to) {
  const int64_t length = left.left_columns * left.columns;
  for (int64_t m = 0; m < left.left_columns; ++m) {
    for (int64_t r = 0; r < left.next_rank; ++r) {
      const float* from = state + m * left.state_stride + r * left.columns;
      for (int64_t c = 0; c < left.columns; ++c) to[r * length + m * left.columns + c] = from[c];
    }
  }
}

// Whether the last step is long enough for vectors of so many lanes.
inline bool tt_is_long(const TtCores& cores, int64_t lanes) {
  const TtCores::Level& end = cores.level(cores.num_cores() - 1);
  return end.left_columns % lanes == 0 && (end.columns == 4 || end.columns == 8);
}

// How the last step is done.
enum class TtLast { kLong, kWide, kFour, kAny };

template <typename L>
TtLast tt_last_form(const TtCores& cores) {
  const TtCores::Level& before = cores.level(cores.num_cores() - 2);
  const TtCores::Level& end = cores.level(cores.num_cores() - 1);
  if (tt_is_long(cores, L::kLanes)) return TtLast::kLong;
  if (end.columns > L::kLanes) return TtLast::kWide;
  return before.columns <= 4 && end.columns <= 4 ? TtLast::kFour : TtLast::kAny;
}

// V for the middle steps, L for the last one.
template <typename V, typename L>
void tt_rows_with(const TtCores& cores, const int64_t* slots, int64_t n, float* out) {
  const int last = cores.num_cores() - 1;
  const TtCores::Level& before = cores.level(last - 1);
  const TtCores::Level& end = cores.level(last);
  const int64_t dim = cores.embedding_dim(), outputs = before.columns * end.columns;
  const TtLast form = tt_last_form<L>(cores);
  const bool permuted = form == TtLast::kFour || form == TtLast::kAny;
  const int64_t num_lanes = permuted ? (outputs + L::kLanes - 1) / L::kLanes : 0;
  const int64_t lane_floats = num_lanes * static_cast<int64_t>(sizeof(TtLanes) / sizeof(float));
  const int64_t long_floats = form == TtLast::kLong ? end.rank * end.left_columns : 0;
  const int64_t own_floats = (cores.scratch_floats() + 15) / 16 * 16;
  float* scratch = thread_scratch(own_floats + lane_floats + long_floats);
  float* lengthened = scratch + own_floats;
  TtLanes* lanes = reinterpret_cast<TtLanes*>(lengthened);
  for (int64_t i = 0; i < num_lanes; ++i) tt_lanes<L>(before.columns, end.columns, i * L::kLanes, lanes + i);
  // The step before the last gives T itself where T's parts are whole vectors of parts four columns wide.
  const bool direct =
      form == TtLast::kLong && last > 1 && before.columns == 4 && before.left_columns % 4 == 0;

  int64_t chosen[TtCores::kMaxCores];
  for (int64_t& digit : chosen) digit = -1;
  const float* states[TtCores::kMaxCores];
  for (int64_t i = 0; i < n;) {
    int from = last;  // the first core whose slice differs from that of the slots before
    int64_t rest = slots[i];
    for (int k = 0; k < last; ++k) {
      const TtCores::Level& level = cores.level(k);
      const int64_t digit = TtCores::quotient(level, rest);
      rest -= digit * level.digit_unit;
      if (digit != chosen[k] && k < from) from = k;
      chosen[k] = digit;
    }
    const int64_t base = slots[i] - rest;
    int64_t run = 1;  // slots that differ in the last digit only
    while (i + run < n && slots[i + run] >= base && slots[i + run] - base < end.rows) ++run;

    if (from == 0) {
      states[0] = cores.level(0).slices + chosen[0] * cores.level(0).slice_floats;
    }
    for (int k = from > 0 ? from : 1; k < last; ++k) {
      const TtCores::Level& level = cores.level(k);
      const TtCores::Level& left = cores.level(k - 1);
      const float* slice = level.slices + chosen[k] * level.slice_floats;
      const int64_t width = level.next_rank * level.columns;
      float* next = scratch + level.state_offset;
      if (direct && k == last - 1) {
        for (int64_t first = 0; first < level.left_columns; first += 4) {
          tt_step_rows<V, 4, true>(states[k - 1], left, slice, width, first, next, end.left_columns);
        }
      } else {
        tt_step<V>(states[k - 1], left, slice, width, next, level.state_stride);
      }
      states[k] = next;
    }
    const float* state = states[last - 1];
    if (form == TtLast::kLong && !direct && before.left_columns > 1) {
      if (from < last) tt_lengthen(state, before, lengthened);
      state = lengthened;
    }

    float* to = out + i * dim;
    if (form == TtLast::kLong && end.columns == 4) {
      tt_long<L, 4>(state, cores, base, slots + i, run, to);
    } else if (form == TtLast::kLong) {
      tt_long<L, 8>(state, cores, base, slots + i, run, to);
    } else {
      for (int64_t j = 0; j < run; ++j, to += dim) {
        const float* slice = end.slices + (slots[i + j] - base) * end.slice_floats;
        if (form == TtLast::kWide) {
          float* padded = scratch + end.state_offset;
          tt_step<V>(state, before, slice, end.columns, padded, end.state_stride);
          for (int64_t m = 0; m < end.left_columns; ++m) {
            __builtin_memcpy(to + m * end.columns, padded + m * end.state_stride,
                             static_cast<size_t>(end.columns) * sizeof(float));
          }
        } else if (form == TtLast::kFour) {
          tt_last<L, true>(state, before, slice, end.columns, lanes, to);
        } else {
          tt_last<L, false>(state, before, slice, end.columns, lanes, to);
        }
      }
    }
    i += run;
  }
}

}  // namespace
}  // namespace screc
