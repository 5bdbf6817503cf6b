// Symmetric matrices by their lower triangles, row by row: (a, b) with b <= a at a (a + 1) / 2 + b.
#pragma once

#include <cstdint>

namespace screc {

constexpr int64_t num_pairs(int64_t n) { return n * (n + 1) / 2; }

// The lower triangle of full, [n][n].
inline void pack_symmetric(const float* full, int64_t n, float* packed) {
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = 0; b <= a; ++b) *packed++ = full[a * n + b];
  }
}

// The full matrix, rows `stride` apart.
template <typename T>
void unpack_symmetric(const float* packed, int64_t n, T* full, int64_t stride) {
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = 0; b <= a; ++b) full[a * stride + b] = packed[b];
    for (int64_t b = 0; b < a; ++b) full[b * stride + a] = packed[b];
    packed += a + 1;
  }
}

}  // namespace screc
