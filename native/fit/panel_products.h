// Products with float matrices on the dense layers' kernels (kernels/vector_linear.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"

namespace screc {

// A packed matrix [depth][width] lies in panels of columns, [depth][panel()] each, the last one padded.
class PanelProducts {
 public:
  // widest: of all matrices to come.
  PanelProducts(const Kernels& kernels, int64_t widest)
      : kernels_(&kernels), zeros_(static_cast<size_t>(padded(widest)) * sizeof(float)) {}

  int64_t panel() const { return kernels_->linear_panel; }
  // Floats of a row of all panels.
  int64_t padded(int64_t width) const { return (width + panel() - 1) / panel() * panel(); }

  // Packs rows `stride` floats apart; what pads the last panel is left as it is.
  void pack(const float* from, int64_t stride, int64_t depth, int64_t width, float* to) const {
    for (int64_t first = 0; first < width; first += panel(), to += depth * panel()) {
      const int64_t n = std::min(panel(), width - first);
      for (int64_t k = 0; k < depth; ++k) {
        const float* row = from + k * stride + first;
        for (int64_t c = 0; c < n; ++c) to[k * panel() + c] = row[c];
      }
    }
  }

  // out[i] = x[i] times the packed matrix, for m rows; sums are in fp32.
  void multiply(const float* packed, int64_t depth, int64_t width, const float* x, int64_t x_stride,
                int64_t m, float* out, int64_t out_stride) const {
    LinearWeights weights{};
    weights.form = LinearWeights::Form::kPanels;
    weights.precision = Precision::kFp32;
    weights.in = weights.steps = depth;
    weights.out = width;
    weights.words = packed;
    weights.bias = zeros_.as<float>();
    kernels_->linear[static_cast<int>(Precision::kFp32)](weights,
                                                         {x, x_stride, m, false, {}, out, out_stride});
  }

 private:
  const Kernels* kernels_;
  AlignedBuffer zeros_;
};

}  // namespace screc
