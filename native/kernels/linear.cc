#include "kernels/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace screc {
namespace {

constexpr int64_t kWordBytes = sizeof(uint32_t);
// The zero points' part and the sum of |q * weight| fit 32 bits together.
constexpr int64_t kMaxInt8Inputs = std::numeric_limits<int32_t>::max() / (2 * 255 * 127);

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

void check_finite(const char* name, const float* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (std::isfinite(values[i])) continue;
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) +
                                "] = " + std::to_string(values[i]) + " is not finite (row-major position)");
  }
}

// Where the bytes of output o's weight k go: panels [steps][panel] of words, `per_word` weights each.
int64_t place(int64_t o, int64_t k, int64_t panel, int64_t steps, int64_t per_word) {
  return ((o / panel * steps + k / per_word) * panel + o % panel) * per_word + k % per_word;
}

}  // namespace

PackedLinear::PackedLinear(const float* weight, const float* bias, int64_t out, int64_t in,
                           const Kernels& kernels, Precision precision, const InputRange* range)
    : kernels_(&kernels) {
  const bool dots = precision == Precision::kFp32 && out <= kernels.linear_max_dots;
  const int64_t panel = dots ? 1 : kernels.linear_panel;
  const int64_t padded = round_up(out, panel);
  const int64_t per_word = kWordBytes / element_bytes(precision);
  const int64_t steps =
      round_up((in + per_word - 1) / per_word, kernels.linear_steps[static_cast<int>(precision)]);
  words_ = AlignedBuffer(static_cast<size_t>(padded * steps * kWordBytes));
  columns_ = AlignedBuffer(static_cast<size_t>(3 * padded) * sizeof(float));
  float* const columns = columns_.as<float>();
  weights_ = {dots ? LinearWeights::Form::kDots : LinearWeights::Form::kPanels,
              precision,
              in,
              out,
              steps,
              words_.data(),
              columns,
              reinterpret_cast<const int32_t*>(columns + padded),
              columns + 2 * padded};
  input_format_.precision = precision;
  std::copy(bias, bias + out, columns);
  if (precision != Precision::kFp32) {
    check_finite("weight", weight, out * in);
    check_finite("bias", bias, out);
  }
  switch (precision) {
    case Precision::kFp32:
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t k = 0; k < in; ++k)
          words_.as<float>()[place(o, k, panel, steps, 1)] = weight[o * in + k];
      }
      break;
    case Precision::kBf16: {
      std::vector<uint16_t> row(static_cast<size_t>(in));
      for (int64_t o = 0; o < out; ++o) {
        kernels.encode(weight + o * in, in, {Precision::kBf16}, row.data());
        for (int64_t k = 0; k < in; ++k) {
          words_.as<uint16_t>()[place(o, k, panel, steps, 2)] = row[static_cast<size_t>(k)];
        }
      }
      break;
    }
    case Precision::kInt8:
      if (range == nullptr) throw std::invalid_argument("range: an int8 layer needs the range of its inputs");
      pack_int8(weight, *range, panel);
      break;
  }
}

void PackedLinear::pack_int8(const float* weight, const InputRange& range, int64_t panel) {
  const int64_t in = weights_.in, out = weights_.out;
  if (in > kMaxInt8Inputs) {
    throw std::invalid_argument("weight: an int8 layer takes at most " + std::to_string(kMaxInt8Inputs) +
                                " inputs, got " + std::to_string(in) + "; use bf16");
  }
  inputs_ = AlignedBuffer(static_cast<size_t>(2 * in) * sizeof(float));
  float* const inverse_scale = inputs_.as<float>();
  float* const zero_point = inverse_scale + in;
  for (int64_t k = 0; k < in; ++k) {
    const float low = range.low[k], high = range.high[k];
    if (!(low <= 0.0f && high >= 0.0f && std::isfinite(high - low))) {
      throw std::invalid_argument("range[" + std::to_string(k) + "] = [" + std::to_string(low) + ", " +
                                  std::to_string(high) + "] must be finite and hold 0");
    }
    // An input that was always 0 stays 0.
    const float steps = 255.0f / (high - low);
    inverse_scale[k] = std::isfinite(steps) ? steps : 0.0f;
    zero_point[k] = std::min(255.0f, std::nearbyint(-low * inverse_scale[k]));
  }
  input_format_.inverse_scale = inverse_scale;
  input_format_.zero_point = zero_point;

  const int64_t padded = round_up(out, panel);
  float* const columns = columns_.as<float>();
  float* const scale = columns + 2 * padded;
  std::vector<double> row(static_cast<size_t>(in));
  for (int64_t o = 0; o < out; ++o) {
    double largest = 0.0;
    for (int64_t k = 0; k < in; ++k) {
      const double folded = inverse_scale[k] == 0.0f ? 0.0 : weight[o * in + k] / double{inverse_scale[k]};
      row[static_cast<size_t>(k)] = folded;
      largest = std::max(largest, std::abs(folded));
    }
    scale[o] = static_cast<float>(largest / 127.0);
    int32_t start = 0;
    for (int64_t k = 0; k < in; ++k) {
      const double steps = scale[o] == 0.0f ? 0.0 : row[static_cast<size_t>(k)] / double{scale[o]};
      const int32_t q = static_cast<int32_t>(std::clamp(std::nearbyint(steps), -127.0, 127.0));
      words_.as<int8_t>()[place(o, k, panel, weights_.steps, 4)] = static_cast<int8_t>(q);
      start -= q * static_cast<int32_t>(zero_point[k]);
    }
    std::memcpy(columns + padded + o, &start, sizeof(start));
  }
}

}  // namespace screc
