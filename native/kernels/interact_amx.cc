// Dot interaction in bf16 on AMX tiles, and for few samples without them.
#include <algorithm>

#include "kernels/amx_tiles.h"
#include "kernels/no_denormals.h"
#include "kernels/tables.h"
#include "kernels/tile_interact.h"

namespace screc {
namespace {

// Most samples for which AVX-512 is faster: setting tiles up and waiting for one product takes as long as
// making it.
constexpr int64_t kFewSamples = 2;
constexpr int64_t kTileColumns = 32;
constexpr int kRows = 8;

__m512 rounded(__m512 x) {
  const auto halves = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// Pairs of features [i0, i0 + kRows) with [j0, j0 + 16), of features turned to [dim][width], to the bit as
// TDPBF16PS makes them: of each tile's columns the products of even and of odd ones are summed apart.
void few_pairs(const float* turned, int64_t num_features, int64_t dim, int64_t width, int64_t i0, int64_t j0,
               float* out) {
  __m512 sum[kRows];
  for (int r = 0; r < kRows; ++r) sum[r] = Vec16::zero();
  for (int64_t tile = 0; tile < dim; tile += kTileColumns) {
    __m512 half[2][kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) half[0][r] = half[1][r] = Vec16::zero();
    for (int64_t c = tile; c < std::min(dim, tile + kTileColumns); c += 2) {
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        if (c + odd == dim) break;
        const float* const column = turned + (c + odd) * width;
        const __m512 others = Vec16::load(column + j0);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          half[odd][r] = Vec16::fma(Vec16::set1(column[i0 + r]), others, half[odd][r]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[r] = Vec16::add(sum[r], Vec16::add(half[0][r], half[1][r]));
  }
  for (int64_t r = 0; r < kRows && i0 + r < num_features; ++r) {
    const int64_t i = i0 + r, n = std::min(i - j0, Vec16::kLanes);
    if (n > 0) Vec16::store_part(out + i * (i - 1) / 2 + j0, sum[r], n);
  }
}

void few_samples(const float* features, int64_t num_samples, int64_t num_features, int64_t dim,
                 int64_t sample_stride, float* out, int64_t out_stride) {
  const NoDenormals as_tiles;
  constexpr int64_t kLanes = Vec16::kLanes;
  const int64_t width = (num_features + kLanes - 1) / kLanes * kLanes;
  float* const turned = thread_scratch(dim * width + kLanes);
  for (int64_t s = 0; s < num_samples; ++s, features += sample_stride, out += out_stride) {
    for (int64_t i = 0; i < num_features; i += kLanes) {
      const int64_t n = std::min(num_features - i, kLanes);
      for (int64_t c = 0; c < dim; c += kLanes) {
        const int64_t m = std::min(dim - c, kLanes);
        float* const to = turned + c * width + i;
        Vec16::transpose(features + i * dim + c, dim, n, m, to, width);
        for (int64_t k = 0; k < m; ++k) Vec16::store(to + k * width, rounded(Vec16::load(to + k * width)));
      }
    }
    for (int64_t i = 0; i < num_features; i += kRows) {
      for (int64_t j = 0; j < i + kRows - 1 && j < num_features; j += kLanes) {
        few_pairs(turned, num_features, dim, width, i, j, out);
      }
    }
  }
}

}  // namespace

void interact_bf16_amx(const float* features, int64_t num_samples, int64_t num_features, int64_t dim,
                       int64_t sample_stride, float* out, int64_t out_stride) {
  auto* const kernel = num_samples <= kFewSamples ? few_samples : tile_interact<AmxTiles>;
  kernel(features, num_samples, num_features, dim, sample_stride, out, out_stride);
}

}  // namespace screc
