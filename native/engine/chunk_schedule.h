// Who does what of a batch in the asymmetric data flow, where a sample's features come from all threads.
//
// The batch is cut into chunks of samples. Every thread looks up its own tables for chunk after chunk; a
// chunk that all tables are looked up for is computed, block by block, by whoever comes. A thread looks one
// chunk ahead before it computes one, so that it seldom waits for the others; before it waits, it does what
// they have not begun of the chunk: one that comes late, or never, holds nobody up.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/look_out.h"

namespace screc {

class ChunkSchedule {
 public:
  // Chunks that are in memory at a time.
  static constexpr int64_t kBuffers = 2;

  explicit ChunkSchedule(int num_threads) : queues_(static_cast<size_t>(num_threads) + 1) {}

  int num_threads() const { return static_cast<int>(queues_.size()) - 1; }

  // Pieces of a chunk's look-up: pieces[t] of them are of thread t, the last entry counts those that are
  // anyone's. No thread may be at work.
  void begin(int64_t num_chunks, int64_t blocks_per_chunk, const std::vector<int64_t>& pieces) {
    if (static_cast<int64_t>(chunks_.size()) < num_chunks) {
      chunks_ = std::vector<Chunk>(static_cast<size_t>(num_chunks));
    }
    num_chunks_ = num_chunks;
    blocks_ = blocks_per_chunk;
    int64_t all = 0;
    for (size_t q = 0; q < queues_.size(); ++q) {
      queues_[q].next.store(0, std::memory_order_relaxed);
      queues_[q].pieces = pieces[q];
      all += pieces[q];
    }
    for (Chunk& chunk : chunks_) {
      chunk.to_look_up.store(all, std::memory_order_relaxed);
      chunk.next_block.store(0, std::memory_order_relaxed);
      chunk.to_compute.store(blocks_, std::memory_order_relaxed);
    }
  }

  // What one thread does: look_up(queue, piece, chunk) for pieces, compute(chunk, block) for blocks of chunks
  // that are looked up. Neither may throw. Returns when the batch is done or others are doing what is left.
  template <typename LookUp, typename Compute>
  void work(int thread, const LookUp& look_up, const Compute& compute) {
    const int anyones = num_threads();
    for (int64_t chunk = 0; chunk <= num_chunks_; ++chunk) {
      if (chunk < num_chunks_) {
        if (chunk >= kBuffers) {  // its place in memory is free
          await(chunks_[static_cast<size_t>(chunk - kBuffers)].to_compute);
        }
        take_pieces(thread, chunk, look_up);
        take_pieces(anyones, chunk, look_up);
      }
      if (chunk > 0) compute_chunk(chunk - 1, look_up, compute);
    }
  }

 private:
  struct alignas(64) Queue {
    std::atomic<int64_t> next{0};  // piece, chunk by chunk
    int64_t pieces = 0;            // of a chunk
  };
  struct alignas(64) Chunk {
    std::atomic<int64_t> to_look_up{0}, next_block{0}, to_compute{0};
  };

  static void await(const std::atomic<int64_t>& count) {
    const auto none = [&] { return count.load(std::memory_order_acquire) == 0; };
    while (!none()) look_out(none);
  }

  // Those of the queue that nobody has begun, up to the chunk.
  template <typename LookUp>
  void take_pieces(int queue, int64_t chunk, const LookUp& look_up) {
    Queue& from = queues_[static_cast<size_t>(queue)];
    const int64_t end = (chunk + 1) * from.pieces;
    int64_t next = from.next.load(std::memory_order_relaxed);
    while (next < end) {
      if (!from.next.compare_exchange_weak(next, next + 1, std::memory_order_relaxed)) continue;
      const int64_t of = next / from.pieces;
      look_up(queue, next % from.pieces, of);
      chunks_[static_cast<size_t>(of)].to_look_up.fetch_sub(1, std::memory_order_acq_rel);
      next = from.next.load(std::memory_order_relaxed);
    }
  }

  template <typename LookUp, typename Compute>
  void compute_chunk(int64_t number, const LookUp& look_up, const Compute& compute) {
    Chunk& chunk = chunks_[static_cast<size_t>(number)];
    if (chunk.to_look_up.load(std::memory_order_acquire) != 0) {
      for (int queue = 0; queue <= num_threads(); ++queue) take_pieces(queue, number, look_up);
      await(chunk.to_look_up);
    }
    for (int64_t block; (block = chunk.next_block.fetch_add(1, std::memory_order_relaxed)) < blocks_;) {
      compute(number, block);
      chunk.to_compute.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::vector<Queue> queues_;  // the last is anyone's
  std::vector<Chunk> chunks_;
  int64_t num_chunks_ = 0, blocks_ = 0;
};

}  // namespace screc
