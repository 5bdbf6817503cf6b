// Sixteen floats: the vector that the kernels of vector_*.h are written in. Only for files compiled for
// AVX-512 F, BW, DQ and VL.
#pragma once

// GCC 12's own AVX-512 headers leave values undefined on purpose and are then warned about.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <cstdint>

namespace screc {
namespace {

struct Vec16 {
  using F = __m512;
  using Index = __m512i;
  static constexpr int64_t kLanes = 16;
  static constexpr int kRegisters = 32;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  // The first n lanes (0 <= n <= 16); the others are zero, or left as they are in memory.
  static F load_part(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static void store_part(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, mask(n), x); }
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

  static Index load_index(const int32_t* p) { return _mm512_loadu_si512(p); }
  static F permute(F x, Index index) { return _mm512_permutexvar_ps(index, x); }
  // Four floats in every 128-bit part, and a choice among them (index in [0, 4)).
  static F load4(const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
  static F permute4(F x, Index index) { return _mm512_permutevar_ps(x, index); }

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
  static __mmask16 mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
};

}  // namespace
}  // namespace screc
