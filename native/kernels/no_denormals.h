// Denormal numbers as the tiles of AMX treat them. Only for x86.
#pragma once

#include <immintrin.h>

namespace screc {
namespace {

// As long as it lives, this thread takes denormal numbers as zeros and makes none: TDPBF16PS does so whatever
// MXCSR says.
class NoDenormals {
 public:
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kDenormalsAreZero | kFlushToZero); }
  ~NoDenormals() { _mm_setcsr(before_); }
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;

 private:
  static constexpr unsigned kDenormalsAreZero = 1u << 6, kFlushToZero = 1u << 15;
  const unsigned before_;
};

}  // namespace
}  // namespace screc
