// Sums and small symmetric systems, compiled once for each instruction set: plain loops along rows, which the
// compiler turns into vectors.
//
// Limit of a system: n^3 / 3 operations, and as many bytes from the second level of cache divided by the four
// rows that one pass over the rest of the matrix takes off at once.
#pragma once

#include <cmath>
#include <cstdint>

namespace screc {
namespace {

inline void add(const float* from, int64_t n, float* to) {
  for (int64_t k = 0; k < n; ++k) to[k] += from[k];
}

inline void add_double(const float* from, int64_t n, double* to) {
  for (int64_t k = 0; k < n; ++k) to[k] += from[k];
}

// to[c] -= factor * from[c].
inline void take_off(double factor, const double* from, int64_t n, double* to) {
  for (int64_t c = 0; c < n; ++c) to[c] -= factor * from[c];
}

inline double dot(const double* x, const double* y, int64_t n) {
  double sum[8] = {};
  int64_t c = 0;
  for (; c + 8 <= n; c += 8) {
    for (int64_t l = 0; l < 8; ++l) sum[l] += x[c + l] * y[c + l];
  }
  for (; c < n; ++c) sum[0] += x[c] * y[c];
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

// Takes four finished rows of U off kRows rows of what is left of the matrix, from column `first` on. `u` and
// `rows` are their first rows, n apart; f[r][q] is what of row q of u goes off row r.
template <int kRows>
void take_off_rows(const double* u, const double (&f)[kRows][4], int64_t first, int64_t n, double* rows) {
  const double *u0 = u, *u1 = u + n, *u2 = u + 2 * n, *u3 = u + 3 * n;
#pragma GCC ivdep
  for (int64_t c = first; c < n; ++c) {
    const double x0 = u0[c], x1 = u1[c], x2 = u2[c], x3 = u3[c];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      rows[r * n + c] -= (f[r][0] * x0 + f[r][1] * x1) + (f[r][2] * x2 + f[r][3] * x3);
    }
  }
}

// Replaces the upper triangle of a, [n][n], by that of U with U^T U = a; what is below is undefined. False
// when a is not positive definite to working precision.
inline bool factor(double* a, int64_t n) {
  constexpr int64_t kStep = 4;
  for (int64_t k = 0; k < n; k += kStep) {
    const int64_t stop = k + kStep < n ? k + kStep : n;
    for (int64_t p = k; p < stop; ++p) {
      double* row = a + p * n;
      const double before = row[p];
      for (int64_t q = k; q < p; ++q) take_off(a[q * n + p], a + q * n + p, n - p, row + p);
      if (!(row[p] > 1e-14 * before)) return false;
      const double scale = 1.0 / std::sqrt(row[p]);
      for (int64_t c = p; c < n; ++c) row[c] *= scale;
    }
    if (stop - k < kStep) return true;
    const double* u = a + k * n;
    int64_t i = stop;
    for (; i + 4 <= n; i += 4) {
      double f[4][4];
      for (int r = 0; r < 4; ++r) {
        for (int q = 0; q < 4; ++q) f[r][q] = u[q * n + i + r];
      }
      take_off_rows<4>(u, f, i, n, a + i * n);
    }
    for (; i < n; ++i) {
      const double f[1][4] = {{u[i], u[n + i], u[2 * n + i], u[3 * n + i]}};
      take_off_rows<1>(u, f, i, n, a + i * n);
    }
  }
  return true;
}

// Replaces each of m rows of b, [m][n], by the solution x of a x = b; a is destroyed, of which only the upper
// triangle is read. False, with b undefined, when a is not positive definite to working precision.
inline bool solve(double* a, int64_t n, double* b, int64_t m) {
  if (!factor(a, n)) return false;
  for (int64_t r = 0; r < m; ++r) {
    double* x = b + r * n;
    for (int64_t k = 0; k < n; ++k) {
      x[k] /= a[k * n + k];
      take_off(x[k], a + k * n + k + 1, n - k - 1, x + k + 1);
    }
    for (int64_t k = n; k-- > 0;) {
      x[k] = (x[k] - dot(a + k * n + k + 1, x + k + 1, n - k - 1)) / a[k * n + k];
    }
  }
  return true;
}

}  // namespace
}  // namespace screc
