// A query, what one request asks of a model, in the forms in which clients send it; and how queries become
// the batches that an engine takes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "store/row_store.h"

namespace screc {

// The features of some samples in some tables: of all samples, or the ones that all samples share. The arrays
// must stay as long as the query is worked on.
struct QueryPart {
  const float* dense = nullptr;  // [samples, the part's columns]
  // One id for each bag ...
  const int64_t* categorical = nullptr;  // [samples, the part's tables]
  // ... or bags, table-major.
  const int64_t* ids = nullptr;
  int64_t num_ids = 0;
  const int64_t* offsets = nullptr;  // [the part's tables * samples + 1], from 0 to num_ids
};

// Which tables and dense columns a query gives once, for all of its samples (the context: a user), and which
// for each sample (a candidate). In the plain form the context is empty.
class QueryForm {
 public:
  struct TableName {
    std::string name;
    int64_t num_embeddings;
  };

  // Throws std::invalid_argument naming a table or column that is out of range or given twice.
  QueryForm(std::vector<TableName> tables, int64_t num_dense, const std::vector<int>& context_tables,
            const std::vector<int>& context_columns);

  int num_tables() const { return static_cast<int>(tables_.size()); }
  int64_t num_dense() const { return num_dense_; }
  int context_tables() const { return context_tables_; }
  int64_t context_columns() const { return static_cast<int64_t>(context_column_numbers_.size()); }
  bool plain() const { return context_tables_ == 0 && context_column_numbers_.empty(); }
  const std::string& table_name(int table) const { return tables_[static_cast<size_t>(table)].name; }
  int64_t num_embeddings(int table) const { return tables_[static_cast<size_t>(table)].num_embeddings; }

  // Whether the context has the table, and the table's place among those of its part.
  bool in_context(int table) const { return places_[static_cast<size_t>(table)].context; }
  int place(int table) const { return places_[static_cast<size_t>(table)].place; }
  // The model's columns that each part gives, in the part's order.
  const std::vector<int>& context_column_numbers() const { return context_column_numbers_; }
  const std::vector<int>& candidate_column_numbers() const { return candidate_column_numbers_; }

 private:
  struct Place {
    bool context;
    int place;
  };
  std::vector<TableName> tables_;
  int64_t num_dense_;
  int context_tables_;
  std::vector<Place> places_;
  std::vector<int> context_column_numbers_, candidate_column_numbers_;
};

struct Query {
  const QueryForm* form;
  int64_t batch_size;
  QueryPart candidates, context;  // of batch_size samples, and of one
};

// Throws std::invalid_argument naming the tensor, the place and the value: a dense value that is not finite,
// offsets that decrease or do not end at the number of ids, an id that its table has no row for. Everything
// else that runs a query may rely on this.
void check(const Query& query);

// Samples [first, first + count) of a query.
struct QueryRange {
  const Query* query;
  int64_t first, count;
};

// A batch made of ranges of queries of one model. It keeps its memory, so that after warm-up none is taken.
class JoinedBatch {
 public:
  // Joins them in order. A whole query in the plain form and in bags is used where it lies.
  void join(const std::vector<QueryRange>& ranges);
  const float* dense() const { return dense_; }
  const LookupRequest& request() const { return request_; }

 private:
  void join_dense(const std::vector<QueryRange>& ranges, int64_t samples);
  void join_ids(const std::vector<QueryRange>& ranges, int64_t samples);

  std::vector<float> own_dense_;
  std::vector<int64_t> own_ids_, own_offsets_;
  const float* dense_ = nullptr;
  LookupRequest request_{};
};

}  // namespace screc
