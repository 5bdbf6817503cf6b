#include "engine/replay.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/look_out.h"

namespace screc {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// Time for the clients to come up before the first request is due.
constexpr auto kLead = std::chrono::milliseconds(20);
// Clients are awake this long before the next request: sleeps end up to 50 us late by default, and waking
// took 50-150 us more.
constexpr auto kAwake = std::chrono::microseconds(250);

constexpr double kLongest = 86400;  // seconds; beyond centuries a clock's ticks would overflow

void check(const std::vector<ReplayBatch>& batches, const std::vector<double>& arrivals, int num_clients) {
  if (batches.empty()) throw std::invalid_argument("batches: is empty; give at least one");
  if (num_clients < 1 || num_clients > kMaxClients) {
    throw std::invalid_argument("clients: must be from 1 to " + std::to_string(kMaxClients) + ", got " +
                                std::to_string(num_clients));
  }
  for (size_t i = 0; i < arrivals.size(); ++i) {
    const double before = i > 0 ? arrivals[i - 1] : 0;
    if (arrivals[i] >= before && arrivals[i] <= kLongest) continue;
    const std::string given = "arrivals[" + std::to_string(i) + "] is " + std::to_string(arrivals[i]);
    if (arrivals[i] >= 0 && arrivals[i] < before) {
      throw std::invalid_argument(given + ", before the " + std::to_string(before) +
                                  " of the one before it; sort them");
    }
    throw std::invalid_argument(given + "; must be seconds from the start, from 0 to " +
                                std::to_string(static_cast<int>(kLongest)));
  }
}

class Replay {
 public:
  Replay(Engine& engine, const std::vector<ReplayBatch>& batches, const std::vector<double>& arrivals,
         double* latencies)
      : engine_(engine), batches_(batches), latencies_(latencies), start_(Clock::now() + kLead) {
    due_.reserve(arrivals.size());
    for (const double arrival : arrivals) {
      due_.push_back(start_ + std::chrono::duration_cast<Clock::duration>(Seconds(arrival)));
    }
  }

  void run(int num_clients) {
    {
      std::vector<std::jthread> clients;
      for (int i = 0; i < num_clients; ++i) clients.emplace_back([this] { serve(); });
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void serve() {
    try {
      int64_t largest = 0;
      for (const ReplayBatch& batch : batches_) largest = std::max(largest, batch.request.batch_size);
      std::vector<float> out(static_cast<size_t>(largest));
      for (size_t i = take(); i < due_.size(); i = take()) {
        predict(i % batches_.size(), out.data());
        latencies_[i] = Seconds(Clock::now() - due_[i]).count();
      }
    } catch (...) {
      next_.store(due_.size());
      std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void predict(size_t number, float* out) {
    const ReplayBatch& batch = batches_[number];
    try {
      engine_.predict(batch.dense, batch.request, out);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("batches[" + std::to_string(number) + "]: " + error.what());
    }
  }

  // The next request, once it is due; due_.size() when none is left. No client has a request before it is
  // due: whichever is on a core then takes it, and those that look out give way to those that work.
  size_t take() {
    for (;;) {
      size_t next = next_.load();
      if (next >= due_.size()) return due_.size();
      const Clock::time_point due = due_[next];
      std::this_thread::sleep_until(due - kAwake);
      bool is_due = false;
      look_out(
          [&] { return (is_due = Clock::now() >= due) || next_.load(std::memory_order_relaxed) != next; });
      if (is_due && next_.compare_exchange_strong(next, next + 1)) return next;
    }
  }

  Engine& engine_;
  const std::vector<ReplayBatch>& batches_;
  double* const latencies_;
  const Clock::time_point start_;
  std::vector<Clock::time_point> due_;

  std::mutex error_mutex_;
  std::exception_ptr error_;  // the first

  alignas(64) std::atomic<size_t> next_{0};  // request
};

}  // namespace

void replay(Engine& engine, const std::vector<ReplayBatch>& batches, const std::vector<double>& arrivals,
            int num_clients, double* latencies) {
  check(batches, arrivals, num_clients);
  Replay(engine, batches, arrivals, latencies).run(num_clients);
}

}  // namespace screc
