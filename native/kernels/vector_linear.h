// Dense layers on packed panels, for any vector of vec_*.h.
//
// Limits of a layer of N x K weights on M rows:
//   arithmetic  2 M N K flops at 2 * lanes * (FMAs per cycle) per cycle: 32 flops a cycle with AVX2 and with
//               AVX-512 on Zen 4, 64 with two full AVX-512 units;
//   memory      4 N K bytes of weights, once per call: the bound for M up to a few rows. 512 -> 256 is 512
//   KiB.
// Panels are [K][P] with P = 2 vectors, so the inner loop reads the weights front to back. A block of R rows
// and one panel keeps 2 R sums in registers: R = 12 with 32 registers (24 sums, 2 weights, 1 input), R = 6
// with 16 (12 + 2 + 1). Few rows take several panels at once, for enough independent sums to hide the latency
// of an FMA. Every sum starts at the bias and takes k in order, whatever R is: results do not depend on the
// batch.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace screc {
namespace {

constexpr int kPanelVectors = 2;

template <typename V>
struct LinearShape {
  static constexpr int64_t kPanel = kPanelVectors * V::kLanes;
  static constexpr int kRows = V::kRegisters == 32 ? 12 : 6;
  // Outputs that are cheaper as dot products than as a mostly empty panel.
  static constexpr int64_t kMaxDots = 4;
};

struct LinearCall {
  const LinearWeights* weights;
  const float* x;
  int64_t x_stride;
  bool relu;
  float* out;
  int64_t out_stride;
};

// Rows [row, row + R) times kPanels panels from `panel` on, of which the first kVectors vectors are computed.
template <typename V, int R, int kPanels, int kVectors>
void linear_block(const LinearCall& call, int64_t row, int64_t panel) {
  using F = typename V::F;
  constexpr int64_t kPanel = LinearShape<V>::kPanel;
  const LinearWeights& w = *call.weights;
  const float* weight = w.weight + panel * kPanel * w.in;
  const float* bias = w.bias + panel * kPanel;
  const float* x = call.x + row * call.x_stride;
  const int64_t panel_step = kPanel * w.in;

  F sum[R][kPanels][kVectors];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const F b = V::load(bias + p * kPanel + v * V::kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) sum[r][p][v] = b;
    }
  }
  // One pointer serves three rows, at 0, 1 and 2 strides: a pointer for each would not fit the registers. The
  // empty asm keeps the compiler from making it twelve all the same.
  constexpr int kPointers = (R + 2) / 3;
  const float* inputs[kPointers];
#pragma GCC unroll 4
  for (int g = 0; g < kPointers; ++g) inputs[g] = x + 3 * g * call.x_stride;
  const int64_t stride = call.x_stride;
  for (int64_t k = 0; k < w.in; ++k) {
    F column[kPanels][kVectors];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) column[p][v] = V::load(weight + p * panel_step + v * V::kLanes);
    }
    weight += kPanel;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const F input = V::set1(inputs[r / 3][r % 3 * stride]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[r][p][v] = V::fma(input, column[p][v], sum[r][p][v]);
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < kPointers; ++g) {
      ++inputs[g];
      asm("" : "+r"(inputs[g]));
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    float* out = call.out + (row + r) * call.out_stride + panel * kPanel;
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const F y = call.relu ? V::max(V::zero(), sum[r][p][v]) : sum[r][p][v];
        const int64_t column = p * kPanel + v * V::kLanes;
        const int64_t left = w.out - panel * kPanel - column;
        if (left >= V::kLanes) {
          V::store(out + column, y);
        } else if (left > 0) {
          V::store_part(out + column, y, left);
        }
      }
    }
  }
}

// All outputs of rows [row, row + R) for one panel: the last may be half empty.
template <typename V, int R>
void linear_panel(const LinearCall& call, int64_t row, int64_t panel) {
  if (call.weights->out - panel * LinearShape<V>::kPanel <= V::kLanes) {
    linear_block<V, R, 1, 1>(call, row, panel);
  } else {
    linear_block<V, R, 1, 2>(call, row, panel);
  }
}

