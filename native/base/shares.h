// The pieces of a loop, parted among its threads beforehand, so that a thread knows what it does next; who is
// done takes what belongs to nobody, and then from the end of another's share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace screc {

class Shares {
 public:
  // One piece of no loop.
  static constexpr std::int64_t kNone = -1;

  struct Range {
    std::int64_t begin = 0, end = 0;  // less than 2^32
  };

  explicit Shares(int num_threads) : shares_(static_cast<std::size_t>(num_threads) + 1) {}

  int num_threads() const { return static_cast<int>(shares_.size()) - 1; }

  // Pieces [0, n), n < 2^32, in shares of nearly equal size. No thread may be taking any.
  void part(std::int64_t n) {
    const std::int64_t threads = num_threads();
    for (std::int64_t t = 0; t < threads; ++t) {
      shares_[static_cast<std::size_t>(t)].set({n * t / threads, n * (t + 1) / threads});
    }
    shares_.back().set({});
  }
  // The pieces of every thread, and those that belong to none. No thread may be taking any.
  void part(std::span<const Range> own, Range common) {
    for (std::size_t t = 0; t + 1 < shares_.size(); ++t) shares_[t].set(t < own.size() ? own[t] : Range{});
    shares_.back().set(common);
  }

  // A piece that nobody else gets; kNone when all are taken.
  std::int64_t take(int thread) {
    if (const std::int64_t piece = shares_[static_cast<std::size_t>(thread)].take_first(); piece != kNone) {
      return piece;
    }
    if (const std::int64_t piece = shares_.back().take_first(); piece != kNone) return piece;
    for (Share& share : shares_) {
      if (const std::int64_t piece = share.take_last(); piece != kNone) return piece;
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
    void set(Range part) {
      range.store(static_cast<std::uint64_t>(part.begin) << 32 | static_cast<std::uint64_t>(part.end),
                  std::memory_order_relaxed);
    }
    std::int64_t take_first() {
      std::uint64_t now = range.load(std::memory_order_relaxed);
      while (begin_of(now) < end_of(now)) {
        if (range.compare_exchange_weak(now, now + kOne, std::memory_order_relaxed)) return begin_of(now);
      }
      return kNone;
    }
    std::int64_t take_last() {
      std::uint64_t now = range.load(std::memory_order_relaxed);
      while (begin_of(now) < end_of(now)) {
        if (range.compare_exchange_weak(now, now - 1, std::memory_order_relaxed)) return end_of(now) - 1;
      }
      return kNone;
    }

    std::atomic<std::uint64_t> range{0};  // begin << 32 | end
  };
  std::vector<Share> shares_;  // the last belongs to nobody
};

}  // namespace screc
