// A fixed set of worker threads that share one loop at a time with the caller.
//
// Waking a sleeping thread took 50-150 us on a two-core virtual machine, far longer than most loops here, so
// a worker that has just worked looks out for the next loop for a while before it sleeps, and a loop waits
// only for the workers that joined it: one that wakes too late finds the door closed.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace screc {

// The cores that this process may use.
std::vector<int> available_cores();

// Keeps the calling thread on one core. Does nothing where the system refuses.
void pin_to_core(int core);

class ThreadPool {
 public:
  // num_threads counts the caller: 1 starts no worker. 0 means one per available core.
  explicit ThreadPool(int num_threads, bool pinned = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Whether worker i stays on the i-th of the cores that were available when the pool was made. Callers are
  // moved to the first when a loop begins, and may leave it.
  void pin(bool pinned);

  // body(begin, end, thread) for pieces of at most `grain` that cover [0, n); `thread` < num_threads().
  using Body = std::function<void(std::int64_t begin, std::int64_t end, int thread)>;

  // Runs body on the caller and the workers; returns when all is done. The first exception is rethrown here.
  // Calls from several threads take turns. Not reentrant.
  void parallel_for(std::int64_t n, std::int64_t grain, const Body& body);

 private:
  // Of state_: a loop is running that workers may join, and how many have joined and not left.
  static constexpr std::uint32_t kOpen = 1u << 31;

  void work(int thread);
  // Waits for a loop after number `seen`; returns its number.
  std::uint32_t next_loop(std::uint32_t seen) const;
  bool join();
  void leave();
  void take_pieces(int thread);

  const std::vector<int> cores_;
  std::atomic<bool> pinned_{false};
  std::vector<std::thread> workers_;
  std::mutex callers_;  // one loop at a time

  const Body* body_ = nullptr;
  std::int64_t size_ = 0, grain_ = 1;
  std::atomic<bool> stopping_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;

  // Each on its own cache line: they are written by all threads while pieces are taken.
  alignas(64) std::atomic<std::uint32_t> loop_{0};  // number of the loop; what sleeping workers wait on
  alignas(64) std::atomic<std::uint32_t> state_{0};
  alignas(64) std::atomic<std::int64_t> next_{0};
};

}  // namespace screc
