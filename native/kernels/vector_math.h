// Dot interaction and sigmoid, for any vector of vec_*.h.
//
// Limits of the interaction of F features of d floats: F (F - 1) d flops, 4 F d bytes in and 2 F (F - 1)
// bytes out per sample (F = 27, d = 16: 11 kflop, 1.7 KB, 1.4 KB), so it should cost about 1 % of the layers
// around it. The features are transposed once, which makes rows of pairs the long axis: 4 features against 2
// vectors of others, or 8 against one.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace screc {
namespace {

// Rows [i0, i0 + kRows) of the pairs, columns [j0, j0 + kVectors * lanes), of features turned to
// [dim][width]: 8 sums, enough to hide the latency of a product.
template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void interact_block(const float* turned, int64_t num_features, int64_t dim,
                                                  int64_t width, int64_t i0, int64_t j0, float* out) {
  using F = typename V::F;
  F sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = V::zero();
  }
  const float* own = turned + i0;
  const float* others = turned + j0;
  for (int64_t c = 0; c < dim; ++c, own += width, others += width) {
    F other[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) other[v] = V::load(others + v * V::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F factor = V::set1(own[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] = V::fma(factor, other[v], sum[r][v]);
    }
  }
  float* to = out + i0 * (i0 - 1) / 2 + j0;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const int64_t i = i0 + r;
    if (i >= num_features) break;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const int64_t left = i - j0 - v * V::kLanes;
      if (left >= V::kLanes) {
        V::store(to + v * V::kLanes, sum[r][v]);
      } else if (left > 0) {
        V::store_part(to + v * V::kLanes, sum[r][v], left);
      }
    }
    to += i;
  }
}

template <typename V>
void interact(const float* features, int64_t num_samples, int64_t num_features, int64_t dim,
              int64_t sample_stride, float* out, int64_t out_stride) {
  constexpr int64_t kLanes = V::kLanes;
  if (num_features < 2) return;
  const int64_t width = (num_features + kLanes - 1) / kLanes * kLanes;  // of 8 at least, as blocks read
  float* turned = thread_scratch(dim * width + kLanes);
  for (int64_t s = 0; s < num_samples; ++s) {
    const float* f = features + s * sample_stride;
    for (int64_t i = 0; i < num_features; i += kLanes) {
      const int64_t n = num_features - i < kLanes ? num_features - i : kLanes;
      for (int64_t c = 0; c < dim; c += kLanes) {
        const int64_t m = dim - c < kLanes ? dim - c : kLanes;
        V::transpose(f + i * dim + c, dim, n, m, turned + c * width + i, width);
      }
    }
    float* to = out + s * out_stride;
    for (int64_t i = 0; i < num_features; i += 8) {
      const int64_t pairs = (i + 8 < num_features ? i + 8 : num_features) - 1;  // of the longest row
      int64_t j = 0;
      for (; j + kLanes < pairs; j += 2 * kLanes) {
        interact_block<V, 4, 2>(turned, num_features, dim, width, i, j, to);
        if (i + 4 < num_features) interact_block<V, 4, 2>(turned, num_features, dim, width, i + 4, j, to);
      }
      if (j < pairs) interact_block<V, 8, 1>(turned, num_features, dim, width, i, j, to);
    }
  }
}

// exp(x) for x in [-87, 88]: x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial for exp(r); about 1 ulp.
template <typename V>
typename V::F exp_in_range(typename V::F x) {
  using F = typename V::F;
  const F n = V::round(V::mul(x, V::set1(1.44269504088896341f)));
  F r = V::fnma(n, V::set1(0.693359375f), x);  // the high part of ln 2 is exact in few bits
  r = V::fnma(n, V::set1(-2.12194440054690583e-4f), r);
  F p = V::set1(1.0f / 5040);
  p = V::fma(p, r, V::set1(1.0f / 720));
  p = V::fma(p, r, V::set1(1.0f / 120));
  p = V::fma(p, r, V::set1(1.0f / 24));
  p = V::fma(p, r, V::set1(1.0f / 6));
  p = V::fma(p, r, V::set1(0.5f));
  p = V::fma(p, r, V::set1(1.0f));
  p = V::fma(p, r, V::set1(1.0f));
  return V::mul(p, V::exp2_int(n));
}

template <typename V>
typename V::F sigmoid_of(typename V::F x) {
  // Beyond 87 the answer is 0 or 1 to 1e-38. A NaN passes: it is the second operand of both.
  const typename V::F bounded = V::min(V::set1(87.0f), V::max(V::set1(-87.0f), x));
  const typename V::F e = exp_in_range<V>(V::mul(bounded, V::set1(-1.0f)));
  return V::div(V::set1(1.0f), V::add(V::set1(1.0f), e));
}

template <typename V>
void sigmoid(const float* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) V::store(out + i, sigmoid_of<V>(V::load(x + i)));
  if (i < n) V::store_part(out + i, sigmoid_of<V>(V::load_part(x + i, n - i)), n - i);
}

}  // namespace
}  // namespace screc
