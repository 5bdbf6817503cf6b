// Working memory that one call hands out and the next takes back.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/aligned_buffer.h"

namespace screc {

class Arena {
 public:
  // Starts a call that takes at most so many floats. What was taken before is gone.
  void begin(std::int64_t floats) {
    const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
    if (buffer_.size() < bytes) {
      buffer_ = AlignedBuffer();  // not both at once
      buffer_ = AlignedBuffer(bytes + bytes / 2);
    }
    used_.store(0, std::memory_order_relaxed);
  }
  // Any thread may take.
  float* take(std::int64_t floats) {
    return buffer_.as<float>() + used_.fetch_add(floats, std::memory_order_relaxed);
  }

 private:
  AlignedBuffer buffer_;
  std::atomic<std::int64_t> used_{0};
};

}  // namespace screc
