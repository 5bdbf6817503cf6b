// The choice of an instruction set, and the reference that the others must agree with.
#include "kernels/fit_kernels.h"

#include "kernels/kernels.h"
#include "kernels/small_systems.h"

namespace screc {
namespace {

constexpr int64_t kLanes = 4, kWidth = 4 * kLanes;

float scale_rows(const float* rows, int64_t stride, const float* weights, int64_t n, int64_t length,
                 float* out, int64_t out_stride) {
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < length; ++c) {
      const float x = weights[i] == 0.0f ? 0.0f : rows[i * stride + c];
      sum += weights[i] * x * x;
      out[i * out_stride + c] = weights[i] * x;
    }
  }
  return sum;
}

void project(const float* tile, int64_t n, const float* core, int64_t period, int64_t rank, const float*,
             int64_t, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t b = 0; b < rank; ++b) {
      const float* g = core + (i * rank + b) * period;
      for (int64_t c = 0; c < kWidth; ++c) out[b * kWidth + c] += g[c % period] * tile[i * kWidth + c];
    }
  }
}

void correlate(const float* tiles, int64_t tile_stride, int64_t num_tiles, int64_t n, const float* products,
               int64_t columns, int64_t rank, const float* const*, int64_t, float* out) {
  const int64_t stride = kWidth / columns;
  for (int64_t t = 0; t < num_tiles; ++t) {
    for (int64_t i = 0; i < n; ++i) {
      const float* x = tiles + t * tile_stride + i * kWidth;
      for (int64_t b = 0; b < rank; ++b) {
        const float* p = products + (t * rank + b) * stride;
        float* sum = out + (i * rank + b) * kLanes;
        for (int64_t c = 0; c < kWidth; ++c) sum[c % kLanes] += x[c] * p[c / columns];
      }
    }
  }
}

void transpose(const float* from, int64_t from_stride, int64_t n, int64_t m, float* to, int64_t to_stride) {
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < m; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

}  // namespace

const FitKernels& scalar_fit_kernels() {
  static constexpr FitKernels kTable{kLanes,    scale_rows, project,    correlate,
                                     transpose, add,        add_double, solve};
  return kTable;
}

const FitKernels& fit_kernels(Isa isa) {
  switch (kernels(isa).isa) {  // throws where it cannot run
#if defined(__x86_64__)
    case Isa::kAvx2:
      return avx2_fit_kernels();
    case Isa::kAvx512:
    case Isa::kAmx:
      return avx512_fit_kernels();
#endif
    default:
      return scalar_fit_kernels();
  }
}

}  // namespace screc
