// How the rows of a band lie in the tiles that FitKernels works on.
//
// Slots that share all digits but the last are a prefix: `slices` rows, one for each slice of the last core.
// A row's columns are pairs (c, j) of a column c of the cores before and a column j of the last core. A tile
// has a row for each slice and tile_width columns; the pairs of one prefix after the other fill the tiles
// from left to right. So that every vector has the same js in its lanes, j runs to a power of two, the rest
// being zeros, or, where that is more than a vector, is cut into parts of whole vectors, which become rows of
// the tile: row (i, part).
#pragma once

#include <cstdint>

#include "kernels/fit_kernels.h"

namespace screc {

// Prefixes numbers[0] to numbers[prefixes - 1] of rows float [..][slices][dim], and what each of their rows
// counts, float [prefixes][slices]. Rows of weight 0 are not read and need not be there.
struct RowChunk {
  const float* rows;
  const int64_t* numbers;
  const float* weights;
  int64_t prefixes;
};

class RowTiles {
 public:
  // slices and columns of the last core; left_columns is the product of the columns of all cores before it.
  RowTiles(int64_t slices, int64_t left_columns, int64_t columns, const FitKernels& kernels);

  int64_t width() const { return width_; }
  // Rows of a tile.
  int64_t rows() const { return slices_ * parts_; }
  int64_t parts() const { return parts_; }
  // Columns of the last core in a row of the tile, a power of two up to the kernels' lanes.
  int64_t columns() const { return tile_columns_; }
  // Columns c in a tile; tile t has columns [t, t + 1) * left_columns_per_tile() of all prefixes' columns.
  int64_t left_columns_per_tile() const { return width_ / tile_columns_; }
  // The least number of prefixes that fill whole tiles, and those tiles.
  int64_t group_prefixes() const { return group_prefixes_; }
  int64_t group_tiles() const { return group_tiles_; }

  // Writes rows [first, first + n) of a tile, times their weights, and zeros where the chunk ends; returns
  // the sum of weight * |row|^2 over what it wrote.
  float fill(const RowChunk& chunk, int64_t tile, int64_t first, int64_t n, float* out) const;

  // Where in the chunk the rows of a tile lie, from row `first` on, dim() apart; null where a tile's row is
  // not in one place, or beyond the chunk.
  const float* rows_of(const RowChunk& chunk, int64_t tile, int64_t first) const;
  int64_t dim() const { return dim_; }

 private:
  float fill_padded(const RowChunk& chunk, int64_t tile, int64_t first, int64_t n, float* out) const;

  const FitKernels* kernels_;
  int64_t slices_, left_columns_, columns_, dim_;
  int64_t width_, tile_columns_, parts_;
  int64_t group_prefixes_, group_tiles_;
};

}  // namespace screc
