#include "fit/row_tiles.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace screc {

RowTiles::RowTiles(int64_t slices, int64_t left_columns, int64_t columns, const FitKernels& kernels)
    : kernels_(&kernels),
      slices_(slices),
      left_columns_(left_columns),
      columns_(columns),
      dim_(left_columns * columns),
      width_(4 * kernels.lanes) {
  const auto whole = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(columns)));
  tile_columns_ = std::min(whole, kernels.lanes);
  parts_ = (columns + tile_columns_ - 1) / tile_columns_;
  const int64_t prefix_columns = left_columns * tile_columns_;
  group_prefixes_ = width_ / std::gcd(width_, prefix_columns);
  group_tiles_ = group_prefixes_ * prefix_columns / width_;
}

float RowTiles::fill(const RowChunk& chunk, int64_t tile, int64_t first, int64_t n, float* out) const {
  if (tile_columns_ != columns_) return fill_padded(chunk, tile, first, n, out);
  float energy = 0.0f;
  for (int64_t at = 0; at < width_;) {
    const int64_t column = tile * width_ + at, prefix = column / dim_, start = column % dim_;
    const int64_t length = std::min(dim_ - start, width_ - at);
    if (prefix < chunk.prefixes) {
      const int64_t row = chunk.numbers[prefix] * slices_ + first;
      energy += kernels_->scale_rows(chunk.rows + row * dim_ + start, dim_,
                                     chunk.weights + prefix * slices_ + first, n, length, out + at, width_);
    } else {
      for (int64_t i = 0; i < n; ++i) std::fill_n(out + i * width_ + at, length, 0.0f);
    }
    at += length;
  }
  return energy;
}

const float* RowTiles::rows_of(const RowChunk& chunk, int64_t tile, int64_t first) const {
  const int64_t column = tile * width_, prefix = column / dim_;
  if (tile_columns_ != columns_ || dim_ % width_ != 0 || prefix >= chunk.prefixes) return nullptr;
  return chunk.rows + (chunk.numbers[prefix] * slices_ + first) * dim_ + column % dim_;
}

float RowTiles::fill_padded(const RowChunk& chunk, int64_t tile, int64_t first, int64_t n, float* out) const {
  float energy = 0.0f;
  for (int64_t s = 0; s < n; ++s) {
    const int64_t slice = (first + s) / parts_, j0 = (first + s) % parts_ * tile_columns_;
    for (int64_t at = 0; at < width_; ++at) {
      const int64_t left = tile * left_columns_per_tile() + at / tile_columns_;
      const int64_t prefix = left / left_columns_, c = left % left_columns_, j = j0 + at % tile_columns_;
      float x = 0.0f, weight = 0.0f;
      if (prefix < chunk.prefixes && j < columns_) {
        const int64_t row = chunk.numbers[prefix] * slices_ + slice;
        weight = chunk.weights[prefix * slices_ + slice];
        if (weight != 0.0f) x = chunk.rows[row * dim_ + c * columns_ + j];
      }
      energy += weight * x * x;
      out[s * width_ + at] = weight * x;
    }
  }
  return energy;
}

}  // namespace screc
