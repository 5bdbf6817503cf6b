// A fixed set of worker threads that share one loop at a time with the caller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace screc {

class ThreadPool {
 public:
  // num_threads counts the caller: 1 starts no worker. 0 means one per available core.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // body(begin, end, thread) for pieces of at most `grain` that cover [0, n); `thread` < num_threads().
  using Body = std::function<void(std::int64_t begin, std::int64_t end, int thread)>;

  // Runs body on the caller and the workers; returns when all is done. The first exception is rethrown here.
  // Calls from several threads take turns. Not reentrant.
  void parallel_for(std::int64_t n, std::int64_t grain, const Body& body);

 private:
  void work(int thread);
  void take_pieces(int thread);

  std::vector<std::thread> workers_;
  std::mutex callers_;  // one loop at a time

  std::mutex mutex_;
  std::condition_variable start_, done_;
  std::uint64_t generation_ = 0;
  int busy_ = 0;
  bool stopping_ = false;

  const Body* body_ = nullptr;
  std::int64_t size_ = 0, grain_ = 1;
  std::atomic<std::int64_t> next_{0};
  std::exception_ptr error_;
};

}  // namespace screc
