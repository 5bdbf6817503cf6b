#include "io/pread_reader.h"

#include <algorithm>
#include <system_error>
#include <utility>

namespace screc {
namespace {
constexpr int kMaxThreads = 256;
}

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
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void PreadReader::read(const PageRequest* requests, std::int64_t count, PageSink& sink) {
  if (count <= 0) return;
  std::lock_guard<std::mutex> turn(callers_);
  const int helpers = static_cast<int>(std::min<std::int64_t>(count - 1, workers_.size()));
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
  take_requests(0);
  std::unique_lock<std::mutex> lock(mutex_);
  tickets_ = 0;  // whoever has not begun is not needed any more
  done_.wait(lock, [this] { return busy_ == 0; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void PreadReader::take_requests(int thread) {
  unsigned char* buffer = buffers_.as<unsigned char>() + static_cast<std::int64_t>(thread) * kPageBytes;
  try {
    for (;;) {
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
    lock.unlock();
    take_requests(thread);
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
  }
}

}  // namespace screc
