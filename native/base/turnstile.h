// So many threads at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/look_out.h"

namespace screc {

// More threads at work than there are cores take each other's time slices: one that is set aside in the
// middle of its work waits milliseconds for what takes microseconds. Who comes takes a place that is free,
// even before those who wait, since a core that goes on costs no change of threads; but not once one has
// waited for kPatience.
class Turnstile {
 public:
  explicit Turnstile(int places) : free_(places) {}

  void enter() {
    if (impatient_.load(std::memory_order_relaxed) == 0 && take()) return;
    const auto patient_until = std::chrono::steady_clock::now() + kPatience;
    bool impatient = false;
    left_.wait_until([&] {
      if (!impatient && std::chrono::steady_clock::now() > patient_until) {
        impatient = true;
        impatient_.fetch_add(1);
      }
      return (impatient || impatient_.load() == 0) && take();
    });
    if (impatient) impatient_.fetch_sub(1);
  }
  void leave() {
    free_.fetch_add(1);
    left_.raise();
  }

 private:
  static constexpr auto kPatience = std::chrono::milliseconds(1);

  bool take() {
    std::int32_t free = free_.load();
    while (free > 0) {
      if (free_.compare_exchange_weak(free, free - 1)) return true;
    }
    return false;
  }

  alignas(64) std::atomic<std::int32_t> free_;
  std::atomic<std::int32_t> impatient_{0};
  alignas(64) Signal left_;
};

}  // namespace screc