// All outputs of rows [row, row + R), several panels at a time where R leaves room.
template <typename V, int R>
void linear_rows(const LinearCall& call, int64_t row) {
  constexpr int kSums = V::kRegisters == 32 ? 24 : 12;
  constexpr int kPanels = kSums / (2 * R) >= 4 ? 4 : kSums / (2 * R) >= 2 ? 2 : 1;
  constexpr int64_t kPanel = LinearShape<V>::kPanel;
  const int64_t num_panels = (call.weights->out + kPanel - 1) / kPanel;
  int64_t panel = 0;
  if constexpr (kPanels > 1) {
    for (; panel + kPanels <= num_panels; panel += kPanels) {
      linear_block<V, R, kPanels, kPanelVectors>(call, row, panel);
    }
  }
  for (; panel < num_panels; ++panel) linear_panel<V, R>(call, row, panel);
}

// linear_panel, or with panel = -1 linear_rows, for a number of rows known at run time: 1 <= rows <= R.
template <typename V, int R>
void linear_some(const LinearCall& call, int64_t row, int64_t rows, int64_t panel) {
  if constexpr (R > 1) {
    if (rows < R) return linear_some<V, R - 1>(call, row, rows, panel);
  }
  panel < 0 ? linear_rows<V, R>(call, row) : linear_panel<V, R>(call, row, panel);
}

// out[i][o] = act(b[o] + x[i] . w[o]) for few outputs; weights as rows.
template <typename V>
void linear_dots(const LinearCall& call, int64_t m) {
  using F = typename V::F;
  const LinearWeights& w = *call.weights;
  constexpr int64_t kLanes = V::kLanes;
  for (int64_t i = 0; i < m; ++i) {
    const float* x = call.x + i * call.x_stride;
    for (int64_t o = 0; o < w.out; ++o) {
      const float* row = w.weight + o * w.in;
      F sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
      int64_t k = 0;
      for (; k + 4 * kLanes <= w.in; k += 4 * kLanes) {
        for (int v = 0; v < 4; ++v) {
          sum[v] = V::fma(V::load(x + k + v * kLanes), V::load(row + k + v * kLanes), sum[v]);
        }
      }
      for (; k + kLanes <= w.in; k += kLanes) sum[0] = V::fma(V::load(x + k), V::load(row + k), sum[0]);
      if (k < w.in) sum[1] = V::fma(V::load_part(x + k, w.in - k), V::load_part(row + k, w.in - k), sum[1]);
      const float y = w.bias[o] + V::sum(V::add(V::add(sum[0], sum[1]), V::add(sum[2], sum[3])));
      call.out[i * call.out_stride + o] = call.relu && y < 0.0f ? 0.0f : y;
    }
  }
}

template <typename V>
void linear(const LinearWeights& weights, const float* x, int64_t x_stride, int64_t m, bool relu, float* out,
            int64_t out_stride) {
  constexpr int kRows = LinearShape<V>::kRows;
  constexpr int64_t kPanel = LinearShape<V>::kPanel;
  const LinearCall call{&weights, x, x_stride, relu, out, out_stride};
  if (weights.form == LinearWeights::Form::kDots) return linear_dots<V>(call, m);
  if (m <= 0) return;
  if (m <= kRows) return linear_some<V, kRows>(call, 0, m, -1);
  // Blocks of nearly equal size: a single row left over would cost as much as several.
  const int64_t blocks = (m + kRows - 1) / kRows, rows = m / blocks, longer = m % blocks;
  const int64_t num_panels = (weights.out + kPanel - 1) / kPanel;
  // Panels outside: one panel stays near while the rows, which fit the second-level cache, pass by.
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    int64_t row = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t own = rows + (b < longer ? 1 : 0);
      linear_some<V, kRows>(call, row, own, panel);
      row += own;
    }
  }
}

}  // namespace
}  // namespace screc
