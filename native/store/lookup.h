// One look-up over several tables: ids to row pointers, whatever memory the rows live in, then pooled or
// copied.
#pragma once

#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "base/shares.h"
#include "base/thread_pool.h"
#include "store/band.h"
#include "store/core_tables.h"
#include "store/ssd_rows.h"
#include "store/tt_rows.h"

namespace screc {

struct LookupCounts {
  std::int64_t lookups = 0, dram_rows = 0, tt_rows = 0, ssd_rows = 0;
  std::int64_t updated_tt_rows = 0;  // of tt_rows, those that were updated
  SsdCounts ssd = {};
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
  const CoreTables::Part* part = nullptr;  // what is looked up of the table; null: all, by its own strategy

  // Set by Lookup::begin.
  std::int64_t base = 0;        // of the segment's row pointers
  std::int64_t first_unit = 0;  // of its units of work
  std::int64_t unit_samples = 1;
};

// Working memory and machinery, reused from call to call. One call at a time, in two halves.
class Lookup {
 public:
  explicit Lookup(ThreadPool& threads);

  // The threads that share the work from now on; they must outlive the look-ups.
  void use(ThreadPool& threads);
  // The calling thread does all of it, number `thread` of the store's.
  void use_caller(int thread);

  // Starts to read the rows that stand on SSD, then does all work that does not need them while they come.
  // Segments of tables with SSD bands go first, those of cores' parts last, core by core; they and the reader
  // must stay until finish() or abandon(), one of which must follow; `reader` may be null when no table has
  // an SSD band. Throws std::invalid_argument for an id outside its table and IoError; nothing is in flight
  // then.
  void begin(std::vector<Segment>& segments, SsdBands& ssd, PageReader* reader);
  // Lets the reads go on, without waiting.
  void poll() { ssd_.poll(); }
  // Waits for the rows and pools them. Throws IoError from the drive; `out` is then undefined.
  LookupCounts finish(const std::vector<Segment>& segments, const SsdBands& ssd);
  // Gives the look-up up; waits for reads in flight.
  void abandon() noexcept { ssd_.abandon(); }

  // Pools the bags of a part, on the calling thread. Throws std::invalid_argument for an id outside its
  // table.
  static void pool_part(const Segment& segment);
  // At most this many look-ups have their rows asked for before the first is used.
  static constexpr std::int64_t kFew = 512;
  // Two steps of a segment whose table is one array, on the calling thread: checks the ids (throws as above)
  // and asks for their rows; pools them.
  static void prefetch_checked(const Segment& segment);
  static void pool_checked(const Segment& segment);
  // Asks for the rows of ids, not checked yet.
  static void prefetch_rows(const RowArray& array, const std::int64_t* ids, std::int64_t count);

  // Bytes of working memory that a look-up in the table takes at most.
  static std::int64_t scratch_bytes(const Table& table);

 private:
  static constexpr std::int64_t kPiece = 512;  // ids resolved at a time
  struct alignas(64) Worker {
    std::int64_t slots[kPiece];
    std::int32_t open[kPiece], found[kPiece];
    const void* encoded[kPiece];
    std::vector<WantedRow> wanted;
    std::int64_t dram_rows, tt_rows, updated_tt_rows;
  };

  void prepare(std::vector<Segment>& segments);
  // What the thread reads of a segment whose table is one array.
  const StrategyRows& rows_of(const Segment& segment, int thread) const;
  // Rows of the segment are still to come when its look-ups are resolved.
  bool waits(const Segment& segment) const;
  // Resolves the unit's look-ups, and pools them unless they wait.
  void run_unit(const Segment& segment, std::int64_t unit, Worker& worker);
  void run_whole(const Segment& segment, std::int64_t first, std::int64_t last, std::int64_t begin,
                 std::int64_t end, Worker& worker);
  void resolve(const Segment& segment, std::int64_t first, std::int64_t count, Worker& worker);
  void resolve_band(const Segment& segment, const Band& band, std::int64_t first, std::int64_t found,
                    Worker& worker);
  // Takes the look-ups of updated rows out of the `found` ones of a band of cores, the first of which has row
  // pointer `base`; returns how many are left.
  std::int64_t take_updated(const Band& band, std::int64_t base, std::int64_t found, Worker& worker);
  // Rebuilds the rows of cores that wait, and pools the segments that wait for nothing else.
  void rebuild(const std::vector<Segment>& segments);
  // Makes the rows fetched from SSD what their tables pool.
  void decode_fetched(const std::vector<Segment>& segments, const SsdBands& ssd);
  void pool_unit(const Segment& segment, std::int64_t unit);
  void pool(const Segment& segment, std::int64_t first_sample, std::int64_t last_sample);
  // Units [first, last) on all threads, as each comes to them.
  template <typename Body>
  void for_each_unit(const std::vector<Segment>& segments, std::int64_t first, std::int64_t last,
                     const Body& body);
  // All units from `first` on, those of parts by the threads that they belong to, who then help.
  template <typename Body>
  void for_each_owned_unit(const std::vector<Segment>& segments, std::int64_t first, const Body& body);

  ThreadPool* threads_ = nullptr;  // null: the caller alone
  int first_thread_ = 0;           // number of worker 0
  std::vector<Worker> workers_;
  std::vector<const void*> rows_;  // row of every look-up of the call, in its table's codec
  Arena arena_;                    // rows rebuilt from cores or decoded
  TtRows tt_;
  std::vector<WantedRow> wanted_;
  SsdRows ssd_;
  std::int64_t num_units_ = 0;
  std::int64_t ssd_units_ = 0;  // of tables with SSD bands; they are the first
  std::int64_t num_lookups_ = 0;
  bool owned_ = false;  // some segments are of parts that belong to cores
  Shares shares_;       // of the units of parts, by thread, and of those before
  std::vector<Shares::Range> ranges_;
  bool alone_ = true;  // too little work to wake other threads
};

}  // namespace screc
