// One core's slices by least squares, the cores after it being contracted away.
#pragma once

#include <cstdint>
#include <memory>

#include "base/cpu.h"
#include "base/thread_pool.h"

namespace screc {

// Minimises over the slices of a core, for each slice i by itself, the sum over all prefixes m of the cores
// before it of
//   <P E[m][i], P> - 2 <P, Z[m][i]>,   P[(c, j)][b] = sum over a of left[m][c][a] slice[i][a][j][b].
//
// The unknowns (a, b) of a slice, the same system for every j, are solved for in blocks of up to 256, one
// after the other (block Gauss-Seidel, one round), with a ridge of 1e-7 of the trace that pulls towards the
// slice as it was: so the sum never rises but by rounding. A block that nothing depends on becomes zero.
class MiddleSolver {
 public:
  struct Shape {
    int64_t lefts, before, inner, own, rank;  // numbers of m, c, a, j, b
  };
  // left: float [lefts][before][inner], not kept.
  MiddleSolver(const float* left, const Shape& shape, Isa isa, ThreadPool& pool);
  ~MiddleSolver();
  MiddleSolver(MiddleSolver&&) noexcept;

  const Shape& shape() const;

  // Improves slices float [n][inner][own][rank], given e float [lefts][n][num_pairs(rank)], each E packed
  // (fit/symmetric.h), and z float [lefts][n][before][own][rank]. Adds what is left to fit by the cores
  // before them, in the same form, to e_out double [lefts][inner][inner] and z_out double
  // [lefts][before][inner]. The result does not depend on the pool.
  void solve(const float* e, const float* z, int64_t n, float* slices, double* e_out, double* z_out);

  // Bytes that a solver takes.
  static int64_t bytes(const Shape& shape, Isa isa, int num_threads);

 private:
  struct Work;
  std::unique_ptr<Work> work_;
};

}  // namespace screc
