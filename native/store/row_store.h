// Tables whose rows are all float32 in DRAM, looked up in parallel.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/thread_pool.h"

namespace screc {

struct LookupRequest {  // table-major bags, as Batch in src/screc/data/batch.py
  const int64_t* ids;
  int64_t num_ids;
  const int64_t* offsets;
  int64_t batch_size;
};

class RowStore {
 public:
  RowStore(const std::string& io, int queue_depth, int num_threads);

  int add_table(int64_t num_embeddings, int64_t embedding_dim, bool mean);
  void add_dram_band(int table, const float* rows, int64_t num_rows);

  int num_tables() const { return static_cast<int>(tables_.size()); }
  int64_t embedding_dim(int table) const { return tables_[static_cast<size_t>(table)].dim; }
  int64_t total_dim() const;
  ThreadPool& threads() { return threads_; }

  void lookup(const LookupRequest& request, int64_t first, int64_t count, float* out, int64_t sample_stride);
  void gather(int table, const int64_t* ids, int64_t n, float* out);
  int64_t num_lookups() const { return lookups_; }

 private:
  struct Table {
    int64_t num_rows, dim;
    bool mean;
    const float* rows;
    int64_t column;
  };
  struct Scratch {
    std::vector<const float*> rows;
    std::vector<int64_t> offsets;
  };

  std::mutex mutex_;
  ThreadPool threads_;
  std::vector<Table> tables_;
  std::vector<Scratch> scratch_;
  std::atomic<int64_t> lookups_{0};
};

}  // namespace screc
