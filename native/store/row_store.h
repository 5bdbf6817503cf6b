// Rows of huge tables by id, wherever they live: DRAM, tensor-train cores, SSD pages. It knows rows and bytes
// only.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "io/page_reader.h"
#include "store/band.h"
#include "store/lookup.h"

namespace screc {

struct LookupRequest {  // table-major bags, as Batch in src/screc/data/batch.py
  const int64_t* ids;
  int64_t num_ids;
  const int64_t* offsets;  // [num_tables * batch_size + 1], from 0 to num_ids
  int64_t batch_size;
};

// Since the store was made; dram_rows + tt_rows + ssd_rows == lookups. Calls that failed are not counted.
struct StoreStats {
  int64_t lookups;
  int64_t dram_rows, tt_rows, ssd_rows;  // look-ups that ended in each kind of band
  int64_t page_requests;  // pages that the look-ups on SSD needed, before each is read once per call
  int64_t pages_read;
  int64_t bytes_read;
  int64_t dram_bytes;      // rows, cores, indices and the copies of strategies
  std::string io_backend;  // "io_uring" or "pread"; "none" without SSD bands
  bool direct_io;          // false when some file is read through the page cache
  int queue_depth;
  int num_threads;
};

class RowStore {  // all methods are thread-safe; look-ups take turns
 public:
  // io and queue_depth as in make_page_reader; num_threads 0 means one per core. Throws
  // std::invalid_argument.
  RowStore(const std::string& io, int queue_depth, int num_threads);

  // Tables are built up first: add_table, then its bands in the order in which an id is looked up. The last
  // band has no index (IdentityIndex) and a slot for every id; the earlier ones have one slot per id of their
  // index. All throw std::invalid_argument naming the argument and the table.

  // Returns the table's number. `mean`: pooled by mean, not sum.
  int add_table(int64_t num_embeddings, int64_t embedding_dim, bool mean);
  // rows: float32 [num_rows, dim], which must outlive the store, as must the arrays of every index.
  void add_dram_band(int table, const float* rows, int64_t num_rows, int64_t dim, const BandIndex& index);
  // Copies the cores.
  void add_tt_band(int table, const std::vector<TtCoreView>& cores, const BandIndex& index);
  // The file's size and its first and last page are checked here (IoError), every page when it is read.
  void add_ssd_band(int table, const std::string& path, int band, const BandIndex& index);

  // How the table's rows are fetched, 'gather' until it is set. Throws std::invalid_argument where the table
  // cannot have the strategy: its only band must be float32 rows in DRAM, and few enough for it.
  void set_strategy(int table, Strategy strategy);
  Strategy strategy(int table) const;

  int num_tables() const;
  int64_t num_embeddings(int table) const;
  int64_t embedding_dim(int table) const;
  int64_t total_dim() const;                  // sum over the tables
  ThreadPool& threads() { return threads_; }  // the pool that look-ups and the engine share

  // Pools samples [first, first + count) of the request; table t's columns of sample i (0-based within the
  // range) start at out + i * sample_stride + sum of the dims before t. Validates offsets and ids
  // (std::invalid_argument naming table, position, value and the table's rows); an empty bag gives zeros.
  // Throws IoError from the drive.
  void lookup(const LookupRequest& request, int64_t first, int64_t count, float* out, int64_t sample_stride);
  // Rows ids[0..n) of one table into out [n, dim].
  void gather(int table, const int64_t* ids, int64_t n, float* out);

  StoreStats stats() const;

 private:
  Table& open_table(int table);
  const Table& checked_table(int table) const;
  void check_closed(int table) const;
  void append(int table, Band band, int64_t bytes);
  // Makes what the strategies of all tables need; table `changed` gets a new one.
  void apply_strategies(int changed = -1, Strategy strategy = Strategy::kGather);
  void check_offsets(const LookupRequest& request, int64_t first, int64_t count) const;
  int64_t scratch_bytes(const LookupRequest& request, int64_t first, int64_t count) const;
  void lookup_part(const LookupRequest& request, int64_t first, int64_t count, float* out,
                   int64_t sample_stride);
  void count(const LookupCounts& counts);

  const std::string io_;
  const int queue_depth_;
  ThreadPool threads_;

  mutable std::mutex turn_;  // one look-up at a time; guards all down to segments_
  std::vector<std::unique_ptr<Table>> tables_;
  StrategyArrays strategy_arrays_;
  std::vector<const Band*> ssd_bands_;
  std::unique_ptr<PageReader> reader_;  // made for the first SSD band
  Lookup lookup_;
  std::vector<Segment> segments_;

  // Statistics do not wait for look-ups.
  mutable std::mutex stats_mutex_;
  StoreStats stats_{};
};

}  // namespace screc
