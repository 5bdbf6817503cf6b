// How vectors are loaded from the rows of each format, for any vector of vec_*.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/row_format.h"

namespace screc {
namespace {

// Each policy gives the bytes before a row's values (kHeader), a whole vector from column c of those values
// (c a multiple of the lanes) and its first n lanes only. kCodes: what is loaded are codes, not values.
template <typename V>
struct Fp32Rows {
  static constexpr bool kCodes = false;
  static constexpr int64_t kHeader = 0;
  static typename V::F load(const std::byte* values, int64_t c) {
    return V::load(reinterpret_cast<const float*>(values) + c);
  }
  static typename V::F load_part(const std::byte* values, int64_t c, int64_t n) {
    return V::load_part(reinterpret_cast<const float*>(values) + c, n);
  }
};

template <typename V>
struct Fp16Rows {
  static constexpr bool kCodes = false;
  static constexpr int64_t kHeader = 0;
  static typename V::F load(const std::byte* values, int64_t c) { return V::load_fp16(values + 2 * c); }
  static typename V::F load_part(const std::byte* values, int64_t c, int64_t n) {
    return V::load_fp16_part(values + 2 * c, n);
  }
};

template <typename V>
struct Bf16Rows {
  static constexpr bool kCodes = false;
  static constexpr int64_t kHeader = 0;
  static typename V::F load(const std::byte* values, int64_t c) { return V::load_bf16(values + 2 * c); }
  static typename V::F load_part(const std::byte* values, int64_t c, int64_t n) {
    return V::load_bf16_part(values + 2 * c, n);
  }
};

template <typename V, int64_t kHeaderBytes>
struct Int8Rows {
  static constexpr bool kCodes = true;
  static constexpr int64_t kHeader = kHeaderBytes;
  static typename V::F load(const std::byte* values, int64_t c) { return V::load_int8(values + c); }
  static typename V::F load_part(const std::byte* values, int64_t c, int64_t n) {
    return V::load_int8_part(values + c, n);
  }
};

template <typename V, int64_t kHeaderBytes>
struct Int4Rows {
  static constexpr bool kCodes = true;
  static constexpr int64_t kHeader = kHeaderBytes;
  static typename V::F load(const std::byte* values, int64_t c) { return V::load_int4(values + c / 2); }
  static typename V::F load_part(const std::byte* values, int64_t c, int64_t n) {
    return V::load_int4_part(values + c / 2, n);
  }
};

// Calls body with the policy of the codec.
template <typename V, typename Body>
void with_rows(const RowCodec& codec, const Body& body) {
  const bool header = codec.header_bytes() > 0;
  switch (codec.format) {
    case RowFormat::kFp32:
      return body(Fp32Rows<V>{});
    case RowFormat::kFp16:
      return body(Fp16Rows<V>{});
    case RowFormat::kBf16:
      return body(Bf16Rows<V>{});
    case RowFormat::kInt8:
      return header ? body(Int8Rows<V, 4>{}) : body(Int8Rows<V, 0>{});
    case RowFormat::kInt4:
      return header ? body(Int4Rows<V, 4>{}) : body(Int4Rows<V, 0>{});
  }
}

// The scale and bias of a row that begins with them, as floats 0 and 1.
inline __m128 scale_and_bias(const std::byte* row) {
  int32_t halves;
  __builtin_memcpy(&halves, row, sizeof(halves));
  return _mm_cvtph_ps(_mm_cvtsi32_si128(halves));
}

}  // namespace
}  // namespace screc
