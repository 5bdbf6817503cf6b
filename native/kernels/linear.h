// A dense layer whose weights are packed once, at load, for one instruction set.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"

namespace screc {

class PackedLinear {
 public:
  // weight float32 [out, in] and bias float32 [out] are copied. in may be 0.
  PackedLinear(const float* weight, const float* bias, int64_t out, int64_t in, const Kernels& kernels);

  int64_t in_features() const { return weights_.in; }
  int64_t out_features() const { return weights_.out; }
  Isa isa() const { return kernels_->isa; }

  // out[i] = act(x[i] W^T + b) for m rows that lie x_stride and out_stride floats apart.
  void forward(const float* x, int64_t x_stride, int64_t m, bool relu, float* out, int64_t out_stride) const {
    kernels_->linear(weights_, x, x_stride, m, relu, out, out_stride);
  }

 private:
  const Kernels* kernels_;
  AlignedBuffer buffer_;
  LinearWeights weights_;
};

}  // namespace screc
