// Asymmetric mapping (arXiv 2507.01676): tables belong to cores. Where every core answers a part of the
// samples from all tables, each core's private cache holds what is hot of all of them; where a core answers
// all samples from its own tables only, the private caches add up.
//
// A table may belong to one core, or to several: by columns, each core holds some columns of every row and
// does its part of every look-up, whichever rows are asked for; by samples, each core has all of the table
// and answers its part of the samples. A table that belongs to no core is parted by samples among all, as
// they come. (Shards of rows were left out: bags would be added up in another order, and a hot row would make
// its core the slowest.)
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "store/strategy.h"

namespace screc {

enum class Split { kColumns, kSamples };

const char* split_name(Split split);
// Throws std::invalid_argument naming the value and the accepted ones.
Split parse_split(std::string_view name);

// Whose a table is and how its rows are fetched there. Cores are numbers of threads of the store's pool.
struct TableCores {
  Strategy strategy = Strategy::kGather;
  std::vector<int> cores = {};
  Split split = Split::kColumns;  // among several cores
};

// What the cores have of all tables, and the owner of their copies.
class CoreTables {
 public:
  // Most bytes that a core may hold of a table as a copy.
  static constexpr int64_t kMaxPrivateBytes = int64_t{2} << 20;

  struct Member {
    RowArray array;  // its rows; null where the table is not one array
    int64_t dim;
    const TableCores* cores;
  };

  static constexpr int kNobody = -1;

  struct Part {
    int table, core;
    int64_t first_column;               // of all tables' columns, side by side
    int64_t sample_part, sample_parts;  // of the samples of a call
    bool counts;  // of parts that do the same look-ups, each some columns, the first counts them
    StrategyRows rows;
  };

  CoreTables() = default;
  // Throws std::invalid_argument naming the table and the reason.
  CoreTables(const std::vector<Member>& tables, int num_threads);

  bool empty() const { return whole_.empty(); }
  // Of all tables that are one array: those of nobody first, then core by core.
  const std::vector<Part>& parts() const { return parts_; }
  // Whether the table has parts: it is one array.
  bool has_parts(size_t table) const { return whole_[table]; }
  bool has_all_parts() const { return std::find(whole_.begin(), whole_.end(), false) == whole_.end(); }
  int64_t bytes() const { return bytes_; }
  // A row of a table's array has changed; the table's columns begin at `first_column` of all.
  void refresh(int table, const RowArray& array, int64_t first_column, int64_t row);

 private:
  // Appends the core's parts, or those of kNobody.
  void add_parts(const std::vector<Member>& tables, int core);

  std::vector<bool> whole_;  // by table
  std::vector<Part> parts_;
  std::vector<AlignedBuffer> arenas_;  // nobody's, then core by core
  int64_t bytes_ = 0;
};

}  // namespace screc
