// Finds the hot ids of a stream of scored ids, in bounded memory, and lends each a row of a pool (HotSketch:
// CAFE, arXiv 2312.03256, section 3).
//
// A bucket of four slots is one cache line. An id's score is kept in one of the slots of its bucket, in
// descending order; a new id takes the place of the lowest score, and goes on from it, unless that slot's id
// has a row (SpaceSaving within the bucket). Who reaches the threshold is lent a row as long as there are
// any. What an id took over does not count for that: in a small sketch the passers-by of a bucket have more
// together than most hot ids.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace screc {

class HotSketch {
 public:
  // An empty slot has id -1. `lent` is the row or, with its sign bit set, the bits of -(score taken over).
  struct Slot {
    std::int64_t id;
    float score;
    std::int32_t lent;

    bool has_row() const { return lent >= 0; }
    float own_score() const { return has_row() ? score : score + std::bit_cast<float>(lent); }
  };
  static constexpr int kSlots = 4;
  struct Bucket {
    Slot slots[kSlots];
  };
  static_assert(sizeof(Bucket) == 64);

  // Who was lent a row, or had to give it back, in the order of the insertions.
  struct Moves {
    std::vector<std::int64_t> ids;
    std::vector<std::int32_t> rows;
  };

  // Throws std::invalid_argument unless num_buckets >= 1, num_rows >= 0 and threshold > 0.
  HotSketch(std::int64_t num_buckets, std::int32_t num_rows, float threshold);

  std::int64_t num_buckets() const { return num_buckets_; }
  std::int32_t num_rows() const { return num_rows_; }
  std::int32_t num_lent() const { return num_rows_ - static_cast<std::int32_t>(free_.size()); }
  float threshold() const { return threshold_; }
  std::int64_t bytes() const { return num_buckets_ * static_cast<std::int64_t>(sizeof(Bucket)); }
  const Bucket* buckets() const { return buckets_.as<Bucket>(); }

  // rows[i] = the row lent to ids[i], or -1.
  void query(const std::int64_t* ids, std::int64_t n, std::int32_t* rows, ThreadPool* pool) const;

  // scores[i] = the own score of ids[i], without what it took over; -1 if it is not in the sketch.
  void scores(const std::int64_t* ids, std::int64_t n, float* scores, ThreadPool* pool) const;

  // Adds scores[i] >= 0 to ids[i] >= 0, in this order; the result does not depend on the threads. Returns who
  // was lent a row.
  Moves insert(const std::int64_t* ids, const float* scores, std::int64_t n, ThreadPool* pool);

  // Multiplies every score by `factor` <= 1. Returns who fell below the threshold and gave a row back.
  Moves decay(float factor);

  // Raises the threshold to the num_rows-th largest score where more than 1.05 num_rows ids have reached it
  // (CAFE+, which waits for 1.2 times as many). Returns who fell below it and gave a row back.
  Moves retune();

  // Takes over buckets [num_buckets] and the threshold of a sketch of the same shape. Throws
  // std::invalid_argument where a row is out of range or lent twice.
  void restore(const Bucket* buckets, float threshold);

 private:
  Bucket& bucket(std::int64_t number) { return buckets_.as<Bucket>()[number]; }
  std::int64_t place(std::int64_t id) const;
  // True when the id has reached the threshold without a row; `over` counts those that do so for the first
  // time.
  bool add(Bucket& bucket, std::int64_t id, float score, std::int64_t& over) const;
  Moves take_back();

  const std::int64_t num_buckets_;
  const std::int32_t num_rows_;
  float threshold_;
  AlignedBuffer buckets_;
  std::int64_t over_ = 0;           // slots whose own score has reached the threshold
  std::vector<std::int32_t> free_;  // the last is lent next
  // Working memory of insert: the bucket of every id, and per thread which ids fall to it.
  std::vector<std::int64_t> places_;
  struct Shard {
    std::vector<std::int64_t> own, hot;
    std::int64_t over = 0;
  };
  std::vector<Shard> shards_;
};

}  // namespace screc
