#include "store/row_store.h"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "kernels/kernels.h"

namespace screc {

RowStore::RowStore(const std::string&, int, int num_threads) : threads_(num_threads) {
  scratch_.resize(static_cast<size_t>(threads_.num_threads()));
}

int RowStore::add_table(int64_t num_embeddings, int64_t embedding_dim, bool mean) {
  tables_.push_back({num_embeddings, embedding_dim, mean, nullptr, total_dim()});
  return num_tables() - 1;
}

void RowStore::add_dram_band(int table, const float* rows, int64_t num_rows) {
  Table& t = tables_.at(static_cast<size_t>(table));
  if (num_rows != t.num_rows) throw std::invalid_argument("rows: wrong number of rows");
  t.rows = rows;
}

int64_t RowStore::total_dim() const {
  int64_t sum = 0;
  for (const Table& table : tables_) sum += table.dim;
  return sum;
}

void RowStore::lookup(const LookupRequest& request, int64_t first, int64_t count, float* out,
                      int64_t sample_stride) {
  std::lock_guard<std::mutex> turn(mutex_);
  constexpr int64_t kPiece = 128;
  const int64_t pieces = (count + kPiece - 1) / kPiece;
  const auto body = [&](int64_t begin, int64_t end, int thread) {
    Scratch& scratch = scratch_[static_cast<size_t>(thread)];
    for (int64_t work = begin; work < end; ++work) {
      const size_t t = static_cast<size_t>(work / pieces);
      const Table& table = tables_[t];
      const int64_t sample = work % pieces * kPiece, n = std::min(kPiece, count - sample);
      const int64_t* offsets =
          request.offsets + static_cast<int64_t>(t) * request.batch_size + first + sample;
      scratch.rows.clear();
      scratch.offsets.assign(1, 0);
      for (int64_t i = 0; i < n; ++i) {
        if (offsets[i] < 0 || offsets[i + 1] < offsets[i] || offsets[i + 1] > request.num_ids) {
          throw std::invalid_argument("table " + std::to_string(t) + ": bad offsets");
        }
        for (int64_t k = offsets[i]; k < offsets[i + 1]; ++k) {
          const int64_t id = request.ids[k];
          if (id < 0 || id >= table.num_rows) {
            throw std::invalid_argument("table " + std::to_string(t) + ": ids[" + std::to_string(k) +
                                        "] = " + std::to_string(id) + " is out of range for " +
                                        std::to_string(table.num_rows) + " rows");
          }
          scratch.rows.push_back(table.rows + id * table.dim);
        }
        scratch.offsets.push_back(static_cast<int64_t>(scratch.rows.size()));
      }
      lookups_ += static_cast<int64_t>(scratch.rows.size());
      kernels().pool_rows(scratch.rows.data(), scratch.offsets.data(), n, table.dim, table.mean,
                          out + sample * sample_stride + table.column, sample_stride);
    }
  };
  const int64_t total = pieces * num_tables();
  threads_.parallel_for(total, count * num_tables() < 512 ? total : 1, std::ref(body));
}

void RowStore::gather(int table, const int64_t* ids, int64_t n, float* out) {
  const Table& t = tables_.at(static_cast<size_t>(table));
  kernels().gather_rows(t.rows, t.dim, ids, n, out);
}

}  // namespace screc
