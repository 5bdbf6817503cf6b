#include "io/uring_reader.h"

#include <linux/io_uring.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

namespace screc {
namespace {

// How often a read is tried again that the kernel put off (EAGAIN), that a signal interrupted, or that was
// cancelled because the thread that submitted it has ended.
constexpr int kMaxAttempts = 1000;
// Prepared reads that are worth a call.
constexpr unsigned kSubmitAtOnce = 16;

int uring_setup(unsigned entries, io_uring_params* params) {
  return static_cast<int>(syscall(__NR_io_uring_setup, entries, params));
}

int uring_enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags) {
  return static_cast<int>(syscall(__NR_io_uring_enter, fd, to_submit, min_complete, flags, nullptr, 0));
}

int uring_register(int fd, unsigned opcode, void* argument, unsigned count) {
  return static_cast<int>(syscall(__NR_io_uring_register, fd, opcode, argument, count));
}

IoError refused(const std::string& call, int code) {
  return IoError("io_uring is not available: " + call + " says '" + std::strerror(code) +
                     "' (containers and the sysctl kernel.io_uring_disabled refuse it); use io='pread'",
                 code);
}

Mapping map_ring(int fd, std::size_t size, std::int64_t offset) {
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
  if (data == MAP_FAILED) throw refused("mmap", errno);
  return Mapping(data, size);
}

unsigned load_acquire(unsigned* shared) { return std::atomic_ref(*shared).load(std::memory_order_acquire); }
void store_release(unsigned* shared, unsigned value) {
  std::atomic_ref(*shared).store(value, std::memory_order_release);
}

// IORING_OP_READ came with Linux 5.6, as did the call that asks for it.
bool can_read(int fd) {
  constexpr unsigned kOps = 256;
  alignas(io_uring_probe) unsigned char bytes[sizeof(io_uring_probe) + kOps * sizeof(io_uring_probe_op)] = {};
  auto* probe = reinterpret_cast<io_uring_probe*>(bytes);
  if (uring_register(fd, IORING_REGISTER_PROBE, probe, kOps) != 0) return false;
  return probe->last_op >= IORING_OP_READ && (probe->ops[IORING_OP_READ].flags & IO_URING_OP_SUPPORTED) != 0;
}

}  // namespace

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

