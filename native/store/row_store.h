// Rows of huge tables by id, wherever they live: DRAM, tensor-train cores, SSD pages. It knows rows and bytes
// only.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "base/writer_first_mutex.h"
#include "io/page_reader.h"
#include "store/band.h"
#include "store/lookup_contexts.h"

namespace screc {

// Since the store was made; dram_rows + tt_rows + ssd_rows == lookups. Calls that failed are not counted.
// cache_hits + cache_misses is the number of distinct rows on SSD that calls wanted, call by call (a call
// served in parts counts as several): at most ssd_rows.
struct StoreStats {
  int64_t lookups;
  int64_t dram_rows, tt_rows, ssd_rows;  // look-ups that ended in each kind of band
  int64_t default_rows;     // of ssd_rows, those whose page was never written: nothing is read for them
  int64_t updated_lookups;  // of ssd_rows and tt_rows, those of rows held for an update: likewise
  int64_t page_requests;    // pages that the others on SSD needed, before each is read once per call
  int64_t pages_read;
  int64_t bytes_read;
  int64_t cache_hits, cache_misses;  // rows of which the cache held, and did not hold, a copy
  int64_t cache_admissions;          // rows that it took in
  int64_t cache_bytes;               // its rows and counts; at most what it was given
  int64_t updates, updated_rows;     // since the store was made: RowStore::apply and the rows of these
  int64_t held_rows, held_bytes;     // rows that stand before pages and cores, and the memory they take
  int64_t dram_bytes;      // rows, cores, indices, cache_bytes, held_bytes, copies of strategies and of cores
  std::string io_backend;  // "io_uring" or "pread"; "none" without SSD bands
  bool direct_io;          // false when some file is read through the page cache
  int queue_depth;
  int num_threads;
};

class RowStore;

// A look-up that has begun. One that is not finished is given up when the ticket goes. Safe to share.
class Ticket {
 public:
  Ticket(Ticket&& other) noexcept : store_(other.store_), context_(other.context_.exchange(nullptr)) {}
  Ticket& operator=(Ticket&&) = delete;
  ~Ticket();

  // Lets the reads go on, without waiting: only as many as the queue depth takes are in flight at a time.
  void poll();
  // Waits for the rows and writes what is left of `out`. Throws IoError from the drive, `out` is then
  // undefined, and std::runtime_error when it was called before.
  void finish();

 private:
  friend class RowStore;
  Ticket(RowStore& store, LookupContext& context) : store_(store), context_(&context) {}
  // The context, for the first who asks; else null.
  LookupContext* take();

  RowStore& store_;
  std::atomic<LookupContext*> context_;
};

// New rows for ids of one table, encoded as their bands hold rows.
struct RowUpdate {
  struct Change {
    Band* band;
    int64_t slot, id;
    int64_t offset;  // of the row in `rows`
  };
  int table;
  std::vector<Change> changes;
  std::vector<std::byte> rows;
  int64_t held_bytes = 0;  // that it may add to StoreStats::held_bytes, at most
};

class RowStore {  // all methods are thread-safe
 public:
  // io and queue_depth as in make_page_reader, for each look-up in flight; num_threads 0 means one per core.
  // cache_bytes: memory for a cache of rows of SSD bands (RowCache), under cache_policy. Throws
  // std::invalid_argument.
  RowStore(const std::string& io, int queue_depth, int num_threads, int64_t cache_bytes,
           const std::string& cache_policy);

  // Tables are built up first: add_table, then its bands in the order in which an id is looked up. The last
  // band has a slot for every id, which is the id itself (IdentityIndex) or given by an OrderIndex; the
  // earlier ones have one slot per id of their index. All throw std::invalid_argument naming the argument and
  // the table.

  // Returns the table's number. `mean`: pooled by mean, not sum.
  int add_table(int64_t num_embeddings, int64_t embedding_dim, bool mean);
  // rows: [num_rows, codec.row_bytes()], which must outlive the store, as must the arrays of every index.
  void add_dram_band(int table, const void* rows, int64_t num_rows, const RowCodec& codec,
                     const BandIndex& index);
  // Copies the cores.
  void add_tt_band(int table, const std::vector<TtCoreView>& cores, const BandIndex& index);
  // The file's size and its first and last page are checked here (IoError), every page when it is read.
  // `sparse`: the pages that were written, where not all were; the arrays of the set must outlive the store.
  void add_ssd_band(int table, const std::string& path, int band, const RowCodec& codec,
                    const BandIndex& index, std::unique_ptr<const WrittenPages> sparse = nullptr);

