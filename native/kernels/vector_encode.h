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

// One format, chosen at compile time, so that whole vectors take no decisions.
template <typename V, Precision kPrecision>
bool encode_as(const float* x, int64_t n, const ActivationFormat& given, void* out) {
  const ActivationFormat format{kPrecision, given.inverse_scale, given.zero_point};
  typename V::F taint = V::zero();  // zeros times values: a NaN comes of those that are not finite
  int64_t c = 0;
  for (; c + V::kLanes <= n; c += V::kLanes) {
    const typename V::F value = V::load(x + c);
    taint = V::fma(V::zero(), value, taint);
    encode_vector<V>(value, c, V::kLanes, format, out);
  }
  if (c < n) {
    const typename V::F value = V::load_part(x + c, n - c);
    taint = V::fma(V::zero(), value, taint);
    encode_vector<V>(value, c, n - c, format, out);
  }
  return V::finite(taint, V::kLanes);
}

template <typename V>
bool encode(const float* x, int64_t n, const ActivationFormat& format, void* out) {
  switch (format.precision) {
    case Precision::kFp32:
      return encode_as<V, Precision::kFp32>(x, n, format, out);
    case Precision::kBf16:
      return encode_as<V, Precision::kBf16>(x, n, format, out);
    default:
      return encode_as<V, Precision::kInt8>(x, n, format, out);
  }
}

}  // namespace
}  // namespace screc
