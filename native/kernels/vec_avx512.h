// Sixteen floats: the vector that the kernels of vector_*.h are written in. Only for files compiled for
// AVX-512 F, BW, DQ and VL, and F16C.
#pragma once

// GCC 12's own AVX-512 headers leave values undefined on purpose and are then warned about.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace screc {
namespace {

struct Vec16 {
  using F = __m512;
  using Index = __m512i;
  using I = __m512i;  // 32-bit words
  static constexpr int64_t kLanes = 16;
  static constexpr int kRegisters = 32;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  // The first n lanes (0 <= n <= 16); the others are zero, or left as they are in memory.
  static F load_part(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static void store_part(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, mask(n), x); }

  // Sixteen encoded values, none of which need be aligned, or the first n < 16 of them (the others are zero).
  static F load_fp16(const std::byte* p) {
    return fp16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_fp16_part(const std::byte* p, int64_t n) {
    return fp16(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  static F load_bf16(const std::byte* p) {
    return bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_bf16_part(const std::byte* p, int64_t n) {
    return bf16(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  static F load_int8(const std::byte* p) {
    return codes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load_int8_part(const std::byte* p, int64_t n) { return codes(_mm_maskz_loadu_epi8(mask(n), p)); }
  static F load_int4(const std::byte* p) {
    int64_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return nibbles(_mm512_set1_epi64(packed));
  }
  static F load_int4_part(const std::byte* p, int64_t n) {
    return nibbles(_mm512_broadcastq_epi64(_mm_maskz_loadu_epi8(mask((n + 1) / 2), p)));
  }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  // Of a NaN in b comes a NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n for integral n in [-126, 127].
  static F exp2_int(F n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
  static float sum(F x) { return _mm512_reduce_add_ps(x); }

  static I load_words(const void* p) { return _mm512_loadu_si512(p); }
  static I set1_word(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
  static I shift_up16(I x) { return _mm512_slli_epi32(x, 16); }
  static F as_floats(I x) { return _mm512_castsi512_ps(x); }
  static F from_int(I x) { return _mm512_cvtepi32_ps(x); }
  static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  // int8 at even and odd bytes as int16, and sums of two int16 products.
  static I even_bytes(I x) { return _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8); }
  static I odd_bytes(I x) { return _mm512_srai_epi16(x, 8); }
  static I madd16(I a, I b) { return _mm512_madd_epi16(a, b); }
  // Writes n lanes (0 <= n <= 16) of integers in [0, 255], rounding half to even.
  static void store_bytes(uint8_t* p, F x, int64_t n) {
    _mm512_mask_cvtusepi32_storeu_epi8(p, mask(n), _mm512_cvtps_epi32(x));
  }
  // Writes a and b to `to`, c and d to `next`, 32 bytes each; what is outside [0, 255] becomes the nearer
  // end, a NaN 255.
  static void store_two_rows_of_bytes(uint8_t* to, uint8_t* next, F a, F b, F c, F d) {
    const I bytes = packed_bytes(a, b, c, d);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(bytes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(next), _mm512_extracti64x4_epi64(bytes, 1));
  }
  static void store_row_of_bytes(uint8_t* to, F a, F b) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(packed_bytes(a, b, a, b)));
  }
  // Writes n lanes as bfloat16, rounding half to even; a NaN stays one.
  static void store_bf16(uint16_t* p, F x, int64_t n) {
    const I bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
    const I half = _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
    const I rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    _mm512_mask_cvtepi32_storeu_epi16(p, mask(n),
                                      _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
  }
  // Whether the first n lanes are all finite.
  static bool finite(F x, int64_t n) {
    return (_mm512_fpclass_ps_mask(x, 0x01 | 0x80 | 0x08 | 0x10) & mask(n)) == 0;
  }

  static Index load_index(const int32_t* p) { return _mm512_loadu_si512(p); }
  static F permute(F x, Index index) { return _mm512_permutexvar_ps(index, x); }
  // Four floats in every 128-bit part, and a choice among them (index in [0, 4)).
  static F load4(const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
  static F permute4(F x, Index index) { return _mm512_permutevar_ps(x, index); }

  // entries[index] of kRegisters vectors of entries, for every lane.
  template <int kRegisters>
  static F pick(const float* entries, Index index) {
    if constexpr (kRegisters == 1) {
      return permute(load(entries), index);
    } else if constexpr (kRegisters == 2) {
      return _mm512_permutex2var_ps(load(entries), index, load(entries + kLanes));
    } else {
      constexpr int64_t kHalf = kRegisters / 2 * kLanes;
      const __mmask16 upper = _mm512_test_epi32_mask(index, _mm512_set1_epi32(kHalf));
      return _mm512_mask_blend_ps(upper, pick<kRegisters / 2>(entries, index),
                                  pick<kRegisters / 2>(entries + kHalf, index));
    }
  }
  // How often each of the values [8g, 8g + 8) is among n <= 255 values, one count a byte.
  static uint64_t count8(const int64_t* values, int64_t n, int64_t g) {
    const __m512i one = _mm512_set1_epi64(1), first = _mm512_set1_epi64(64 * g);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 8) {
      const auto part = static_cast<__mmask8>(n - i >= 8 ? 255 : (1 << (n - i)) - 1);
      // A shift of 64 bits or more, a negative one too, leaves nothing.
      const __m512i shift =
          _mm512_sub_epi64(_mm512_slli_epi64(_mm512_maskz_loadu_epi64(part, values + i), 3), first);
      sum = _mm512_add_epi64(sum, _mm512_maskz_sllv_epi64(part, one, shift));
    }
    return static_cast<uint64_t>(_mm512_reduce_add_epi64(sum));
  }
  // In every 128-bit part: the transpose of the 4 x 4 floats of x[0] to x[3].
  static void transpose4(F* x) {
    const F a = _mm512_unpacklo_ps(x[0], x[1]), b = _mm512_unpackhi_ps(x[0], x[1]);
    const F c = _mm512_unpacklo_ps(x[2], x[3]), d = _mm512_unpackhi_ps(x[2], x[3]);
    x[0] = _mm512_shuffle_ps(a, c, 0x44);
    x[1] = _mm512_shuffle_ps(a, c, 0xee);
    x[2] = _mm512_shuffle_ps(b, d, 0x44);
    x[3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  // Writes the 128-bit parts k of x[0] to x[3] beside each other at p + k * stride.
  static void store_parts(const F* x, float* p, int64_t stride) {
    const F a = _mm512_shuffle_f32x4(x[0], x[1], 0x44), b = _mm512_shuffle_f32x4(x[0], x[1], 0xee);
    const F c = _mm512_shuffle_f32x4(x[2], x[3], 0x44), d = _mm512_shuffle_f32x4(x[2], x[3], 0xee);
    store(p, _mm512_shuffle_f32x4(a, c, 0x88));
    store(p + stride, _mm512_shuffle_f32x4(a, c, 0xdd));
    store(p + 2 * stride, _mm512_shuffle_f32x4(b, d, 0x88));
    store(p + 3 * stride, _mm512_shuffle_f32x4(b, d, 0xdd));
  }

  // Writes the transpose of the block of n x m floats (n, m <= 16) at `from` as m rows of 16 floats, zero
  // past n.
  static void transpose(const float* from, int64_t from_stride, int64_t n, int64_t m, float* to,
                        int64_t to_stride) {
    F a[16], b[16];
    for (int64_t i = 0; i < 16; ++i) {
      a[i] = i < n ? load_part(from + i * from_stride, m) : zero();
    }
    for (int i = 0; i < 8; ++i) {  // pairs of rows
      b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
      b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {  // a[4i + c]: column c, c + 4, c + 8, c + 12 of rows 4i to 4i + 3
      a[4 * i] = _mm512_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
      a[4 * i + 1] = _mm512_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
      a[4 * i + 2] = _mm512_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
      a[4 * i + 3] = _mm512_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
    }
    for (int c = 0; c < 4; ++c) {  // a 4 x 4 transpose of 128-bit parts
      const F p = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88), q = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xdd);
      const F r = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
      const F s = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xdd);
      b[c] = _mm512_shuffle_f32x4(p, r, 0x88);
      b[8 + c] = _mm512_shuffle_f32x4(p, r, 0xdd);
      b[4 + c] = _mm512_shuffle_f32x4(q, s, 0x88);
      b[12 + c] = _mm512_shuffle_f32x4(q, s, 0xdd);
    }
    for (int64_t i = 0; i < m; ++i) store(to + i * to_stride, b[i]);
  }

 private:
  static F fp16(__m256i halves) { return _mm512_cvtph_ps(halves); }
  static F bf16(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  // The packs work within 128-bit parts: before the permutation part p has a, b, c and d of lanes 4p to 4p
  // + 3.
  static I packed_bytes(F a, F b, F c, F d) {
    const F most = set1(255.0f);
    const I low = _mm512_packs_epi32(_mm512_cvtps_epi32(min(a, most)), _mm512_cvtps_epi32(min(b, most)));
    const I high = _mm512_packs_epi32(_mm512_cvtps_epi32(min(c, most)), _mm512_cvtps_epi32(min(d, most)));
    const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
  }
  static F codes(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)); }
  // Of the same 8 bytes in every 64 bits: each lane takes its byte, shifts its nibble to the bottom and looks
  // the value up, which needs no other bits cleared and no conversion.
  static F nibbles(__m512i bytes) {
    const __m512i spread =
        _mm512_set_epi64(0x0707070707070707, 0x0606060606060606, 0x0505050505050505, 0x0404040404040404,
                         0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m512i shifts = _mm512_set1_epi64(int64_t{4} << 32);
    const F values = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_shuffle_epi8(bytes, spread), shifts), values);
  }
  static __mmask16 mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
};

}  // namespace
}  // namespace screc