UringReader::UringReader(int queue_depth)
    : queue_depth_(queue_depth),
      buffers_(static_cast<std::size_t>(queue_depth) * kPageBytes),
      slots_(static_cast<std::size_t>(queue_depth)) {
  io_uring_params params = {};
  const int fd = uring_setup(static_cast<unsigned>(queue_depth), &params);
  if (fd < 0) throw refused("io_uring_setup", errno);
  ring_ = FileHandle(fd);
  if (!can_read(fd) || (params.features & IORING_FEAT_SINGLE_MMAP) == 0) {
    throw refused("IORING_REGISTER_PROBE", EOPNOTSUPP);
  }
  const std::size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
  const std::size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  rings_ = map_ring(fd, std::max(sq_size, cq_size), IORING_OFF_SQ_RING);
  entries_map_ = map_ring(fd, params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
  sq_head_ = rings_.at<unsigned>(params.sq_off.head);
  sq_tail_ = rings_.at<unsigned>(params.sq_off.tail);
  sq_mask_ = *rings_.at<unsigned>(params.sq_off.ring_mask);
  cq_head_ = rings_.at<unsigned>(params.cq_off.head);
  cq_tail_ = rings_.at<unsigned>(params.cq_off.tail);
  cq_mask_ = *rings_.at<unsigned>(params.cq_off.ring_mask);
  entries_ = entries_map_.at<io_uring_sqe>(0);
  completions_ = rings_.at<io_uring_cqe>(params.cq_off.cqes);
  // Ring position i always stands for entry i.
  unsigned* array = rings_.at<unsigned>(params.sq_off.array);
  for (unsigned i = 0; i < params.sq_entries; ++i) array[i] = i;
  for (unsigned slot = 0; slot < slots_.size(); ++slot) free_.push_back(slot);
}

unsigned char* UringReader::buffer(unsigned slot) const {
  return buffers_.as<unsigned char>() + static_cast<std::int64_t>(slot) * kPageBytes;
}

unsigned UringReader::prepared() const { return *sq_tail_ - load_acquire(sq_head_); }

void UringReader::prepare(unsigned slot) {
  const PageRequest& request = requests_[slots_[slot].request];
  const unsigned tail = *sq_tail_;  // only the reader's current caller writes it
  io_uring_sqe& entry = entries_[tail & sq_mask_];
  entry = {};
  entry.opcode = IORING_OP_READ;
  entry.fd = request.file->fd();
  entry.off = static_cast<std::uint64_t>(request.page * kPageBytes);
  entry.addr = reinterpret_cast<std::uint64_t>(buffer(slot));
  entry.len = kPageBytes;
  entry.user_data = slot;
  store_release(sq_tail_, tail + 1);
}

void UringReader::fill() {
  while (!error_ && next_ < count_ && !free_.empty()) {
    const unsigned slot = free_.back();
    free_.pop_back();
    slots_[slot] = {next_++, 0};
    prepare(slot);
  }
}

int UringReader::enter(unsigned wanted) {
  for (int attempt = 0;; ++attempt) {
    const unsigned flags = wanted > 0 ? IORING_ENTER_GETEVENTS : 0;
    if (uring_enter(ring_.fd(), prepared(), wanted, flags) >= 0) return 0;
    const int code = errno;
    if (code != EINTR && code != EAGAIN && code != EBUSY) return code;
    // Out of some resource: finished reads give it back. Without one to reap, let others run and ask again.
    if (wanted == 0 || *cq_head_ != load_acquire(cq_tail_)) return 0;
    if (attempt >= kMaxAttempts && code != EINTR) return code;
    if (code != EINTR) sched_yield();
  }
}

void UringReader::complete(unsigned slot, int result) {
  Slot& state = slots_[slot];
  const PageRequest& request = requests_[state.request];
  try {
    if (!error_) {
      if ((result == -EINTR || result == -EAGAIN || result == -ECANCELED) &&
          ++state.attempts < kMaxAttempts) {
        prepare(slot);
        return;
      }
      if (result < 0) throw request.file->read_error(request.page, -result);
      // A short read is rare: ask once more, waiting, which also tells a file that ends here.
      if (result < kPageBytes) request.file->read_page(request.page, buffer(slot));
      sink_->page_read(state.request, buffer(slot));
    }
  } catch (...) {
    error_ = std::current_exception();
  }
  free_.push_back(slot);
}

void UringReader::reap() {
  unsigned head = *cq_head_;
  const unsigned end = load_acquire(cq_tail_);
  for (; head != end; ++head) {
    const io_uring_cqe& completion = completions_[head & cq_mask_];
    complete(static_cast<unsigned>(completion.user_data), completion.res);
  }
  store_release(cq_head_, head);
}

void UringReader::drain() noexcept {
  const unsigned unseen = prepared();
  const unsigned tail = *sq_tail_ - unseen;
  for (unsigned i = 0; i < unseen; ++i) {
    free_.push_back(static_cast<unsigned>(entries_[(tail + i) & sq_mask_].user_data));
  }
  store_release(sq_tail_, tail);
  for (;;) {
    unsigned head = *cq_head_;
    const unsigned end = load_acquire(cq_tail_);
    for (; head != end; ++head) {
      free_.push_back(static_cast<unsigned>(completions_[head & cq_mask_].user_data));
    }
    store_release(cq_head_, head);
    if (idle()) return;
    if (enter(1) != 0) {
      // The kernel may still write into the buffers: they must outlive us.
      broken_ = true;
      new AlignedBuffer(std::move(buffers_));
      return;
    }
  }
}

void UringReader::fail(int code) {
  if (!error_) error_ = std::make_exception_ptr(IoError::from_errno("submit reads of", "io_uring", code));
  drain();
}

void UringReader::start(const PageRequest* requests, std::int64_t count, PageSink& sink) {
  if (broken_) throw IoError("io_uring failed earlier; open the store again, with io='pread'");
  requests_ = requests;
  count_ = count;
  sink_ = &sink;
  next_ = 0;
  error_ = nullptr;
  fill();
  if (idle()) return;
  if (const int code = enter(0); code != 0) fail(code);
}

bool UringReader::poll() {
  reap();
  fill();
  if (idle() || broken_) return true;
  // Few at a time would be a call for every page; none in flight would leave the drive without work.
  const unsigned waiting = prepared();
  const auto in_flight = static_cast<unsigned>(slots_.size() - free_.size()) - waiting;
  const bool last = next_ == count_;
  if (waiting > 0 && (last || in_flight <= waiting || waiting >= kSubmitAtOnce)) {
    if (const int code = enter(0); code != 0) fail(code);
  }
  return idle() || broken_;
}

void UringReader::finish() {
  for (;;) {
    reap();
    fill();
    if (idle() || broken_) break;
    // A quarter of the queue at a time: fewer calls, and the drive keeps the other three quarters meanwhile.
    const auto in_flight = static_cast<unsigned>(slots_.size() - free_.size());
    if (const int code = enter(std::max(1u, in_flight / 4)); code != 0) {
      fail(code);
      break;
    }
  }
  count_ = next_ = 0;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void UringReader::abandon() noexcept {
  if (!broken_) drain();
  count_ = next_ = 0;
  error_ = nullptr;
}

}  // namespace screc
