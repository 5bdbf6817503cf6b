// Dense layers in bf16 and int8 on tiles of 16 x 16 words, for AMX (amx_tiles.h) and for its emulation
// (emulated_tiles.h). Compiled for AVX-512, which finishes the sums.
//
// Limits of a layer of N x K weights on M rows:
//   arithmetic  a product of two tiles takes 16 cycles for 16 x 16 x 64 int8 or 16 x 16 x 32 bfloat16
//   products:
//               2048 or 1024 operations a cycle;
//   memory      as in vector_linear.h: N K weights once per call.
// Four tiles hold the sums of 32 rows and one panel of 32 outputs, two the rows' inputs and two the weights,
// so that every tile loaded is used twice. The panels are those of AVX-512, with whole tiles of steps. A tile
// that would reach beyond the rows or their inputs is loaded from a copy filled up with zeros: all rows take
// the same products in the same order, whatever M is.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/tile_shape.h"
#include "kernels/vector_dots.h"
#include "kernels/vector_encode.h"

namespace screc {
namespace {

// 16 rows of inputs, one tile of steps wide.
struct InputTile {
  const uint8_t* data;
  int64_t stride;  // bytes
};

// The inputs of rows [row, row + 16) from byte `first` of each on, copied to `copy` where they end within it.
inline InputTile input_tile(const LinearCall& call, int64_t row_bytes, int64_t stride, int64_t row,
                            int64_t first, uint8_t* copy) {
  const uint8_t* from = static_cast<const uint8_t*>(call.x) + row * stride + first;
  const int64_t rows = call.m - row, bytes = row_bytes - first;
  if (rows >= kTileRows && bytes >= kTileRowBytes) return {from, stride};
  std::memset(copy, 0, kTileRows * kTileRowBytes);
  for (int64_t r = 0; r < rows && r < kTileRows; ++r) {
    std::memcpy(copy + r * kTileRowBytes, from + r * stride,
                static_cast<size_t>(bytes < kTileRowBytes ? bytes : kTileRowBytes));
  }
  return {copy, kTileRowBytes};
}

// Finishes the sums of rows [row, row + rows) and a panel.
template <typename Sums>
void finish_tiles(const LinearWeights& w, const LinearCall& call, int64_t row, int64_t rows, int64_t panel,
                  const uint32_t* sums) {
  using V = typename Sums::Vec;
  constexpr int64_t kPanel = 2 * V::kLanes;
  const int64_t row_bytes = call.out_stride * element_bytes(call.output.precision);
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* out = static_cast<uint8_t*>(call.out) + (row + r) * row_bytes;
    for (int64_t column = panel * kPanel; column < (panel + 1) * kPanel && column < w.out;
         column += V::kLanes) {
      const typename V::F x = Sums::finish(w, column, sums + r * kPanel + column % kPanel);
      const int64_t n = w.out - column < V::kLanes ? w.out - column : V::kLanes;
      encode_vector<V>(call.relu ? V::max(V::zero(), x) : x, column, n, call.output, out);
    }
  }
}

template <typename V>
struct FloatTileSums : FloatSums<V> {
  static constexpr Precision kPrecision = Precision::kBf16;
  static typename V::F finish(const LinearWeights& w, int64_t column, const uint32_t* sums) {
    return V::add(V::as_floats(V::load_words(sums)), V::load(w.bias + column));
  }
};

template <typename V>
struct IntegerTileSums : IntegerSums<V> {
  static constexpr Precision kPrecision = Precision::kInt8;
  static typename V::F finish(const LinearWeights& w, int64_t column, const uint32_t* sums) {
    return IntegerSums<V>::value(w, column, V::add_int(V::load_words(sums), V::load_words(w.start + column)));
  }
};

// Tiles 0 and 1 are the sums of the first 16 rows, 2 and 3 those of the second, 4 and 5 inputs, 6 and 7
// weights.
template <typename Tiles, typename Sums>
void tile_linear(const LinearWeights& w, const LinearCall& call) {
  constexpr int64_t kPanel = 2 * Sums::Vec::kLanes, kPanelBytes = kPanel * int64_t{sizeof(uint32_t)};
  static_assert(kPanelBytes == 2 * kTileRowBytes);
  alignas(64) uint32_t sums[2 * kTileRows * kPanel];
  alignas(64) uint8_t copies[2][kTileRows * kTileRowBytes];
  const int64_t row_bytes = w.in * element_bytes(Sums::kPrecision);
  const int64_t stride = call.x_stride * element_bytes(Sums::kPrecision);
  const int64_t num_panels = (w.out + kPanel - 1) / kPanel;
  Tiles tiles;
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    const uint8_t* const words = static_cast<const uint8_t*>(w.words) + panel * w.steps * kPanelBytes;
    for (int64_t row = 0; row < call.m; row += 2 * kTileRows) {
      const bool both = call.m - row > kTileRows;
      tiles.template zero<0>();
      tiles.template zero<1>();
      tiles.template zero<2>();
      tiles.template zero<3>();
      for (int64_t k = 0; k < w.steps / kTileSteps; ++k) {
        const uint8_t* weights = words + k * kTileSteps * kPanelBytes;
        tiles.template load<6>(weights, kPanelBytes);
        tiles.template load<7>(weights + kTileRowBytes, kPanelBytes);
        const InputTile first = input_tile(call, row_bytes, stride, row, k * kTileRowBytes, copies[0]);
        tiles.template load<4>(first.data, first.stride);
        tiles.template dot<Sums::kPrecision, 0, 4, 6>();
        tiles.template dot<Sums::kPrecision, 1, 4, 7>();
        if (!both) continue;
        const InputTile second =
            input_tile(call, row_bytes, stride, row + kTileRows, k * kTileRowBytes, copies[1]);
        tiles.template load<5>(second.data, second.stride);
        tiles.template dot<Sums::kPrecision, 2, 5, 6>();
        tiles.template dot<Sums::kPrecision, 3, 5, 7>();
      }
      tiles.template store<0>(sums, kPanelBytes);
      tiles.template store<1>(sums + Sums::Vec::kLanes, kPanelBytes);
      tiles.template store<2>(sums + kTileRows * kPanel, kPanelBytes);
      tiles.template store<3>(sums + kTileRows * kPanel + Sums::Vec::kLanes, kPanelBytes);
      const int64_t left = call.m - row;
      finish_tiles<Sums>(w, call, row, left < 2 * kTileRows ? left : 2 * kTileRows, panel, sums);
    }
  }
}

}  // namespace
}  // namespace screc
