// One core's slices by least squares, the cores after it being contracted away.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "base/thread_pool.h"

namespace screc {

// Minimises over middle[i], for every slice i and all prefixes m of the cores before it, the sum over m of
//   <P E[m][i], P> - 2 <P, Z[m][i]>,   P[(c', j)][b] = sum over a of left[m][c'][a] middle[i][a][j][b].
struct MiddleProblem {
  const float* e;     // [lefts][middles][num_pairs(rank)], each E packed (fit/symmetric.h)
  const float* z;     // [lefts][middles][before][own][rank]
  const float* left;  // [lefts][before][inner]
  int64_t lefts, middles, before, inner, own, rank;
};

// Improves slices float [middles][inner][own][rank] and adds what is left to fit by the cores before them, in
// the same form, to e_out double [lefts][inner][inner] and z_out double [lefts][before][inner].
//
// The unknowns (a, b) of a slice, the same system for every j, are solved for in blocks of up to 256, one
// after the other (block Gauss-Seidel, one round), with a ridge of 1e-7 of the trace that pulls towards the
// slice as it was: so the sum never rises but by rounding. A block that nothing depends on becomes zero. The
// result does not depend on the pool.
void solve_middle(const MiddleProblem& problem, float* slices, double* e_out, double* z_out, Isa isa,
                  ThreadPool& pool);

// Bytes that a call works in.
int64_t solve_middle_bytes(int64_t lefts, int64_t before, int64_t inner, int64_t own, int64_t rank, Isa isa,
                           int num_threads);

}  // namespace screc
