// Page reads by a pool of threads that each wait for one pread: works everywhere, one thread per read in
// flight (at most 64).
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/aligned_buffer.h"
#include "io/page_reader.h"

namespace screc {

class PreadReader final : public PageReader {
 public:
  explicit PreadReader(int queue_depth);
  ~PreadReader() override;

  void start(const PageRequest* requests, std::int64_t count, PageSink& sink) override;
  bool poll() override;
  void finish() override;
  void abandon() noexcept override;
  const char* backend() const override { return "pread"; }
  int queue_depth() const override { return queue_depth_; }

 private:
  void work(int thread);
  // Serves requests until none is left, or `most` of them.
  void take_requests(int thread, std::int64_t most);
  void stop() noexcept;

  const int queue_depth_;
  AlignedBuffer buffers_;  // one page per thread; who waits in finish() is thread 0
  std::vector<std::thread> workers_;

  std::mutex mutex_;
  std::condition_variable start_, done_;
  int tickets_ = 0;  // workers still to join the current read
  int busy_ = 0;     // workers in it
  bool stopping_ = false;

  const PageRequest* requests_ = nullptr;
  std::int64_t count_ = 0;
  PageSink* sink_ = nullptr;
  std::atomic<std::int64_t> next_{0};
  std::exception_ptr error_;
};

}  // namespace screc
