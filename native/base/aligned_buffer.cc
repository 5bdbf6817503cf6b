#include "base/aligned_buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace screc {
namespace {
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }
}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t num_bytes) : size_(num_bytes) {
  if (num_bytes == 0) return;
  // Transparent huge pages need 2 MiB alignment; mmap gives 4 KiB, so map more and trim both ends.
  const bool huge = num_bytes >= kHugePage;
  mapped_ = round_up(num_bytes, kPage);
  const std::size_t reserve = huge ? mapped_ + kHugePage : mapped_;
  void* raw = mmap(nullptr, reserve, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  auto begin = reinterpret_cast<std::uintptr_t>(raw);
  const std::uintptr_t start = huge ? round_up(begin, kHugePage) : begin;
  const std::uintptr_t end = begin + reserve;
  if (start > begin) munmap(raw, start - begin);
  if (end > start + mapped_) munmap(reinterpret_cast<void*>(start + mapped_), end - start - mapped_);
  data_ = reinterpret_cast<void*>(start);
  if (huge) madvise(data_, mapped_, MADV_HUGEPAGE);  // a refusal costs speed only
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) munmap(data_, mapped_);
}

}  // namespace screc
