// Waiting awake for a short while: waking a sleeping thread took 50-150 us on a two-core virtual machine,
// longer than most of what threads here wait for.
#pragma once

#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>

namespace screc {

// How long a thread looks out for what it waits for before it sleeps: longer than the gap between the loops
// of one prediction and between calls that follow each other closely.
constexpr auto kLookOut = std::chrono::microseconds(100);

// True as soon as ready() is, false when it was not for kLookOut. Gives way to threads that have work.
template <typename Ready>
bool look_out(const Ready& ready) {
  const auto until = std::chrono::steady_clock::now() + kLookOut;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    sched_yield();
  } while (std::chrono::steady_clock::now() < until);
  return false;
}

// Something changed that other threads may wait for.
class Signal {
 public:
  void raise() {
    count_.fetch_add(1);
    if (sleepers_.load() > 0) count_.notify_all();  // a call of the system, whether or not anyone sleeps
  }

  // Returns once ready() is true. It must become so only before a raise().
  template <typename Ready>
  void wait_until(const Ready& ready) const {
    for (;;) {
      const std::uint32_t seen = count_.load();
      if (ready()) return;
      if (look_out([this, seen] { return count_.load(std::memory_order_relaxed) != seen; })) continue;
      sleepers_.fetch_add(1);
      count_.wait(seen);
      sleepers_.fetch_sub(1);
    }
  }

 private:
  std::atomic<std::uint32_t> count_{0};
  mutable std::atomic<std::uint32_t> sleepers_{0};
};

}  // namespace screc
