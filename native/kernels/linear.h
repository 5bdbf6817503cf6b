// A dense layer whose weights are packed once, at load, for one instruction set and one precision.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"

namespace screc {

// What each input of an int8 layer spans, [in] each: low <= 0 <= high. Values outside are clamped to it.
struct InputRange {
  const float* low;
  const float* high;
};

class PackedLinear {
 public:
  // weight float32 [out, in] and bias float32 [out] are copied. in may be 0. An int8 layer needs a range,
  // others ignore it. Throws std::invalid_argument for a range that does not hold 0, and unless the precision
  // is fp32 for weights that are not finite.
  //
  // int8 (Jacob et al., arXiv 1712.05877, section 2): input k is the uint8 q with x ~ s_k (q - z_k), where
  // the 255 steps s_k span its range and z_k is the q of zero; s_k is folded into the weights, which are then
  // rounded to [-127, 127] with one scale per output.
  PackedLinear(const float* weight, const float* bias, int64_t out, int64_t in, const Kernels& kernels,
               Precision precision = Precision::kFp32, const InputRange* range = nullptr);

  int64_t in_features() const { return weights_.in; }
  int64_t out_features() const { return weights_.out; }
  Isa isa() const { return kernels_->isa; }
  // How this layer's inputs have to be written.
  const ActivationFormat& input_format() const { return input_format_; }

  // Writes one row of floats that way; false when one of them is not finite.
  bool encode(const float* x, void* out) const {
    return kernels_->encode(x, weights_.in, input_format_, out);
  }

  // out[i] = act(x[i] W^T + b) for m rows that lie x_stride and out_stride elements apart. x is in
  // input_format(), out in `output`, which is the next layer's input_format() or fp32.
  void forward(const void* x, int64_t x_stride, int64_t m, bool relu, const ActivationFormat& output,
               void* out, int64_t out_stride) const {
    kernels_->linear[static_cast<int>(weights_.precision)](weights_,
                                                           {x, x_stride, m, relu, output, out, out_stride});
  }

 private:
  void pack_int8(const float* weight, const InputRange& range, int64_t panel);

  const Kernels* kernels_;
  AlignedBuffer words_, columns_, inputs_;  // weights; per output; per input
  LinearWeights weights_;
  ActivationFormat input_format_;
};

}  // namespace screc
