// Dot interaction in bf16 on tiles, for AMX (interact_amx.cc) and for its emulation
// (interact_emulated_avx512.cc). Compiled for AVX-512, which rounds and turns the features.
//
// A tile holds 16 features with 32 columns of each. The products of a tile of features with another, turned,
// are the pairs of both. Limits for F = 27, d = 16: 3 products of 16 cycles; 64 permutations to turn the
// features and some 40 operations to round them, one and two a cycle; 1.7 KB in, 1.4 KB out.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/tile_shape.h"
#include "kernels/vec_avx512.h"

namespace screc {
namespace {

// Samples that are worked on side by side, so that what one stage writes is not read a moment later.
constexpr int64_t kSideBySide = 4;

// Writes the transpose of 16 rows of 8 words, `stride` bytes apart, as 8 rows of 16 words.
inline void turn_words(const uint8_t* from, int64_t stride, uint8_t* to) {
  const auto row = [&](int64_t i) { return reinterpret_cast<const __m256i*>(from + i * stride); };
  __m512i a[8], b[8];
  for (int i = 0; i < 8; ++i) {  // rows i and i + 8 beside each other: two transposes of 8 x 8 in one
    a[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256(row(i))),
                              _mm256_load_si256(row(i + 8)), 1);
  }
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {  // a[4i + c]: columns c and c + 4 of rows 4i to 4i + 3
    a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
    a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
  }
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (int c = 0; c < 4; ++c) {
    _mm512_store_si512(to + c * kTileRowBytes, _mm512_permutex2var_epi64(a[c], low, a[4 + c]));
    _mm512_store_si512(to + (c + 4) * kTileRowBytes, _mm512_permutex2var_epi64(a[c], high, a[4 + c]));
  }
}

template <typename Tiles>
class TileInteraction {
 public:
  // `places`: samples that it holds at a time.
  TileInteraction(int64_t num_features, int64_t dim, int64_t places)
      : num_features_(num_features),
        dim_(dim),
        groups_((num_features + kTileRows - 1) / kTileRows),
        steps_((dim + kColumns - 1) / kColumns) {
    const int64_t features = groups_ * steps_ * kTileBytes, pairs = groups_ * (groups_ + 1) / 2 * kTileBytes;
    sample_bytes_ = 2 * features + pairs;
    const int64_t bytes = places * sample_bytes_;
    memory_ = reinterpret_cast<uint8_t*>(thread_scratch(bytes / int64_t{sizeof(float)}));
    turned_ = features;
    pairs_ = 2 * features;
    std::memset(memory_, 0, static_cast<size_t>(bytes));  // what no feature fills stays zero
  }

  void round(int64_t place, const float* features) {
    uint8_t* to = memory_ + place * sample_bytes_;
    const int64_t whole = dim_ / Vec16::kLanes * Vec16::kLanes;
    for (int64_t i = 0; i < num_features_; ++i, features += dim_, to += steps_ * kTileRowBytes) {
      auto* const columns = reinterpret_cast<uint16_t*>(to);
      for (int64_t c = 0; c < whole; c += Vec16::kLanes) {
        Tiles::store_bf16(columns + c, Vec16::load(features + c));
      }
      if (whole < dim_) Tiles::store_bf16(columns + whole, Vec16::load_part(features + whole, dim_ - whole));
    }
  }

  void turn(int64_t place) {
    uint8_t* const memory = memory_ + place * sample_bytes_;
    for (int64_t g = 0; g < groups_; ++g) {
      const uint8_t* const from = memory + g * steps_ * kTileBytes;
      for (int64_t c = 0; c < dim_; c += Vec16::kLanes) {  // 8 words
        turn_words(from + 2 * c, steps_ * kTileRowBytes,
                   memory + turned_ + g * steps_ * kTileBytes + c / 2 * kTileRowBytes);
      }
    }
  }

