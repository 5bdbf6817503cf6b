// Dense layers on packed panels, for any vector of vec_*.h and any precision of vector_dots.h.
//
// Limits of a layer of N x K weights on M rows:
//   arithmetic  2 M N K operations at 2 * lanes * G * (products per cycle) per cycle, where a step of a lane
//               takes G = 1 fp32, 2 bfloat16 or 4 int8 products. Zen 4 does one 512-bit product instruction
//               of each kind a cycle: 32, 64 and 128 operations;
//   memory      N K weights of 4, 2 or 1 bytes, once per call: the bound for M up to a few rows. A layer of
//               512 -> 256 has 512, 256 or 128 KiB.
// Panels are [step][P] words with P = 2 vectors, so the inner loop reads the weights front to back. A block
// of R rows and one panel keeps 2 R sums in registers: R = 12 with 32 registers (24 sums, 2 weights, 1
// input), R = 6 with 16 (12 + 2 + 1). Few rows take several panels at once, for enough independent sums to
// hide the latency of a product. Every sum takes its steps in order, whatever R is: results do not depend on
// the batch.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/vector_dots.h"
#include "kernels/vector_encode.h"

namespace screc {
namespace {

constexpr int kPanelVectors = 2;

template <typename V>
struct LinearShape {
  static constexpr int64_t kPanel = kPanelVectors * V::kLanes;
  // Outputs that are cheaper as dot products than as a mostly empty panel.
  static constexpr int64_t kMaxDots = 4;
};

constexpr int64_t kWordBytes = sizeof(uint32_t);

inline uint32_t load_word(const uint8_t* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

// Rows [row, row + R) times kPanels panels from `panel` on, of which the first kVectors vectors are computed.
template <typename Dot, int R, int kPanels, int kVectors>
void linear_block(const LinearWeights& w, const LinearCall& call, int64_t row, int64_t panel) {
  using V = typename Dot::Vec;
  constexpr int64_t kPanel = LinearShape<V>::kPanel;
  constexpr int64_t kElement = element_bytes(Dot::kPrecision);
  const int64_t panel_step = kPanel * w.steps;
  const uint32_t* words = static_cast<const uint32_t*>(w.words) + panel * panel_step;
  const int64_t first_column = panel * kPanel;

  typename Dot::Sum sum[R][kPanels][kVectors];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const typename Dot::Sum start = Dot::start(w, first_column + p * kPanel + v * V::kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) sum[r][p][v] = start;
    }
  }
  // One pointer serves three rows, at 0, 1 and 2 strides: a pointer for each would not fit the registers. The
  // empty asm keeps the compiler from making it twelve all the same.
  constexpr int kPointers = (R + 2) / 3;
  const uint8_t* inputs[kPointers];
  const int64_t in_bytes = w.in * kElement;
  int64_t stride = call.x_stride * kElement;
#pragma GCC unroll 4
  for (int g = 0; g < kPointers; ++g) {
    inputs[g] = static_cast<const uint8_t*>(call.x) + (row + 3 * g) * stride;
  }
  uint32_t last_words[R];
  for (int64_t steps = in_bytes / kWordBytes, left = in_bytes % kWordBytes;;) {
    for (int64_t k = 0; k < steps; ++k) {
      typename Dot::Weights column[kPanels][kVectors];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v)
          column[p][v] = Dot::weights(words + p * panel_step + v * V::kLanes);
      }
      words += kPanel;
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const typename Dot::Input input = Dot::input(load_word(inputs[r / 3] + r % 3 * stride));
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sum[r][p][v] = Dot::add(sum[r][p][v], input, column[p][v]);
        }
      }
#pragma GCC unroll 4
      for (int g = 0; g < kPointers; ++g) {
        inputs[g] += kWordBytes;
        asm("" : "+r"(inputs[g]));
      }
    }
    if (left == 0) break;
    // Inputs that do not fill a word are copied, so that nothing is read behind a row, and take one more
    // step.
    for (int r = 0; r < R; ++r) {
      last_words[r] = 0;
      for (int64_t b = 0; b < left; ++b) {
        last_words[r] |= static_cast<uint32_t>(inputs[r / 3][r % 3 * stride + b]) << (8 * b);
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < kPointers; ++g) inputs[g] = reinterpret_cast<const uint8_t*>(last_words + 3 * g);
    stride = kWordBytes;
    steps = 1;
    left = 0;
  }

  const bool direct = call.output.precision == Precision::kFp32;
  const int64_t columns = w.out - first_column;
  alignas(64) float tile[R][kPanels * kPanel];  // other formats are written from here, by less code
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    float* out = static_cast<float*>(call.out) + (row + r) * call.out_stride + first_column;
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const int64_t column = p * kPanel + v * V::kLanes;
        const typename V::F x = Dot::value(w, first_column + column, sum[r][p][v]);
        const typename V::F y = call.relu ? V::max(V::zero(), x) : x;
        const int64_t left = columns - column;
        if (!direct) {
          V::store(tile[r] + column, y);
        } else if (left >= V::kLanes) {
          V::store(out + column, y);
        } else if (left > 0) {
          V::store_part(out + column, y, left);
        }
      }
    }
  }
  if (direct) return;
  constexpr int64_t kWidth = (kPanels - 1) * kPanel + kVectors * V::kLanes;
  for (int r = 0; r < R; ++r) {
    uint8_t* out =
        static_cast<uint8_t*>(call.out) + (row + r) * call.out_stride * element_bytes(call.output.precision);
    for (int64_t c = 0; c < kWidth && c < columns; c += V::kLanes) {
      const int64_t n = columns - c < V::kLanes ? columns - c : V::kLanes;
      encode_vector<V>(V::load(tile[r] + c), first_column + c, n, call.output, out);
    }
  }
}

