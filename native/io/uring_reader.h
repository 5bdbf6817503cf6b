// Page reads through io_uring, over the raw system calls: the whole queue is in flight while its owner does
// other work, and finished reads are taken from shared memory without a call.
#pragma once

#include <exception>
#include <vector>

#include "base/aligned_buffer.h"
#include "io/page_reader.h"

struct io_uring_cqe;
struct io_uring_sqe;

namespace screc {

// A shared memory mapping.
class Mapping {
 public:
  Mapping() = default;
  Mapping(void* data, std::size_t size) : data_(data), size_(size) {}
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  template <typename T>
  T* at(std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + offset);
  }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

class UringReader final : public PageReader {
 public:
  // Throws IoError with the reason and the remedy when the system refuses io_uring.
  explicit UringReader(int queue_depth);
  ~UringReader() override { abandon(); }

  void start(const PageRequest* requests, std::int64_t count, PageSink& sink) override;
  bool poll() override;
  void finish() override;
  void abandon() noexcept override;
  const char* backend() const override { return "io_uring"; }
  int queue_depth() const override { return queue_depth_; }

 private:
  struct Slot {
    std::int64_t request = 0;
    int attempts = 0;
  };

  unsigned char* buffer(unsigned slot) const;
  bool idle() const { return free_.size() == slots_.size(); }
  void prepare(unsigned slot);
  // Prepares requests while there are buffers.
  void fill();
  // Hands prepared reads to the kernel and waits for `wanted` reads to complete. Returns 0, also when the
  // kernel is short of something that finished reads give back, or the errno it cannot go on with.
  int enter(unsigned wanted);
  // Takes the reads that have completed.
  void reap();
  void complete(unsigned slot, int result);
  // Ends the read with the error of a call; reads that are in flight are waited for.
  void fail(int code);
  // Takes back what the kernel has not seen and waits for the rest, without a look at the pages.
  void drain() noexcept;
  unsigned prepared() const;

  const int queue_depth_;
  AlignedBuffer buffers_;
  std::vector<Slot> slots_;
  std::vector<unsigned> free_;

  FileHandle ring_;
  Mapping rings_, entries_map_;
  unsigned *sq_head_ = nullptr, *sq_tail_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
  unsigned sq_mask_ = 0, cq_mask_ = 0;
  io_uring_sqe* entries_ = nullptr;
  io_uring_cqe* completions_ = nullptr;

  // The current read.
  const PageRequest* requests_ = nullptr;
  std::int64_t count_ = 0;
  std::int64_t next_ = 0;  // first request that has not been prepared
  PageSink* sink_ = nullptr;
  std::exception_ptr error_;  // the first
  bool broken_ = false;       // reads may still be in flight that cannot be waited for
};

}  // namespace screc
