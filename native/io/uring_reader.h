// Page reads through io_uring, over the raw system calls: one thread keeps the whole queue in flight.
#pragma once

#include <exception>
#include <mutex>
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

  void read(const PageRequest* requests, std::int64_t count, PageSink& sink) override;
  const char* backend() const override { return "io_uring"; }
  int queue_depth() const override { return queue_depth_; }

 private:
  struct Slot {
    std::int64_t request = 0;
    int attempts = 0;
  };

  unsigned char* buffer(unsigned slot) const;
  void prepare(unsigned slot, const PageRequest& request);
  // Hands prepared reads to the kernel and waits for some to complete. Returns 0 or the errno it cannot go on
  // with.
  int submit_and_wait();
  void complete(unsigned slot, int result, const PageRequest* requests, PageSink& sink);
  // After a failed submission: takes back what the kernel has not seen and waits for the rest.
  void drain();
  unsigned prepared() const;

  const int queue_depth_;
  std::mutex callers_;  // one read() at a time
  AlignedBuffer buffers_;
  std::vector<Slot> slots_;
  std::vector<unsigned> free_;

  FileHandle ring_;
  Mapping rings_, entries_map_;
  unsigned *sq_head_ = nullptr, *sq_tail_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
  unsigned sq_mask_ = 0, cq_mask_ = 0;
  io_uring_sqe* entries_ = nullptr;
  io_uring_cqe* completions_ = nullptr;
  std::exception_ptr error_;  // the first of the current read
  bool broken_ = false;       // reads may still be in flight that cannot be waited for
};

}  // namespace screc
