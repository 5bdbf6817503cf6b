// The rows of a band contracted with all cores but the last: the normal equations of the last core.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "fit/panel_products.h"
#include "fit/row_tiles.h"

namespace screc {

// With L[x][c][b] the product of the cores before the last for prefix x and w the weights, slice i solves
//   sum over b of normal[i][a][b] G[b][i][j] = right[i][a][j], for every TT rank a and column j:
//   normal[i][a][b] = sum over x of w[x][i] sum over c of L[x][c][a] L[x][c][b]
//   right[i][a][j]  = sum over x, c of w[x][i] row[x][i][c, j] L[x][c][a]
class RowCorrelation {
 public:
  // The cores before the last are given as two. `left` is the product of all but the last of them, float
  // [lefts][before][inner], `middle` that last one, float [inner][middles][own][rank]: prefix (m, i) has
  // columns (c', j') and L[(m, i)][(c', j')][b] = sum over a of left[m][c'][a] middle[a][i][j'][b]. left is
  // kept, not copied.
  struct Cores {
    const float* left;
    const float* middle;
    int64_t lefts, before, inner, middles, own, rank;
  };
  RowCorrelation(const Cores& cores, int64_t slices, int64_t columns, Isa isa, ThreadPool& pool);

  int64_t rank() const { return cores_.rank; }
  int64_t slices() const { return slices_; }
  int64_t columns() const { return columns_; }
  int64_t dim() const { return left_columns_ * columns_; }
  const Cores& cores() const { return cores_; }

  // Adds a chunk of prefixes (m, i), m from first_left on and, for each, i in [first_middle, first_middle +
  // num_middles). The result does not depend on the pool.
  void add(const RowChunk& chunk, int64_t first_left, int64_t first_middle, int64_t num_middles);

  // double [slices][rank][columns] and, packed, [slices][num_pairs(rank)].
  const double* right() const { return right_.data(); }
  const double* normal() const { return normal_.data(); }

 private:
  struct Piece;
  void multiply_out(const Piece& piece, int64_t begin, int64_t end, float* scratch);
  void correlate(const Piece& piece, int64_t begin, int64_t end, float* scratch);
  void add_right(const float* sums, int64_t row, int64_t n);
  void add_normal(const Piece& piece, int64_t begin, int64_t end, float* scratch);

  const FitKernels* kernels_;
  ThreadPool* pool_;
  Cores cores_;
  int64_t slices_, columns_, left_columns_;
  RowTiles tiles_;
  PanelProducts products_;
  int64_t piece_prefixes_;  // at most, of a piece
  AlignedBuffer middle_;    // each slice packed, [inner] x [own * rank]
  // Of a piece: the products transposed for each tile, their Gram matrices packed, and the weights
  // transposed.
  AlignedBuffer patterns_, grams_, weights_;
  std::vector<AlignedBuffer> scratch_;  // of each thread
  std::vector<double> right_, normal_;
};

}  // namespace screc