// All outputs of rows [row, row + R) for one panel: the last may be half empty.
template <typename Dot, int R>
void linear_panel(const LinearWeights& w, const LinearCall& call, int64_t row, int64_t panel) {
  using V = typename Dot::Vec;
  if (w.out - panel * LinearShape<V>::kPanel <= V::kLanes) {
    linear_block<Dot, R, 1, 1>(w, call, row, panel);
  } else {
    linear_block<Dot, R, 1, 2>(w, call, row, panel);
  }
}

// All outputs of rows [row, row + R), several panels at a time where R leaves room.
template <typename Dot, int R>
void linear_rows(const LinearWeights& w, const LinearCall& call, int64_t row) {
  constexpr int kFit = Dot::kRows / R;
  constexpr int kPanels = kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
  constexpr int64_t kPanel = LinearShape<typename Dot::Vec>::kPanel;
  const int64_t num_panels = (w.out + kPanel - 1) / kPanel;
  int64_t panel = 0;
  if constexpr (kPanels > 1) {
    for (; panel + kPanels <= num_panels; panel += kPanels) {
      linear_block<Dot, R, kPanels, kPanelVectors>(w, call, row, panel);
    }
  }
  for (; panel < num_panels; ++panel) linear_panel<Dot, R>(w, call, row, panel);
}

// linear_panel, or with panel = -1 linear_rows, for a number of rows known at run time: 1 <= rows <= R.
template <typename Dot, int R>
void linear_some(const LinearWeights& w, const LinearCall& call, int64_t row, int64_t rows, int64_t panel) {
  if constexpr (R > 1) {
    if (rows < R) return linear_some<Dot, R - 1>(w, call, row, rows, panel);
  }
  panel < 0 ? linear_rows<Dot, R>(w, call, row) : linear_panel<Dot, R>(w, call, row, panel);
}

// out[i][o] = act(b[o] + x[i] . w[o]) for few outputs; weights as rows of fp32.
template <typename V>
void linear_dots(const LinearWeights& w, const LinearCall& call) {
  using F = typename V::F;
  constexpr int64_t kLanes = V::kLanes;
  for (int64_t i = 0; i < call.m; ++i) {
    const float* x = static_cast<const float*>(call.x) + i * call.x_stride;
    float y[LinearShape<V>::kMaxDots];
    for (int64_t o = 0; o < w.out; ++o) {
      const float* row = static_cast<const float*>(w.words) + o * w.in;
      F sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
      int64_t k = 0;
      for (; k + 4 * kLanes <= w.in; k += 4 * kLanes) {
        for (int v = 0; v < 4; ++v) {
          sum[v] = V::fma(V::load(x + k + v * kLanes), V::load(row + k + v * kLanes), sum[v]);
        }
      }
      for (; k + kLanes <= w.in; k += kLanes) sum[0] = V::fma(V::load(x + k), V::load(row + k), sum[0]);
      if (k < w.in) sum[1] = V::fma(V::load_part(x + k, w.in - k), V::load_part(row + k, w.in - k), sum[1]);
      const float dot = w.bias[o] + V::sum(V::add(V::add(sum[0], sum[1]), V::add(sum[2], sum[3])));
      y[o] = call.relu && dot < 0.0f ? 0.0f : dot;
    }
    uint8_t* out =
        static_cast<uint8_t*>(call.out) + i * call.out_stride * element_bytes(call.output.precision);
    encode_vector<V>(V::load_part(y, w.out), 0, w.out, call.output, out);
  }
}

template <typename Dot>
void linear(const LinearWeights& w, const LinearCall& call) {
  constexpr int kRows = Dot::kRows;
  constexpr int64_t kPanel = LinearShape<typename Dot::Vec>::kPanel;
  if constexpr (Dot::kPrecision == Precision::kFp32) {
    if (w.form == LinearWeights::Form::kDots) return linear_dots<typename Dot::Vec>(w, call);
  }
  if (call.m <= 0) return;
  if (call.m <= kRows) return linear_some<Dot, kRows>(w, call, 0, call.m, -1);
  // Blocks of nearly equal size: a single row left over would cost as much as several.
  const int64_t blocks = (call.m + kRows - 1) / kRows, rows = call.m / blocks, longer = call.m % blocks;
  const int64_t num_panels = (w.out + kPanel - 1) / kPanel;
  // Panels outside: one panel stays near while the rows, which fit the second-level cache, pass by.
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    int64_t row = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t own = rows + (b < longer ? 1 : 0);
      linear_some<Dot, kRows>(w, call, row, own, panel);
      row += own;
    }
  }
}

}  // namespace
}  // namespace screc
