// Dense layers in bf16 and int8 on tiles of 16 x 16 words, for AMX (linear_amx.cc) and for its emulation
// (linear_emulated_avx512.cc). Compiled for AVX-512, which finishes the sums.
//
// Limits of a layer of N x K weights on M rows:
//   products    a product of two tiles takes 16 cycles for 16 x 16 x 64 int8 or 16 x 16 x 32 bfloat16: 2048
//   or
//               1024 operations a cycle;
//   outputs     8 vector operations for 16 outputs that go on as int8, two a cycle;
//   memory      as in vector_linear.h: N K weights once per call.
// A block is 32 rows and one panel of 32 outputs. Four tiles hold its sums, two the rows' inputs and two the
// weights, so that every tile loaded is used twice. The sums of one block become outputs while the products
// of the next are made, so that tiles and vector units work side by side. Rows outside, panels inside: 32
// rows stay in the first-level cache and the weights stream past them from the second. The panels are those
// of AVX-512, with whole tiles of steps. All rows take the same products in the same order, whatever M is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"
#include "kernels/tile_shape.h"
#include "kernels/vector_dots.h"
#include "kernels/vector_encode.h"

namespace screc {
namespace {

// 16 rows of inputs: tiles of steps one after the other, the last one elsewhere.
struct InputTiles {
  const uint8_t* data;
  int64_t stride;  // bytes
  const uint8_t* last;
  int64_t last_stride;
};

// The rows of a call as tiles. What would reach beyond the rows or their inputs is copied, once, and filled
// up with zeros.
class TiledRows {
 public:
  TiledRows(const LinearCall& call, int64_t row_bytes, int64_t stride)
      : x_(static_cast<const uint8_t*>(call.x)),
        stride_(stride),
        tiles_((row_bytes + kTileRowBytes - 1) / kTileRowBytes),
        whole_rows_(call.m / kTileRows * kTileRows),
        ragged_(row_bytes % kTileRowBytes != 0) {
    const int64_t ends_bytes = ragged_ ? whole_rows_ * kTileRowBytes : 0;
    const int64_t rest = call.m - whole_rows_, width = tiles_ * kTileRowBytes;
    const int64_t bytes = ends_bytes + (rest > 0 ? kTileRows * width : 0);
    ends_ = reinterpret_cast<uint8_t*>(thread_scratch(bytes / int64_t{sizeof(float)}));
    rest_ = ends_ + ends_bytes;
    std::memset(ends_, 0, static_cast<size_t>(bytes));
    const int64_t end = (tiles_ - 1) * kTileRowBytes;
    for (int64_t r = 0; ragged_ && r < whole_rows_; ++r) {
      std::memcpy(ends_ + r * kTileRowBytes, x_ + r * stride + end, static_cast<size_t>(row_bytes - end));
    }
    for (int64_t r = 0; r < rest; ++r) {
      std::memcpy(rest_ + r * width, x_ + (whole_rows_ + r) * stride, static_cast<size_t>(row_bytes));
    }
  }

  int64_t tiles() const { return tiles_; }

  // Rows [row, row + 16).
  InputTiles at(int64_t row) const {
    const int64_t end = (tiles_ - 1) * kTileRowBytes;
    if (row >= whole_rows_) {
      const int64_t width = tiles_ * kTileRowBytes;
      return {rest_, width, rest_ + end, width};
    }
    const uint8_t* const data = x_ + row * stride_;
    if (ragged_) return {data, stride_, ends_ + row * kTileRowBytes, kTileRowBytes};
    return {data, stride_, data + end, stride_};
  }

 private:
  const uint8_t* x_;
  int64_t stride_, tiles_, whole_rows_;
  bool ragged_;
  uint8_t *ends_, *rest_;
};

template <typename V>
struct FloatTileSums {
  using Vec = V;
  static constexpr Precision kPrecision = Precision::kBf16;
  struct Columns {  // of one vector
    typename V::F bias;
  };
  static Columns columns(const LinearWeights& w, int64_t column) { return {V::load(w.bias + column)}; }
  static typename V::F value(const Columns& c, const uint32_t* sums) {
    return V::add(V::as_floats(V::load_words(sums)), c.bias);
  }
};

template <typename V>
struct IntegerTileSums {
  using Vec = V;
  static constexpr Precision kPrecision = Precision::kInt8;
  struct Columns {
    typename V::I start;
    typename V::F scale, bias;
  };
  static Columns columns(const LinearWeights& w, int64_t column) {
    return {V::load_words(w.start + column), V::load(w.scale + column), V::load(w.bias + column)};
  }
  static typename V::F value(const Columns& c, const uint32_t* sums) {
    return V::fma(V::from_int(V::add_int(V::load_words(sums), c.start)), c.scale, c.bias);
  }
};

// Makes outputs of the sums of a block, some rows at a time.
template <typename Sums, Precision kOut>
class BlockOutputs {
  using V = typename Sums::Vec;
  using F = typename V::F;

