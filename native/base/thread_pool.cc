#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <utility>

#include "base/look_out.h"

namespace screc {

std::vector<int> available_cores() {
  std::vector<int> cores;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &set)) cores.push_back(core);
    }
  } else {
    for (unsigned core = 0; core < std::max(1u, std::thread::hardware_concurrency()); ++core) {
      cores.push_back(static_cast<int>(core));
    }
  }
  return cores;
}

void pin_to_core(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

namespace {

// The system may leave the calling thread on the core of a worker for a long time, where both take turns.
void move_to_core(int core) {
  if (sched_getcpu() == core) return;
  cpu_set_t before;
  if (pthread_getaffinity_np(pthread_self(), sizeof(before), &before) != 0) return;
  pin_to_core(core);
  pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, bool pinned) : cores_(available_cores()) {
  const int total = num_threads > 0 ? num_threads : static_cast<int>(cores_.size());
  for (int thread = 1; thread < total; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  if (pinned) pin(true);
}

void ThreadPool::pin(bool pinned) {
  for (std::size_t worker = 0; worker < workers_.size(); ++worker) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (pinned) {
      CPU_SET(cores_[(worker + 1) % cores_.size()], &set);
    } else {
      for (const int core : cores_) CPU_SET(core, &set);
    }
    pthread_setaffinity_np(workers_[worker].native_handle(), sizeof(set), &set);  // a refusal costs speed
  }
  pinned_.store(pinned);
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  loop_.fetch_add(1);
  loop_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(std::int64_t n, std::int64_t grain, const Body& body) {
  if (n <= 0) return;
  grain = std::max<std::int64_t>(grain, 1);
  std::lock_guard<std::mutex> turn(callers_);
  if (workers_.empty() || n <= grain) {
    for (std::int64_t begin = 0; begin < n; begin += grain) body(begin, std::min(n, begin + grain), 0);
    return;
  }
  if (pinned_.load(std::memory_order_relaxed)) move_to_core(cores_.front());
  body_ = &body;
  size_ = n;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  state_.store(kOpen, std::memory_order_release);
  loop_.fetch_add(1);
  loop_.notify_all();
  take_pieces(0);
  std::uint32_t left = state_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  const auto empty = [this, &left] { return (left = state_.load(std::memory_order_acquire)) == 0; };
  if (left != 0 && !look_out(empty)) {
    while (!empty()) state_.wait(left, std::memory_order_acquire);
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::take_pieces(int thread) {
  try {
    for (;;) {
      const std::int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= size_) return;
      (*body_)(begin, std::min(size_, begin + grain_), thread);
    }
  } catch (...) {
    next_.store(size_, std::memory_order_relaxed);  // the others stop at their next piece
    std::lock_guard<std::mutex> lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

std::uint32_t ThreadPool::next_loop(std::uint32_t seen) const {
  std::uint32_t now = seen;
  const auto begun = [this, seen, &now] { return (now = loop_.load(std::memory_order_acquire)) != seen; };
  if (!look_out(begun)) {
    while (!begun()) loop_.wait(seen, std::memory_order_acquire);
  }
  return now;
}

bool ThreadPool::join() {
  std::uint32_t state = state_.load(std::memory_order_relaxed);
  while (state & kOpen) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
  }
  return false;
}

void ThreadPool::leave() {
  if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1) state_.notify_one();
}

void ThreadPool::work(int thread) {
  for (std::uint32_t seen = 0;;) {
    seen = next_loop(seen);
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (!join()) continue;
    take_pieces(thread);
    leave();
  }
}

}  // namespace screc
