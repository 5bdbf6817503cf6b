// Queries of many requests on their way through one engine: joined, split, refused when there are too many.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/histogram.h"
#include "engine/engine.h"
#include "engine/query.h"

namespace screc {

struct BatcherOptions {
  int64_t max_batch = 96;        // most samples of a batch that several queries are joined to
  int64_t split = 96;            // most samples of a batch made of a part of one query
  double queue_delay = 0;        // seconds that a batch which is not full waits for more queries
  int64_t max_queued = 1 << 16;  // most samples that wait
  int workers = 0;               // batches at work at a time; 0: one per thread of the engine
};

enum class Verdict { kAccepted, kQueueFull, kTooLate, kDraining };

struct Admission {
  Verdict verdict;
  uint64_t ticket;        // of an accepted query
  double predicted_wait;  // seconds until the query's turn, as far as is known
};

enum class Outcome { kDone, kExpired, kCancelled, kFailed };

struct Completion {
  uint64_t ticket = 0;
  Outcome outcome = Outcome::kDone;
  double queue_seconds = 0;    // until its first sample was taken up
  double request_seconds = 0;  // until the end
  std::string error = {};      // of a query that failed
};

// Since the batcher was made. accepted == done + failed + expired + cancelled + those still in it.
struct BatcherStats {
  int64_t accepted, accepted_samples;
  int64_t done, failed, expired, cancelled;
  int64_t refused_queue_full, refused_too_late, refused_draining;
  int64_t batches, batched_samples;
  int64_t joined_batches;                                     // of several queries
  int64_t queued, queued_samples, running_samples;            // now
  double seconds_per_sample;                                  // of one worker, lately
  Histogram queue_seconds, compute_seconds, request_seconds;  // compute: of batches
  Histogram batch_samples;
};

// Workers take queries in the order in which they came. A query larger than `split` becomes parts of nearly
// equal size that several workers take (DeepRecSys, arXiv 2001.02772); smaller ones that wait are joined to a
// batch of at most `max_batch` samples. A prediction is the same whichever batch it is part of. The page
// errors of a joined batch are those of the queries that have such rows: each is then run alone.
//
// The results of a query are where it said once its completion is taken: descriptor() becomes readable when
// there are completions, so one reader learns of all. All methods are thread-safe.
class Batcher {
 public:
  // The engine must outlive the batcher. Throws std::invalid_argument naming the option.
  Batcher(Engine& engine, BatcherOptions options);
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Takes in a query whose results go to out [batch_size]. It, and its arrays and out, must stay until its
  // completion is taken. timeout: seconds, or 0 for none; a query that waits longer is dropped, and one that
  // would, by the work ahead of it and the speed of late, is refused. Throws std::invalid_argument as
  // check().
  Admission submit(const Query& query, float* out, double timeout);
  // Drops a query, as far as it does not run; it completes all the same. False where it has completed.
  bool cancel(uint64_t ticket);

  int descriptor() const { return descriptor_; }
  // Appends the completions since the last call.
  void take(std::vector<Completion>& completions);

  // Refuses new queries from now on, and waits until nothing is left, or so many seconds; whether nothing is.
  bool drain(double seconds);
  // Drops what waits, and returns when nothing runs; queries are refused from now on.
  void stop();

  void set_split(int64_t samples);
  BatcherOptions options() const;
  BatcherStats stats() const;

 private:
  using Clock = std::chrono::steady_clock;

  struct Job {
    Query query{};
    float* out = nullptr;
    uint64_t ticket = 0;
    Clock::time_point arrived, taken_up, deadline;
    int64_t part = 0;   // samples of its parts
    int64_t taken = 0;  // samples that workers have taken
    int running = 0;    // parts that are being worked on
    bool queued = false, ended = false;
    Outcome outcome = Outcome::kDone;
    std::string error = {};
  };
  struct Range {
    Job* job;
    int64_t first, count;
    std::string error = {};
  };
  // What a worker is at.
  struct Desk {
    std::vector<Range> ranges = {};
    std::vector<QueryRange> queries = {};
    JoinedBatch batch = {};
    std::vector<float> out = {};
  };

  void work();
  bool wait_for_work(std::unique_lock<std::mutex>& lock);
  // Moves ranges from the queue to the desk; none where all that waited had expired or was dropped.
  void take_ranges(Desk& desk);
  Job* head();
  void run(Desk& desk);
  void predict(Desk& desk, size_t first, size_t count);
  void settle(Desk& desk, double seconds);
  double predicted_wait() const;
  Job& new_job();
  Job* find(uint64_t ticket);
  void end(Job& job, Outcome outcome);
  void retire(Job& job);  // where nothing refers to it any more

  Engine& engine_;
  BatcherOptions options_;
  int descriptor_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable work_, idle_;
  std::deque<Job*> queue_;
  std::vector<std::unique_ptr<Job>> jobs_;  // a ticket's low half is a place here, its high half counts uses
  std::vector<uint32_t> free_;
  int64_t in_it_ = 0;  // queries that were accepted and have not ended
  bool draining_ = false, stopping_ = false;
  std::vector<Completion> completions_;
  BatcherStats stats_;
  double late_seconds_ = 0, late_samples_ = 0;  // of batches of late, with fading weights

  std::mutex stop_mutex_;
  std::vector<std::thread> workers_;
};

}  // namespace screc