 public:
  static constexpr int64_t kPanel = 2 * V::kLanes;

  BlockOutputs(const LinearWeights& w, const LinearCall& call)
      : w_(w), call_(call), row_bytes_(call.out_stride * element_bytes(call.output.precision)) {}

  // Of rows [row, row + rows) and a panel; what was begun before must be finished. The sums, [32][kPanel],
  // must stay until then.
  void begin(const uint32_t* sums, int64_t row, int64_t rows, int64_t panel) {
    sums_ = sums;
    out_ = static_cast<uint8_t*>(call_.out) + row * row_bytes_;
    left_ = rows;
    column_ = panel * kPanel;
  }

  [[gnu::always_inline]] void write(int64_t rows) {
    rows = std::min(rows, left_);
    if (rows == 0) return;
    if (column_ + kPanel > w_.out) [[unlikely]] {
      write_part(rows);
    } else if constexpr (kOut == Precision::kInt8) {
      write_bytes(rows);
    } else {
      write_whole(rows);
    }
    sums_ += rows * kPanel;
    out_ += rows * row_bytes_;
    left_ -= rows;
  }
  void finish() { write(left_); }

 private:
  // What is below it becomes it: of ReLU or of nothing.
  F floor() const { return V::set1(call_.relu ? 0.0f : -std::numeric_limits<float>::infinity()); }

  // Constants in variables of their own, not arrays: those would be kept in memory.
  [[gnu::always_inline]] void write_bytes(int64_t rows) {
    const int64_t next = column_ + V::kLanes;
    const auto left = Sums::columns(w_, column_), right = Sums::columns(w_, next);
    const F left_scale = V::load(call_.output.inverse_scale + column_);
    const F left_zero = V::load(call_.output.zero_point + column_);
    const F right_scale = V::load(call_.output.inverse_scale + next);
    const F right_zero = V::load(call_.output.zero_point + next);
    const F least = floor();
    const auto left_codes = [&](const uint32_t* sums) __attribute__((always_inline)) {
      return V::fma(V::max(least, Sums::value(left, sums)), left_scale, left_zero);
    };
    const auto right_codes = [&](const uint32_t* sums) __attribute__((always_inline)) {
      return V::fma(V::max(least, Sums::value(right, sums + V::kLanes)), right_scale, right_zero);
    };
    const uint32_t* sums = sums_;
    uint8_t* out = out_ + column_;
    for (; rows >= 2; rows -= 2, sums += 2 * kPanel, out += 2 * row_bytes_) {
      V::store_two_rows_of_bytes(out, out + row_bytes_, left_codes(sums), right_codes(sums),
                                 left_codes(sums + kPanel), right_codes(sums + kPanel));
    }
    if (rows > 0) V::store_row_of_bytes(out, left_codes(sums), right_codes(sums));
  }

  [[gnu::always_inline]] void write_whole(int64_t rows) {
    const auto left = Sums::columns(w_, column_), right = Sums::columns(w_, column_ + V::kLanes);
    const F least = floor();
    for (int64_t r = 0; r < rows; ++r) {
      store(V::max(least, Sums::value(left, sums_ + r * kPanel)), out_ + r * row_bytes_, column_);
      store(V::max(least, Sums::value(right, sums_ + r * kPanel + V::kLanes)), out_ + r * row_bytes_,
            column_ + V::kLanes);
    }
  }
  static void store(F x, uint8_t* out, int64_t column) {
    if constexpr (kOut == Precision::kBf16) {
      V::store_bf16(reinterpret_cast<uint16_t*>(out) + column, x, V::kLanes);
    } else {
      V::store(reinterpret_cast<float*>(out) + column, x);
    }
  }

