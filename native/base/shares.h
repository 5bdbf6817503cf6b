// The pieces of a loop, parted among its threads beforehand, so that a thread knows what it does next; who is
// done takes from the end of another's share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace screc {

class Shares {
 public:
  // One piece of no loop.
  static constexpr std::int64_t kNone = -1;

  explicit Shares(int num_threads) : shares_(static_cast<std::size_t>(num_threads)) {}

  // Pieces [0, n), n < 2^32, in shares of nearly equal size. No thread may be taking any.
  void part(std::int64_t n) {
    const auto threads = static_cast<std::int64_t>(shares_.size());
    for (std::int64_t t = 0; t < threads; ++t) {
      const auto begin = static_cast<std::uint64_t>(n * t / threads);
      const auto end = static_cast<std::uint64_t>(n * (t + 1) / threads);
      shares_[static_cast<std::size_t>(t)].range.store(begin << 32 | end, std::memory_order_relaxed);
    }
  }

  // A piece that nobody else gets; kNone when all are taken.
  std::int64_t take(int thread) {
    std::atomic<std::uint64_t>& own = shares_[static_cast<std::size_t>(thread)].range;
    std::uint64_t range = own.load(std::memory_order_relaxed);
    while (begin_of(range) < end_of(range)) {
      if (own.compare_exchange_weak(range, range + kOne, std::memory_order_relaxed)) return begin_of(range);
    }
    for (Share& share : shares_) {
      range = share.range.load(std::memory_order_relaxed);
      while (begin_of(range) < end_of(range)) {
        if (share.range.compare_exchange_weak(range, range - 1, std::memory_order_relaxed)) {
          return end_of(range) - 1;
        }
      }
    }
    return kNone;
  }

  // The piece that the thread takes next, unless another is faster; kNone when its share is done.
  std::int64_t next(int thread) const {
    const std::uint64_t range =
        shares_[static_cast<std::size_t>(thread)].range.load(std::memory_order_relaxed);
    return begin_of(range) < end_of(range) ? begin_of(range) : kNone;
  }

 private:
  static constexpr std::uint64_t kOne = std::uint64_t{1}
                                        << 32;  // added to a range: one piece less at its begin
  static std::int64_t begin_of(std::uint64_t range) { return static_cast<std::int64_t>(range >> 32); }
  static std::int64_t end_of(std::uint64_t range) { return static_cast<std::int64_t>(range & 0xffffffff); }

  struct alignas(64) Share {
    std::atomic<std::uint64_t> range{0};  // begin << 32 | end
  };
  std::vector<Share> shares_;
};

}  // namespace screc
