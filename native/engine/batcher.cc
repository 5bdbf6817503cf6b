#include "engine/batcher.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <exception>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace screc {
namespace {

using Seconds = std::chrono::duration<double>;

// Of each batch in what is remembered of the batches of late: some dozens count.
constexpr double kFade = 1.0 / 32;
constexpr double kLongest = 86400;  // seconds; beyond centuries a clock's ticks would overflow

BatcherOptions checked(BatcherOptions options, const Engine& engine) {
  const auto positive = [](const char* name, int64_t value) {
    if (value > 0) return;
    throw std::invalid_argument(std::string(name) + ": must be at least 1, got " + std::to_string(value));
  };
  positive("max_batch", options.max_batch);
  positive("split", options.split);
  positive("max_queued", options.max_queued);
  if (!(options.queue_delay >= 0 && options.queue_delay <= 10)) {
    throw std::invalid_argument("queue_delay: must be from 0 to 10 seconds, got " +
                                std::to_string(options.queue_delay));
  }
  if (options.workers < 0 || options.workers > 256) {
    throw std::invalid_argument("workers: must be from 0 to 256, got " + std::to_string(options.workers));
  }
  if (options.workers == 0) options.workers = engine.num_threads();
  return options;
}

Histogram latencies() { return {1e-5, std::sqrt(2.0), 20}; }

BatcherStats no_stats() {
  return {.accepted = 0,
          .accepted_samples = 0,
          .done = 0,
          .failed = 0,
          .expired = 0,
          .cancelled = 0,
          .refused_queue_full = 0,
          .refused_too_late = 0,
          .refused_draining = 0,
          .batches = 0,
          .batched_samples = 0,
          .joined_batches = 0,
          .queued = 0,
          .queued_samples = 0,
          .running_samples = 0,
          .seconds_per_sample = 0,
          .queue_seconds = latencies(),
          .compute_seconds = latencies(),
          .request_seconds = latencies(),
          .batch_samples = {1, 2, 65536}};
}

}  // namespace

Batcher::Batcher(Engine& engine, BatcherOptions options)
    : engine_(engine), options_(checked(options, engine)), stats_(no_stats()) {
  descriptor_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  for (int i = 0; i < options_.workers; ++i) workers_.emplace_back([this] { work(); });
}

Batcher::~Batcher() {
  stop();
  close(descriptor_);
}

void Batcher::stop() {
  std::lock_guard<std::mutex> turn(stop_mutex_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    draining_ = stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

// ----------------------------------------------------------------------------------------------------
// what comes in

double Batcher::predicted_wait() const {
  if (late_samples_ <= 0) return 0;
  // Of what runs, half is done on average.
  const double ahead =
      static_cast<double>(stats_.queued_samples) + 0.5 * static_cast<double>(stats_.running_samples);
  return ahead * late_seconds_ / late_samples_ / options_.workers;
}

Admission Batcher::submit(const Query& query, float* out, double timeout) {
  if (!(timeout >= 0)) {
    throw std::invalid_argument("timeout: must be seconds, or 0 for none, got " + std::to_string(timeout));
  }
  check(query);
  int64_t parts;
  Admission admission{Verdict::kAccepted, 0, 0};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    admission.predicted_wait = predicted_wait();
    parts = std::max<int64_t>(1, (query.batch_size + options_.split - 1) / options_.split);
    if (draining_) {
      ++stats_.refused_draining;
      admission.verdict = Verdict::kDraining;
      return admission;
    }
    // An idle batcher takes any query: nothing it does is too late because of others, and what it knows of
    // its speed may be old.
    const bool idle = stats_.queued_samples + stats_.running_samples == 0;
    if (!idle && stats_.queued_samples + query.batch_size > options_.max_queued) {
      ++stats_.refused_queue_full;
      admission.verdict = Verdict::kQueueFull;
      return admission;
    }
    if (!idle && timeout > 0 && late_samples_ > 0) {
      const auto at_once = static_cast<double>(std::min<int64_t>(parts, options_.workers));
      const double own = static_cast<double>(query.batch_size) * late_seconds_ / late_samples_ / at_once;
      if (admission.predicted_wait + own > timeout) {
        ++stats_.refused_too_late;
        admission.verdict = Verdict::kTooLate;
        return admission;
      }
    }
    Job& job = new_job();
    job.query = query;
    job.out = out;
    job.arrived = Clock::now();
    job.deadline =
        timeout > 0
            ? job.arrived + std::chrono::duration_cast<Clock::duration>(Seconds(std::min(timeout, kLongest)))
            : Clock::time_point::max();
    job.part = (query.batch_size + parts - 1) / parts;
    admission.ticket = job.ticket;
    ++stats_.accepted;
    stats_.accepted_samples += query.batch_size;
    ++in_it_;
    if (query.batch_size == 0) {
      end(job, Outcome::kDone);
      return admission;
    }
    stats_.queued_samples += query.batch_size;
    ++stats_.queued;
    job.queued = true;
    queue_.push_back(&job);
  }
  parts > 1 ? work_.notify_all() : work_.notify_one();
  return admission;
}

Batcher::Job& Batcher::new_job() {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(jobs_.size()));
    jobs_.push_back(std::make_unique<Job>());
    jobs_.back()->ticket = free_.back();
  }
  Job& job = *jobs_[free_.back()];
  free_.pop_back();
  job.ticket += uint64_t{1} << 32;
  job.taken = 0;
  job.running = 0;
  job.queued = job.ended = false;
  job.outcome = Outcome::kDone;
  job.error.clear();
  return job;
}