  // The last panel, which need not be full.
  [[gnu::noinline]] void write_part(int64_t rows) {
    const F least = floor();
    for (int64_t column = column_; column < w_.out; column += V::kLanes) {
      const typename Sums::Columns columns = Sums::columns(w_, column);
      const int64_t n = std::min(w_.out - column, V::kLanes);
      for (int64_t r = 0; r < rows; ++r) {
        const F x = V::max(least, Sums::value(columns, sums_ + r * kPanel + column - column_));
        encode_vector<V>(x, column, n, call_.output, out_ + r * row_bytes_);
      }
    }
  }

  const LinearWeights& w_;
  const LinearCall& call_;
  const int64_t row_bytes_;
  const uint32_t* sums_ = nullptr;
  uint8_t* out_ = nullptr;
  int64_t left_ = 0, column_ = 0;
};

// Tiles 0 and 1 are the sums of the first 16 rows, 2 and 3 those of the second, 4 and 5 inputs, 6 and 7
// weights.
template <typename Tiles, typename Sums, Precision kOut>
void tile_linear_to(const LinearWeights& w, const LinearCall& call) {
  using Outputs = BlockOutputs<Sums, kOut>;
  constexpr int64_t kPanel = Outputs::kPanel, kPanelBytes = kPanel * int64_t{sizeof(uint32_t)};
  static_assert(kPanelBytes == 2 * kTileRowBytes);
  alignas(64) uint32_t sums[2][kBlockRows * kPanel];
  const TiledRows rows(call, w.in * element_bytes(Sums::kPrecision),
                       call.x_stride * element_bytes(Sums::kPrecision));
  const int64_t num_panels = (w.out + kPanel - 1) / kPanel, last = rows.tiles() - 1;
  const int64_t rows_a_step = (kBlockRows + last) / std::max<int64_t>(rows.tiles(), 1);
  Tiles tiles;
  Outputs outputs(w, call);
  int side = 0;
  for (int64_t row = 0; row < call.m; row += kBlockRows) {
    const bool both = call.m - row > kTileRows;
    const InputTiles first = rows.at(row), second = rows.at(both ? row + kTileRows : row);
    for (int64_t panel = 0; panel < num_panels; ++panel) {
      const uint8_t* const words = static_cast<const uint8_t*>(w.words) + panel * w.steps * kPanelBytes;
      tiles.template zero<0>();
      tiles.template zero<1>();
      tiles.template zero<2>();
      tiles.template zero<3>();
      const auto multiply = [&](int64_t k, const uint8_t* a, int64_t a_stride, const uint8_t* b,
                                int64_t b_stride) __attribute__((always_inline)) {
        const uint8_t* const weights = words + k * kTileSteps * kPanelBytes;
        tiles.template load<6>(weights, kPanelBytes);
        tiles.template load<4>(a, a_stride);
        tiles.template dot<Sums::kPrecision, 0, 4, 6>();
        tiles.template load<7>(weights + kTileRowBytes, kPanelBytes);
        tiles.template dot<Sums::kPrecision, 1, 4, 7>();
        if (both) {
          tiles.template load<5>(b, b_stride);
          tiles.template dot<Sums::kPrecision, 2, 5, 6>();
          tiles.template dot<Sums::kPrecision, 3, 5, 7>();
        }
        outputs.write(rows_a_step);
      };
      for (int64_t k = 0; k < last; ++k) {
        multiply(k, first.data + k * kTileRowBytes, first.stride, second.data + k * kTileRowBytes,
                 second.stride);
      }
      if (last >= 0) multiply(last, first.last, first.last_stride, second.last, second.last_stride);
      outputs.finish();
      uint32_t* const block = sums[side];
      side = 1 - side;
      tiles.template store<0>(block, kPanelBytes);
      tiles.template store<1>(block + Sums::Vec::kLanes, kPanelBytes);
      tiles.template store<2>(block + kTileRows * kPanel, kPanelBytes);
      tiles.template store<3>(block + kTileRows * kPanel + Sums::Vec::kLanes, kPanelBytes);
      outputs.begin(block, row, std::min(kBlockRows, call.m - row), panel);
    }
  }
  outputs.finish();
}

template <typename Tiles, typename Sums>
void tile_linear(const LinearWeights& w, const LinearCall& call) {
  switch (call.output.precision) {
    case Precision::kFp32:
      return tile_linear_to<Tiles, Sums, Precision::kFp32>(w, call);
    case Precision::kBf16:
      return tile_linear_to<Tiles, Sums, Precision::kBf16>(w, call);
    case Precision::kInt8:
      return tile_linear_to<Tiles, Sums, Precision::kInt8>(w, call);
  }
}

}  // namespace
}  // namespace screc
