// Eight floats: the vector that the kernels of vector_*.h are written in. Only for files compiled for AVX2
// and FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace screc {
namespace {

struct Vec8 {
  using F = __m256;
  using Index = __m256i;
  static constexpr int64_t kLanes = 8;
  static constexpr int kRegisters = 16;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  // The first n lanes (0 <= n <= 8); the others are zero, or left as they are in memory.
  static F load_part(const float* p, int64_t n) { return _mm256_maskload_ps(p, mask(n)); }
  static void store_part(float* p, F x, int64_t n) { _mm256_maskstore_ps(p, mask(n), x); }
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

  static Index load_index(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static F permute(F x, Index index) { return _mm256_permutevar8x32_ps(x, index); }
  // Four floats in every 128-bit part, and a choice among them (index in [0, 4)).
  static F load4(const float* p) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)); }
  static F permute4(F x, Index index) { return _mm256_permutevar_ps(x, index); }

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
  static __m256i mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace
}  // namespace screc
