// The rows of a band contracted with the last core: what is left to fit by the cores before it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "fit/panel_products.h"
#include "fit/row_tiles.h"

namespace screc {

// Of the last core G, with w the weights, for every prefix x and TT ranks a and b:
//   Z[x][c][b] = sum over slices i, columns j of w[x][i] row[x][i][c, j] G[b][i][j]
//   E[x][a][b] = sum over slices i of w[x][i] * (sum over j of G[a][i][j] G[b][i][j])
// so that sum w |row - L G|^2 over the prefix is const - 2 <L, Z> + <L E, L> for any product L[c][b] of the
// cores before.
class RowProjection {
 public:
  // core: float [rank][slices][columns], copied.
  RowProjection(const float* core, int64_t rank, int64_t slices, int64_t columns, int64_t left_columns,
                Isa isa, ThreadPool& pool);

  int64_t rank() const { return rank_; }
  int64_t slices() const { return slices_; }
  int64_t left_columns() const { return left_columns_; }
  int64_t dim() const { return left_columns_ * columns_; }

  // Writes z float [prefixes][left_columns][rank] and e, packed, float [prefixes][num_pairs(rank)]; returns
  // the sum of weight * |row|^2. The result does not depend on the pool.
  double add(const RowChunk& chunk, float* z, float* e);

 private:
  double project_group(const RowChunk& chunk, int64_t group, float* scratch, float* z) const;

  const FitKernels* kernels_;
  ThreadPool* pool_;
  int64_t rank_, slices_, columns_, left_columns_;
  RowTiles tiles_;
  PanelProducts products_;
  int64_t period_;                      // of the patterns, see FitKernels::project
  AlignedBuffer patterns_;              // [tile rows][rank][period]
  AlignedBuffer grams_;                 // [slices] x [num_pairs(rank)], packed
  std::vector<AlignedBuffer> scratch_;  // of each thread
};

}  // namespace screc