  // How the table's rows are fetched, 'gather' until it is set. Throws std::invalid_argument where the table
  // cannot have the strategy: its only band must be rows in DRAM, few enough and in a format for it.
  void set_strategy(int table, Strategy strategy);
  Strategy strategy(int table) const;

  // Whose each table is in the asymmetric data flow; none: no such flow. Keeps the worker threads on cores of
  // their own, or lets them go. Needs all tables complete; what is not one array of rows in DRAM belongs to
  // no core. Throws std::invalid_argument naming the table and the reason.
  void set_mapping(const std::vector<TableCores>& mapping);
  bool has_mapping() const;

  int num_tables() const;
  bool reads_ssd() const;     // some band lives there
  bool rows_in_dram() const;  // all bands are rows in DRAM: no look-up waits or is worth sharing with others
  int64_t num_embeddings(int table) const;
  int64_t embedding_dim(int table) const;
  int64_t total_dim() const;                  // sum over the tables
  ThreadPool& threads() { return threads_; }  // the pool that look-ups and the engine share

  // Pools samples [first, first + count) of the request; table t's columns of sample i (0-based within the
  // range) start at out + i * sample_stride + sum of the dims before t. Validates offsets and ids
  // (std::invalid_argument naming table, position, value and the table's rows); an empty bag gives zeros.
  // Throws IoError from the drive, and std::logic_error for the asymmetric flow without a mapping. The bits
  // are the same in both flows, but for tables whose strategy is 'counts' in one of them only.
  void lookup(const LookupRequest& request, int64_t first, int64_t count, float* out, int64_t sample_stride,
              DataFlow flow = DataFlow::kSymmetric);
  // Keeps the tables as they are while it lives: for lookup_alone and prefetch, on whatever threads. To be
  // taken before a loop of threads() begins, as lookup() does.
  std::shared_lock<WriterFirstMutex> hold_tables() const {
    return std::shared_lock<WriterFirstMutex>(tables_mutex_);
  }
  // As lookup(), on the calling thread alone, which works as number `thread` of threads() in a context of its
  // own: it waits for no other look-up.
  void lookup_alone(LookupContext& context, const LookupRequest& request, int64_t first, int64_t count,
                    float* out, int64_t sample_stride, int thread);
  // One part of the mapping, as lookup_alone: on the calling thread, which needs no context. `out` is the
  // place of the first table's columns. Counts nothing.
  void lookup_part(const CoreTables::Part& part, const LookupRequest& request, int64_t first, int64_t count,
                   float* out, int64_t sample_stride) const;
  // The parts that are all of the tables, for lookup_part while the tables are held. Throws std::logic_error
  // where there are no such.
  const std::vector<CoreTables::Part>& all_parts() const;
  bool has_all_parts() const;
  // Counts look-ups of parts.
  void count_lookups(int64_t lookups);
  // Asks for the rows of samples [first, first + count) that lie in DRAM and are found by their ids alone, so
  // that they come into the calling core's cache while it does something else. Checks nothing, throws
  // nothing.
  void prefetch(const LookupRequest& request, int64_t first, int64_t count) const;
  // The first half of lookup(): validates, starts the reads from SSD and does all else that can be done
  // without waiting for them. The request's arrays, `out` and the store must stay until the ticket is
  // finished or gone. (Of a call so large that it is served in parts, the later parts are left to
  // Ticket::finish.) At most LookupContexts::kMost tickets and calls can be in flight: throws
  // std::runtime_error when tickets alone are as many.
  Ticket begin(const LookupRequest& request, int64_t first, int64_t count, float* out, int64_t sample_stride,
               DataFlow flow = DataFlow::kSymmetric);
  // The same on other threads than threads(); they must stay as the store must.
  Ticket begin(const LookupRequest& request, int64_t first, int64_t count, float* out, int64_t sample_stride,
               DataFlow flow, ThreadPool& threads);
  // Rows ids[0..n) of one table into out [n, dim].
  void gather(int table, const int64_t* ids, int64_t n, float* out);

  // Updates (row_updates.cc). A row in DRAM is written in its place, in an array that allow_updates() names;
  // one of a tensor train or on SSD is held beside its band and stands before it.

