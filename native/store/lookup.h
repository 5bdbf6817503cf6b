// One look-up over several tables: ids to row pointers, whatever memory the rows live in, then pooled or
// copied.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "store/band.h"
#include "store/ssd_rows.h"

namespace screc {

struct LookupCounts {
  std::int64_t lookups = 0, dram_rows = 0, tt_rows = 0, ssd_rows = 0, page_requests = 0, pages_read = 0;
};

// The part of a call that falls on one table. `offsets` are those of `num_samples` bags, [num_samples + 1],
// into `ids`. Without offsets every id is a bag of its own, copied, not pooled, and num_ids == num_samples.
struct Segment {
  const Table* table;
  int number;               // of the table
  const std::int64_t* ids;  // of the whole request
  const std::int64_t* offsets;
  std::int64_t first_id;  // of the segment, in ids
  std::int64_t num_ids;
  std::int64_t num_samples;
  float* out;  // bag b goes to out + b * out_stride
  std::int64_t out_stride;

  // Set by Lookup::run.
  std::int64_t base = 0;        // of the segment's row pointers
  std::int64_t first_unit = 0;  // of its units of work
  std::int64_t unit_samples = 1;
};

// Working memory and machinery, reused from call to call. One call at a time.
class Lookup {
 public:
  explicit Lookup(ThreadPool& threads);

  // `ssd_bands[n]` is the SSD band of number n; reader may be null when there is none. Throws
  // std::invalid_argument for an id outside its table and IoError from the drive; `out` is then undefined.
  LookupCounts run(std::vector<Segment>& segments, const std::vector<const Band*>& ssd_bands,
                   PageReader* reader);

  // Bytes of working memory that a look-up in the table takes at most.
  static std::int64_t scratch_bytes(const Table& table);

 private:
  static constexpr std::int64_t kPiece = 512;  // ids resolved at a time
  struct alignas(64) Worker {
    std::int64_t slots[kPiece];
    std::int32_t open[kPiece], found[kPiece];
    std::vector<WantedRow> wanted;
    std::int64_t dram_rows, tt_rows;
  };

  std::int64_t prepare(std::vector<Segment>& segments);
  // Resolves the unit's look-ups, and finishes it unless rows are still to come from SSD.
  void run_unit(const Segment& segment, std::int64_t unit, Worker& worker);
  void run_whole(const Segment& segment, std::int64_t first, std::int64_t last, std::int64_t begin,
                 std::int64_t end, Worker& worker);
  static void prefetch_rows(const std::vector<Segment>& segments);
  void resolve(const Segment& segment, std::int64_t first, std::int64_t count, Worker& worker);
  void resolve_band(const Table& table, const Band& band, std::int64_t base, std::int64_t found,
                    Worker& worker);
  void finish(const Segment& segment, std::int64_t first_sample, std::int64_t last_sample);
  template <typename Body>
  void for_each_unit(const std::vector<Segment>& segments, const Body& body);

  ThreadPool& threads_;
  std::vector<Worker> workers_;
  std::vector<const float*> rows_;  // row of every look-up of the call
  AlignedBuffer tt_arena_;          // rebuilt rows
  std::atomic<std::int64_t> tt_used_{0};
  std::vector<WantedRow> wanted_;
  SsdRows ssd_;
  std::int64_t num_units_ = 0;
  bool alone_ = true;  // too little work to wake other threads
};

}  // namespace screc
