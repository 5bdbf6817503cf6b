// Eight floats: the vector that the kernels of vector_*.h are written in. Only for files compiled for AVX2,
// FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace screc {
namespace {

struct Vec8 {
  using F = __m256;
  using Index = __m256i;
  using I = __m256i;  // 32-bit words
  static constexpr int64_t kLanes = 8;
  static constexpr int kRegisters = 16;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  // The first n lanes (0 <= n <= 8); the others are zero, or left as they are in memory.
  static F load_part(const float* p, int64_t n) { return _mm256_maskload_ps(p, mask(n)); }
  static void store_part(float* p, F x, int64_t n) { _mm256_maskstore_ps(p, mask(n), x); }

  // Eight encoded values, none of which need be aligned, or the first n < 8 of them (the others are zero).
  static F load_fp16(const std::byte* p) { return fp16(load16(p)); }
  static F load_fp16_part(const std::byte* p, int64_t n) { return fp16(copied(p, 2 * n)); }
  static F load_bf16(const std::byte* p) { return bf16(load16(p)); }
  static F load_bf16_part(const std::byte* p, int64_t n) { return bf16(copied(p, 2 * n)); }
  static F load_int8(const std::byte* p) {
    return codes(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static F load_int8_part(const std::byte* p, int64_t n) { return codes(copied(p, n)); }
  static F load_int4(const std::byte* p) {
    int32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return nibbles(_mm_cvtsi32_si128(packed));
  }
  static F load_int4_part(const std::byte* p, int64_t n) { return nibbles(copied(p, (n + 1) / 2)); }

  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  // Of a NaN in b comes a NaN.
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n for integral n in [-126, 127].
  static F exp2_int(F n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  }
  static float sum(F x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  static I load_words(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static I set1_word(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
  static I shift_up16(I x) { return _mm256_slli_epi32(x, 16); }
  static F as_floats(I x) { return _mm256_castsi256_ps(x); }
  static F from_int(I x) { return _mm256_cvtepi32_ps(x); }
  static I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
  // int8 at even and odd bytes as int16, and sums of two int16 products.
  static I even_bytes(I x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); }
  static I odd_bytes(I x) { return _mm256_srai_epi16(x, 8); }
  static I madd16(I a, I b) { return _mm256_madd_epi16(a, b); }
  // Writes n lanes (0 <= n <= 8) of integers in [0, 255], rounding half to even.
  static void store_bytes(uint8_t* p, F x, int64_t n) {
    const I words = _mm256_cvtps_epi32(x);
    const __m128i shorts =
        _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(shorts, shorts));
    std::memcpy(p, &bytes, static_cast<size_t>(n));
  }
  // Writes n lanes as bfloat16, rounding half to even; a NaN stays one.
  static void store_bf16(uint16_t* p, F x, int64_t n) {
    const I bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
    const I half = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    const I rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const I quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const I nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const I words = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m128i shorts =
        _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    alignas(16) uint16_t values[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(values), shorts);
    std::memcpy(p, values, static_cast<size_t>(n) * sizeof(uint16_t));
  }
  // Whether the first n lanes are all finite.
  static bool finite(F x, int64_t n) {
    const I exponent = _mm256_set1_epi32(0x7f800000);
    const I found = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x), exponent), exponent);
    return _mm256_testz_si256(found, mask(n)) != 0;
  }

