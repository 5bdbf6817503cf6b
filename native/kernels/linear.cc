#include "kernels/linear.h"

#include <algorithm>

namespace screc {

PackedLinear::PackedLinear(const float* weight, const float* bias, int64_t out, int64_t in,
                           const Kernels& kernels)
    : kernels_(&kernels) {
  const bool dots = out <= kernels.linear_max_dots;
  const int64_t panel = dots ? 1 : kernels.linear_panel;
  const int64_t padded = (out + panel - 1) / panel * panel;
  constexpr int64_t kAlign = 16;
  const int64_t weight_floats = (padded * in + kAlign - 1) / kAlign * kAlign;
  buffer_ = AlignedBuffer(static_cast<size_t>(weight_floats + padded) * sizeof(float));
  float* packed = buffer_.as<float>();
  float* packed_bias = packed + weight_floats;
  for (int64_t o = 0; o < out; ++o) {
    float* to = packed + o / panel * panel * in + o % panel;
    for (int64_t k = 0; k < in; ++k) to[k * panel] = weight[o * in + k];
  }
  std::copy(bias, bias + out, packed_bias);
  weights_ = {dots ? LinearWeights::Form::kDots : LinearWeights::Form::kPanels, in, out, packed, packed_bias};
}

}  // namespace screc