  // Two groups against two at a time: tiles 0 to 3 are their pairs, 4 and 5 features, 6 and 7 turned ones.
  void multiply(Tiles& tiles, int64_t place) {
    uint8_t* const memory = memory_ + place * sample_bytes_;
    for (int64_t g = 0; g < groups_; g += 2) {
      for (int64_t other = 0; other <= g; other += 2) {
        const bool second = g + 1 < groups_, below = other < g;  // the diagonal: else tile 1 lies above it
        tiles.template zero<0>();
        tiles.template zero<1>();
        tiles.template zero<2>();
        tiles.template zero<3>();
        for (int64_t k = 0; k < steps_; ++k) {
          const uint8_t* const a = memory + g * steps_ * kTileBytes + k * kTileRowBytes;
          const uint8_t* const b = memory + turned_ + (other * steps_ + k) * kTileBytes;
          tiles.template load<4>(a, steps_ * kTileRowBytes);
          tiles.template load<6>(b, kTileRowBytes);
          tiles.template dot<Precision::kBf16, 0, 4, 6>();
          if (below || second) tiles.template load<7>(b + steps_ * kTileBytes, kTileRowBytes);
          if (below) tiles.template dot<Precision::kBf16, 1, 4, 7>();
          if (!second) continue;
          tiles.template load<5>(a + steps_ * kTileBytes, steps_ * kTileRowBytes);
          tiles.template dot<Precision::kBf16, 2, 5, 6>();
          tiles.template dot<Precision::kBf16, 3, 5, 7>();
        }
        tiles.template store<0>(pairs_of(memory, g, other), kTileRowBytes);
        if (below) tiles.template store<1>(pairs_of(memory, g, other + 1), kTileRowBytes);
        if (!second) continue;
        tiles.template store<2>(pairs_of(memory, g + 1, other), kTileRowBytes);
        tiles.template store<3>(pairs_of(memory, g + 1, other + 1), kTileRowBytes);
      }
    }
  }

  void write(int64_t place, float* out) {
    uint8_t* const memory = memory_ + place * sample_bytes_;
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t rows = std::min(kTileRows, num_features_ - g * kTileRows);
      const auto* from = reinterpret_cast<const float*>(pairs_of(memory, g, 0));
      for (int64_t r = 0; r < rows; ++r, from += kTileSteps) {
        for (int64_t other = 0; other < g; ++other, out += kTileSteps) {
          Vec16::store(out, Vec16::load(from + other * kTileRows * kTileSteps));
        }
        Vec16::store_part(out, Vec16::load(from + g * kTileRows * kTileSteps), r);
        out += r;
      }
    }
  }

 private:
  static constexpr int64_t kColumns = 32;  // of a feature in a tile

  // The tile of pairs of two groups, the second not after the first.
  uint8_t* pairs_of(uint8_t* memory, int64_t group, int64_t other) const {
    return memory + pairs_ + (group * (group + 1) / 2 + other) * kTileBytes;
  }

  int64_t num_features_, dim_, groups_, steps_;
  int64_t sample_bytes_, turned_, pairs_;  // of a sample: its features, these turned, their pairs
  uint8_t* memory_;
};

template <typename Tiles>
void tile_interact(const float* features, int64_t num_samples, int64_t num_features, int64_t dim,
                   int64_t sample_stride, float* out, int64_t out_stride) {
  if (num_features < 2) return;
  TileInteraction<Tiles> interaction(num_features, dim, std::min(kSideBySide, num_samples));
  Tiles tiles;
  for (int64_t first = 0; first < num_samples; first += kSideBySide) {
    const int64_t n = std::min(kSideBySide, num_samples - first);
    for (int64_t s = 0; s < n; ++s) interaction.round(s, features + (first + s) * sample_stride);
    for (int64_t s = 0; s < n; ++s) interaction.turn(s);
    for (int64_t s = 0; s < n; ++s) interaction.multiply(tiles, s);
    for (int64_t s = 0; s < n; ++s) interaction.write(s, out + (first + s) * out_stride);
  }
}

}  // namespace
}  // namespace screc