Batcher::Job* Batcher::find(uint64_t ticket) {
  const uint64_t place = ticket & 0xffffffff;
  if (place >= jobs_.size() || jobs_[place]->ticket != ticket || jobs_[place]->ended) return nullptr;
  return jobs_[place].get();
}

bool Batcher::cancel(uint64_t ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  Job* const job = find(ticket);
  if (job == nullptr || job->outcome != Outcome::kDone) return false;
  job->outcome = Outcome::kCancelled;
  if (job->running == 0) end(*job, Outcome::kCancelled);
  return true;
}

// ----------------------------------------------------------------------------------------------------
// what goes out

void Batcher::end(Job& job, Outcome outcome) {
  const auto now = Clock::now();
  if (job.queued) {
    stats_.queued_samples -= job.query.batch_size - job.taken;
    --stats_.queued;
  }
  job.ended = true;
  const double queued = job.taken > 0 ? Seconds(job.taken_up - job.arrived).count() : 0;
  const double total = Seconds(now - job.arrived).count();
  switch (outcome) {
    case Outcome::kDone:
      ++stats_.done;
      stats_.queue_seconds.add(queued);
      stats_.request_seconds.add(total);
      break;
    case Outcome::kExpired:
      ++stats_.expired;
      break;
    case Outcome::kCancelled:
      ++stats_.cancelled;
      break;
    case Outcome::kFailed:
      ++stats_.failed;
      break;
  }
  completions_.push_back({job.ticket, outcome, queued, total, std::move(job.error)});
  if (completions_.size() == 1) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(descriptor_, &one, sizeof one);
  }
  if (--in_it_ == 0) idle_.notify_all();
  retire(job);
}

void Batcher::retire(Job& job) {
  if (!job.queued && job.running == 0 && job.ended) free_.push_back(static_cast<uint32_t>(job.ticket));
}

void Batcher::take(std::vector<Completion>& completions) {
  std::lock_guard<std::mutex> lock(mutex_);
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(descriptor_, &count, sizeof count);
  std::move(completions_.begin(), completions_.end(), std::back_inserter(completions));
  completions_.clear();
}

bool Batcher::drain(double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  draining_ = true;
  work_.notify_all();  // nothing more comes: no batch waits to be full
  return idle_.wait_for(lock, Seconds(std::clamp(seconds, 0.0, kLongest)), [this] { return in_it_ == 0; });
}

void Batcher::set_split(int64_t samples) {
  std::lock_guard<std::mutex> lock(mutex_);
  BatcherOptions options = options_;
  options.split = samples;
  options_ = checked(options, engine_);
}

BatcherOptions Batcher::options() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return options_;
}

BatcherStats Batcher::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  BatcherStats stats = stats_;
  stats.seconds_per_sample = late_samples_ > 0 ? late_seconds_ / late_samples_ : 0;
  return stats;
}

// ----------------------------------------------------------------------------------------------------
// workers

void Batcher::work() {
  Desk desk;
  std::unique_lock<std::mutex> lock(mutex_);
  while (wait_for_work(lock)) {
    take_ranges(desk);
    if (desk.ranges.empty()) continue;
    const bool more = !queue_.empty();
    lock.unlock();
    if (more) work_.notify_one();
    const auto begin = Clock::now();
    run(desk);
    const double seconds = Seconds(Clock::now() - begin).count();
    lock.lock();
    settle(desk, seconds);
  }
  while (Job* const job = head()) {
    job->outcome = Outcome::kCancelled;
    if (job->running == 0) end(*job, Outcome::kCancelled);
  }
}