  static Index load_index(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static F permute(F x, Index index) { return _mm256_permutevar8x32_ps(x, index); }
  // Four floats in every 128-bit part, and a choice among them (index in [0, 4)).
  static F load4(const float* p) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)); }
  static F permute4(F x, Index index) { return _mm256_permutevar_ps(x, index); }

  // entries[index] of kRegisters vectors of entries, for every lane.
  template <int kRegisters>
  static F pick(const float* entries, Index index) {
    if constexpr (kRegisters == 1) {
      return permute(load(entries), index);
    } else {
      constexpr int kBit = kRegisters == 2 ? 3 : kRegisters == 4 ? 4 : 5;  // the one that tells the half
      static_assert(kRegisters <= 8);
      const F low = pick<kRegisters / 2>(entries, index);
      const F high = pick<kRegisters / 2>(entries + kRegisters / 2 * kLanes, index);
      return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 31 - kBit)));
    }
  }
  // How often each of the values [8g, 8g + 8) is among n <= 255 values, one count a byte.
  static uint64_t count8(const int64_t* values, int64_t n, int64_t g) {
    const __m256i one = _mm256_set1_epi64x(1), first = _mm256_set1_epi64x(64 * g);
    __m256i sum = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
      const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + i));
      // A shift of 64 bits or more, a negative one too, leaves nothing.
      sum =
          _mm256_add_epi64(sum, _mm256_sllv_epi64(one, _mm256_sub_epi64(_mm256_slli_epi64(value, 3), first)));
    }
    const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    auto counts = static_cast<uint64_t>(_mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1));
    for (; i < n; ++i) {
      const auto shift = static_cast<uint64_t>(8 * (values[i] - 8 * g));
      counts += shift < 64 ? uint64_t{1} << shift : 0;
    }
    return counts;
  }
  // In every 128-bit part: the transpose of the 4 x 4 floats of x[0] to x[3].
  static void transpose4(F* x) {
    const F a = _mm256_unpacklo_ps(x[0], x[1]), b = _mm256_unpackhi_ps(x[0], x[1]);
    const F c = _mm256_unpacklo_ps(x[2], x[3]), d = _mm256_unpackhi_ps(x[2], x[3]);
    x[0] = _mm256_shuffle_ps(a, c, 0x44);
    x[1] = _mm256_shuffle_ps(a, c, 0xee);
    x[2] = _mm256_shuffle_ps(b, d, 0x44);
    x[3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  // Writes the 128-bit parts k of x[0] to x[3] beside each other at p + k * stride.
  static void store_parts(const F* x, float* p, int64_t stride) {
    store(p, _mm256_permute2f128_ps(x[0], x[1], 0x20));
    store(p + 8, _mm256_permute2f128_ps(x[2], x[3], 0x20));
    store(p + stride, _mm256_permute2f128_ps(x[0], x[1], 0x31));
    store(p + stride + 8, _mm256_permute2f128_ps(x[2], x[3], 0x31));
  }

  // Writes the transpose of the block of n x m floats (n, m <= 8) at `from` as m rows of 8 floats, zero past
  // n.
  static void transpose(const float* from, int64_t from_stride, int64_t n, int64_t m, float* to,
                        int64_t to_stride) {
    F a[8], b[8];
    for (int64_t i = 0; i < 8; ++i) {
      a[i] = i >= n ? zero() : m == 8 ? load(from + i * from_stride) : load_part(from + i * from_stride, m);
    }
    for (int i = 0; i < 4; ++i) {
      b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
      b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
      a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
      a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
      a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
      a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      b[i] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
      b[i + 4] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
    }
    for (int64_t i = 0; i < m; ++i) store(to + i * to_stride, b[i]);
  }

 private:
  static __m128i load16(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  // At most 16 bytes, the others zero: nothing past them may be read, and AVX2 masks no bytes.
  static __m128i copied(const std::byte* p, int64_t bytes) {
    alignas(16) std::byte copy[16] = {};
    __builtin_memcpy(copy, p, static_cast<std::size_t>(bytes));
    return _mm_load_si128(reinterpret_cast<const __m128i*>(copy));
  }
  static F fp16(__m128i halves) { return _mm256_cvtph_ps(halves); }
  static F bf16(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  static F codes(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }
  static F nibbles(__m128i bytes) {
    const __m128i high = _mm_srli_epi16(bytes, 4);
    return codes(_mm_and_si128(_mm_unpacklo_epi8(bytes, high), _mm_set1_epi8(15)));
  }
  static __m256i mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace
}  // namespace screc
