// What fitting a tensor train (native/fit/) asks of each instruction set, beside its dense layers.
//
// Sums are in fp32 over one call, which callers keep to some hundred terms, and in double beyond that.
#pragma once

#include <cstdint>

#include "base/cpu.h"

namespace screc {

struct FitKernels {
  // Floats of a vector; a tile (fit/row_tiles.h) is four vectors wide.
  int64_t lanes;

  // out[i] = weights[i] * rows[i] for n rows of `length` floats; returns the sum of weights[i] * |rows[i]|^2.
  // A row of weight 0 gives zeros whatever it holds.
  float (*scale_rows)(const float* rows, int64_t stride, const float* weights, int64_t n, int64_t length,
                      float* out, int64_t out_stride);

  // out[b][c] += sum over i < n of core[i][b][c % period] * tile[i][c], b < rank, c < tile width. The period
  // is 4 or `lanes`. Unless `ahead` is null, n rows of a tile's width that lie ahead_stride apart from there
  // on are fetched into the second level of cache meanwhile.
  void (*project)(const float* tile, int64_t n, const float* core, int64_t period, int64_t rank,
                  const float* ahead, int64_t ahead_stride, float* out);

  // out[i][b][l] += sum over t < num_tiles, v < 4 of tile[t][i][v * lanes + l] * products[t][b][(v * lanes +
  // l) / columns], i < n, b < rank, l < lanes. Tiles lie tile_stride floats apart, products [num_tiles][rank]
  // [4 * lanes / columns] are dense, and up to 16 floats behind them are read and thrown away. columns is a
  // power of two up to lanes, num_tiles at most 16. Unless `ahead` is null, n rows from ahead[t] on are
  // fetched for every t, as in project.
  void (*correlate)(const float* tiles, int64_t tile_stride, int64_t num_tiles, int64_t n,
                    const float* products, int64_t columns, int64_t rank, const float* const* ahead,
                    int64_t ahead_stride, float* out);

  // to[c][r] = from[r][c] for r < n and c < m, rows being strides apart.
  void (*transpose)(const float* from, int64_t from_stride, int64_t n, int64_t m, float* to,
                    int64_t to_stride);

  // to[k] += from[k], and the same in double.
  void (*add)(const float* from, int64_t n, float* to);
  void (*add_double)(const float* from, int64_t n, double* to);

  // Replaces each of m rows of b, [m][n], by the solution x of a x = b for a symmetric positive definite; a
  // is destroyed, of which only the upper triangle is read. False, with b undefined, where a is not positive
  // definite to working precision.
  bool (*solve)(double* a, int64_t n, double* b, int64_t m);
};

// Floats behind the products that correlate may read.
constexpr int64_t kFitSlack = 16;

// Those of one instruction set; std::invalid_argument when this machine cannot run it.
const FitKernels& fit_kernels(Isa isa);

const FitKernels& scalar_fit_kernels();
#if defined(__x86_64__)
const FitKernels& avx2_fit_kernels();
const FitKernels& avx512_fit_kernels();
#endif

}  // namespace screc