  // `rows`: those that the band was added with. Throws std::invalid_argument.
  void allow_updates(int table, int band, void* rows);
  // Throws std::invalid_argument naming the position in `ids` or `rows` [n, dim] for an id outside the table,
  // a value that is not finite or that the row's format cannot hold, and for a band in DRAM that may not be
  // written. Changes nothing.
  RowUpdate prepare_update(int table, const int64_t* ids, int64_t n, const float* rows);
  // Look-ups that begin later see the new rows, those in progress the old or the new of each; of an id that
  // is in the update twice, the last. Returns the update's stamp: 1 and up.
  std::uint64_t apply(const RowUpdate& update);
  std::uint64_t last_stamp() const { return last_stamp_.load(); }
  // The held rows of a band written by updates up to `stamp`, in the order of their slots.
  struct HeldRows {
    std::vector<int64_t> slots, ids;
    std::vector<unsigned char> rows;
    RowCodec codec;
  };
  HeldRows held_rows(int table, int band, std::uint64_t stamp) const;
  // The band's pages are in another file, checked as add_ssd_band does, which has the held rows written by
  // updates up to `stamp`: these are held no longer. Look-ups in progress read the file before. Where pages
  // were not written, `sparse` says which are, as for add_ssd_band; its arrays must outlive the
  // store.
  void replace_pages(int table, int band, const std::string& path, std::uint64_t stamp,
                     std::unique_ptr<const WrittenPages> sparse);

  StoreStats stats() const;

 private:
  Table& open_table(int table);
  const Table& checked_table(int table) const;
  void check_closed(int table) const;
  Band& checked_band(int table, int band, const char* argument);
  // Of bytes in DRAM; the argument is the difference.
  void count_held(int64_t rows, int64_t bytes);
  void append(int table, Band band, int64_t bytes);
  // Makes what the strategies of all tables need; table `changed` gets a new one.
  void apply_strategies(int changed = -1, Strategy strategy = Strategy::kGather);
  // The range of samples, and where the offsets begin and end; then those of a table.
  void check_request(const LookupRequest& request, int64_t first, int64_t count) const;
  void check_offsets(const LookupRequest& request, size_t table, int64_t first, int64_t count) const;
  int64_t scratch_bytes(const LookupRequest& request, int64_t first, int64_t count) const;
  void choose_io();
  void make_cache();
  PageReader* reader_of(LookupContext& context);
  // lookup() of few ids in tables that are one array each, which needs no working memory: the rows of all
  // tables are asked for before the first is used. False, and nothing done, for what is not of that kind.
  bool lookup_few(const LookupRequest& request, int64_t first, int64_t count, float* out,
                  int64_t sample_stride, DataFlow flow);
  void set_up(LookupContext& context, const LookupRequest& request, int64_t first, int64_t count, float* out,
              int64_t sample_stride, DataFlow flow) const;
  // Samples [first, first + count) of a table; column 0 of the first goes to out.
  Segment segment_of(const LookupRequest& request, int table, int64_t first, int64_t count, float* out,
                     int64_t sample_stride) const;
  // The same of a part, which may have some of these samples and columns only; `out` is as in lookup_part.
  Segment segment_of(const CoreTables::Part& part, const LookupRequest& request, int64_t first, int64_t count,
                     float* out, int64_t sample_stride) const;
  // The segments of the context's next part.
  void add_segments(LookupContext& context) const;
  // The two halves of the next part of a look-up.
  void begin_part(LookupContext& context);
  void finish_part(LookupContext& context);
  void count(const LookupCounts& counts);

  friend class Ticket;

  std::string io_;
  const int queue_depth_;
  ThreadPool threads_;

  const int64_t cache_bytes_;
  const CachePolicy cache_policy_;
  mutable WriterFirstMutex tables_mutex_;  // building excludes look-ups; guards all down to ssd_
  std::vector<std::unique_ptr<Table>> tables_;
  bool all_whole_ = false;  // every table is complete and one array in DRAM
  StrategyArrays strategy_arrays_;
  CoreTables core_tables_;
  SsdBands ssd_;
  std::uint64_t num_tt_bands_ = 0;
  LookupContexts contexts_;
  std::mutex updates_mutex_;  // one update is applied at a time; locked before all others
  std::atomic<std::uint64_t> last_stamp_{0};

  // Statistics do not wait for look-ups.
  mutable std::mutex stats_mutex_;
  StoreStats stats_{};
};

}  // namespace screc
