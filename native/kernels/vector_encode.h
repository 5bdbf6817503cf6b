// Activations written for the layer that reads them, for any vector of vec_*.h.
//
// Limits for n columns: 4 n bytes in, 1 to 4 n bytes out, and in int8 two more vectors of scale and zero
// point; 3 to 7 vector operations per vector.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace screc {
namespace {

// Columns [column, column + n) of a row, n <= lanes. `out` is where the row starts.
template <typename V>
inline void encode_vector(typename V::F x, int64_t column, int64_t n, const ActivationFormat& format,
                          void* out) {
  switch (format.precision) {
    case Precision::kFp32:
      if (n == V::kLanes) {
        V::store(static_cast<float*>(out) + column, x);
      } else {
        V::store_part(static_cast<float*>(out) + column, x, n);
      }
      break;
    case Precision::kBf16:
      V::store_bf16(static_cast<uint16_t*>(out) + column, x, n);
      break;
    case Precision::kInt8: {
      const float* scale = format.inverse_scale + column;
      const float* zero = format.zero_point + column;
      const bool whole = n == V::kLanes;
      const typename V::F q = V::fma(x, whole ? V::load(scale) : V::load_part(scale, n),
                                     whole ? V::load(zero) : V::load_part(zero, n));
      // The order of the operands makes 255 of a NaN.
      const typename V::F clamped = V::max(V::min(q, V::set1(255.0f)), V::zero());
      V::store_bytes(static_cast<uint8_t*>(out) + column, clamped, n);
      break;
    }
  }
}

template <typename V>
bool encode(const float* x, int64_t n, const ActivationFormat& format, void* out) {
  bool finite = true;
  for (int64_t c = 0; c < n; c += V::kLanes) {
    const int64_t left = n - c < V::kLanes ? n - c : V::kLanes;
    const typename V::F value = left == V::kLanes ? V::load(x + c) : V::load_part(x + c, left);
    finite &= V::finite(value, left);
    encode_vector<V>(value, c, left, format, out);
  }
  return finite;
}

}  // namespace
}  // namespace screc