// False when it is time to stop.
bool Batcher::wait_for_work(std::unique_lock<std::mutex>& lock) {
  for (;;) {
    work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return false;
    if (options_.queue_delay <= 0 || draining_) return true;
    const Job* const first = head();
    if (first == nullptr) continue;
    const auto until =
        first->arrived + std::chrono::duration_cast<Clock::duration>(Seconds(options_.queue_delay));
    const auto full = [this] {
      return stopping_ || draining_ || queue_.empty() || stats_.queued_samples >= options_.max_batch;
    };
    work_.wait_until(lock, until, full);
    if (stopping_) return false;
    if (!queue_.empty()) return true;
  }
}

// The query whose turn it is, after those that are over have left the queue.
Batcher::Job* Batcher::head() {
  while (!queue_.empty()) {
    Job& job = *queue_.front();
    if (!job.ended && job.outcome == Outcome::kDone) return &job;
    queue_.pop_front();
    if (!job.ended) {  // parts of it still run; the last ends it
      stats_.queued_samples -= job.query.batch_size - job.taken;
      --stats_.queued;
    }
    job.queued = false;
    retire(job);
  }
  return nullptr;
}

void Batcher::take_ranges(Desk& desk) {
  desk.ranges.clear();
  const auto now = Clock::now();
  int64_t samples = 0;
  while (Job* const job = head()) {
    if (job->taken == 0 && job->deadline < now) {
      end(*job, Outcome::kExpired);
      continue;
    }
    const int64_t left = job->query.batch_size - job->taken, count = std::min(left, job->part);
    const bool whole = count == job->query.batch_size;
    if (!desk.ranges.empty() && !(whole && samples + count <= options_.max_batch)) break;
    if (job->taken == 0) job->taken_up = now;
    desk.ranges.push_back({job, job->taken, count});
    job->taken += count;
    ++job->running;
    samples += count;
    stats_.queued_samples -= count;
    if (count == left) {
      queue_.pop_front();
      job->queued = false;
      --stats_.queued;
    }
    if (!whole) break;
  }
  stats_.running_samples += samples;
}

void Batcher::run(Desk& desk) {
  if (desk.ranges.size() == 1) return predict(desk, 0, 1);
  try {
    predict(desk, 0, desk.ranges.size());
  } catch (...) {  // no fault of those that have no part in it
    for (size_t i = 0; i < desk.ranges.size(); ++i) predict(desk, i, 1);
  }
}

// Some of the desk's ranges as one batch. Errors of a single range are its own; others are thrown.
void Batcher::predict(Desk& desk, size_t first, size_t count) {
  try {
    desk.queries.clear();
    for (size_t i = first; i < first + count; ++i) {
      const Range& range = desk.ranges[i];
      desk.queries.push_back({&range.job->query, range.first, range.count});
    }
    desk.batch.join(desk.queries);
    const LookupRequest& request = desk.batch.request();
    if (count == 1) {
      engine_.predict(desk.batch.dense(), request, desk.ranges[first].job->out + desk.ranges[first].first);
      return;
    }
    if (static_cast<int64_t>(desk.out.size()) < request.batch_size) {
      desk.out.resize(static_cast<size_t>(request.batch_size));
    }
    engine_.predict(desk.batch.dense(), request, desk.out.data());
    const float* from = desk.out.data();
    for (size_t i = first; i < first + count; ++i) {
      const Range& range = desk.ranges[i];
      std::copy_n(from, range.count, range.job->out + range.first);
      from += range.count;
    }
  } catch (const std::exception& error) {
    if (count > 1) throw;
    desk.ranges[first].error = error.what();
  }
}

void Batcher::settle(Desk& desk, double seconds) {
  int64_t samples = 0;
  for (const Range& range : desk.ranges) samples += range.count;
  stats_.running_samples -= samples;
  ++stats_.batches;
  stats_.batched_samples += samples;
  if (desk.ranges.size() > 1) ++stats_.joined_batches;
  stats_.compute_seconds.add(seconds);
  stats_.batch_samples.add(static_cast<double>(samples));
  late_seconds_ += kFade * (seconds - late_seconds_);
  late_samples_ += kFade * (static_cast<double>(samples) - late_samples_);
  for (Range& range : desk.ranges) {
    Job& job = *range.job;
    --job.running;
    if (!range.error.empty() && job.outcome == Outcome::kDone) {
      job.outcome = Outcome::kFailed;
      job.error = std::move(range.error);
    }
    const bool all = job.taken == job.query.batch_size || job.outcome != Outcome::kDone;
    if (all && job.running == 0) end(job, job.outcome);
  }
}

}  // namespace screc
