// Copying past the caches, for outputs too large to be found there again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace screc {

// Writes to a line that is not in the caches fetch it first; these do not, which made scattered writes of
// 256-byte rows three times as fast. Call stream_fence before another thread may read what was written.
inline void stream_copy(float* to, const float* from, std::int64_t n) {
#if defined(__x86_64__)
  // Lines that are not written whole are fetched after all, and twice as slowly.
  if (reinterpret_cast<std::uintptr_t>(to) % 64 == 0 && n % 16 == 0) {
    for (std::int64_t i = 0; i < n; i += 4) _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
    return;
  }
#endif
  std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
}

inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace screc
