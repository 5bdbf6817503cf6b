#include "io/pread_reader.h"

#include <algorithm>
#include <system_error>
#include <utility>

namespace screc {
namespace {
// 256 threads read at most a few percent more than 64.
constexpr int kMaxThreads = 64;
}  // namespace

PreadReader::PreadReader(int queue_depth)
    : queue_depth_(std::min(queue_depth, kMaxThreads)),
      buffers_(static_cast<std::size_t>(queue_depth_) * kPageBytes) {
  try {
    for (int thread = 1; thread < queue_depth_; ++thread) {
      workers_.emplace_back([this, thread] { work(thread); });
    }
  } catch (const std::system_error&) {
    // The system gives no more threads; the ones there are serve.
  }
}

PreadReader::~PreadReader() {
  abandon();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void PreadReader::start(const PageRequest* requests, std::int64_t count, PageSink& sink) {
  const int helpers = static_cast<int>(std::min<std::int64_t>(count, workers_.size()));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    requests_ = requests;
    count_ = count;
    sink_ = &sink;
    next_.store(0, std::memory_order_relaxed);
    error_ = nullptr;
    tickets_ = helpers;
  }
  for (int i = 0; i < helpers; ++i) start_.notify_one();
}

bool PreadReader::poll() {
  // Without helpers the read has to go on somewhere: a page at a time, waiting for it.
  if (workers_.empty()) take_requests(0, 1);
  std::lock_guard<std::mutex> lock(mutex_);
  return busy_ == 0 && next_.load(std::memory_order_relaxed) >= count_;
}

// Waits until no helper is in the read; whoever has not begun is not needed any more.
void PreadReader::stop() noexcept {
  std::unique_lock<std::mutex> lock(mutex_);
  tickets_ = 0;
  done_.wait(lock, [this] { return busy_ == 0; });
  count_ = 0;
}

void PreadReader::finish() {
  take_requests(0, count_);
  stop();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void PreadReader::abandon() noexcept {
  next_.store(count_, std::memory_order_relaxed);
  stop();
  error_ = nullptr;
}

void PreadReader::take_requests(int thread, std::int64_t most) {
  unsigned char* buffer = buffers_.as<unsigned char>() + static_cast<std::int64_t>(thread) * kPageBytes;
  try {
    for (; most > 0; --most) {
      const std::int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= count_) return;
      requests_[index].file->read_page(requests_[index].page, buffer);
      sink_->page_read(index, buffer);
    }
  } catch (...) {
    next_.store(count_, std::memory_order_relaxed);  // the others stop at their next request
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void PreadReader::work(int thread) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    start_.wait(lock, [this] { return stopping_ || tickets_ > 0; });
    if (stopping_) return;
    --tickets_;
    ++busy_;
    const std::int64_t count = count_;
    lock.unlock();
    take_requests(thread, count);
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
  }
}

}  // namespace screc
