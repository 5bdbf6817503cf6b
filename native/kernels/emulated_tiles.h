// The tile registers of AMX in plain C++: what tests run where there is no AMX.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/tile_shape.h"
#include "kernels/vec_avx512.h"

namespace screc {
namespace {

class EmulatedTiles {
 public:
  template <int kTile>
  void zero() {
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
  }
  template <int kTile>
  void load(const void* from, int64_t stride) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(tiles_[kTile][r], static_cast<const uint8_t*>(from) + r * stride, kTileRowBytes);
    }
  }
  template <int kTile>
  void store(void* to, int64_t stride) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(static_cast<uint8_t*>(to) + r * stride, tiles_[kTile][r], kTileRowBytes);
    }
  }
  // sum[r][c] += the products of the words inputs[r][k] and weights[k][c], over k.
  template <Precision kPrecision, int kSum, int kInputs, int kWeights>
  void dot() {
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int64_t k = 0; k < kTileSteps; ++k) {
        for (int64_t c = 0; c < kTileSteps; ++c) {
          uint32_t& sum = tiles_[kSum][r][c];
          sum = add<kPrecision>(sum, tiles_[kInputs][r][k], tiles_[kWeights][k][c]);
        }
      }
    }
  }
  static void store_bf16(uint16_t* to, __m512 x) { Vec16::store_bf16(to, x, Vec16::kLanes); }

 private:
  template <Precision kPrecision>
  static uint32_t add(uint32_t sum, uint32_t x, uint32_t w) {
    if constexpr (kPrecision == Precision::kInt8) {
      for (int shift = 0; shift < 32; shift += 8) {
        const int32_t weight = static_cast<int8_t>(w >> shift & 0xff);
        sum += static_cast<uint32_t>(static_cast<int32_t>(x >> shift & 0xff) * weight);
      }
      return sum;
    } else {
      float total = std::bit_cast<float>(sum);
      total += std::bit_cast<float>(x << 16) * std::bit_cast<float>(w << 16);
      total += std::bit_cast<float>(x & 0xffff0000u) * std::bit_cast<float>(w & 0xffff0000u);
      return std::bit_cast<uint32_t>(total);
    }
  }

  uint32_t tiles_[8][kTileRows][kTileSteps];
};

}  // namespace
}  // namespace screc
