// The strategies of the asymmetric data flow for embedding look-ups (arXiv 2507.01676) in the terms of a CPU:
// how the look-ups of a table that is one array of rows in DRAM are answered.
//
//   gather          rows are fetched one by one from the shared array;
//   private         the same from a copy that belongs to the worker thread, side by side with the copies of
//                   other private tables: they stay in its core's private cache, and no line of it is shared;
//   stream          a very small table passes column by column through registers, where permutations answer
//                   many look-ups at once;
//   private_stream  the same from a copy that belongs to the worker thread;
//   counts          a bag becomes its number of look-ups of each row, which multiplies the table.
//
// All but the first two are for fp32.
//
// Answers are the same to the bit, but for those of `counts` in bags of several look-ups: a row's look-ups
// are added as one product there, and the error is at most (num_rows + 1) * 2^-24 * sum(|terms|).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/id_bags.h"

namespace screc {

enum class Strategy { kGather, kPrivate, kStream, kPrivateStream, kCounts };

const char* strategy_name(Strategy strategy);
// Throws std::invalid_argument naming the value and the accepted ones.
Strategy parse_strategy(std::string_view name);
// Whether it reads copies that belong to one thread.
bool has_copies(Strategy strategy);

// Throws std::invalid_argument with the reason when a table cannot have the strategy. max_copy_bytes: most
// that one copy may have.
void check_strategy(const RowArray& array, Strategy strategy, int64_t max_copy_bytes);

// An array as a strategy reads it.
struct StrategyRows {
  RowArray array;
  void (*kernel)(const RowArray&, const IdBags&) = nullptr;

  void pool(const IdBags& bags) const { kernel(array, bags); }
};

// A thread's copies share at least so much, a huge page, so that its core holds one translation for all.
constexpr int64_t kPrivateArenaBytes = int64_t{2} << 20;

// Bytes of the memory that a strategy needs beside the array, whole cache lines.
int64_t strategy_bytes(const RowArray& array, Strategy strategy);
// Fills that memory from the array's rows.
StrategyRows make_strategy_rows(const RowArray& array, Strategy strategy, std::byte* place);

// Brings what was made of an array up to date where one of the array's rows has changed.
void refresh_row(const StrategyRows& made, const RowArray& array, int64_t row);

// The arrays that a table's strategy reads, one for every worker thread or one for all.
class TableStrategy {
 public:
  Strategy strategy() const { return strategy_; }
  // What the thread's look-ups read. A pool of more threads than the store's own lends its threads the first
  // copy.
  const StrategyRows& rows(int thread) const {
    return rows_[static_cast<size_t>(thread) < rows_.size() ? static_cast<size_t>(thread) : 0];
  }
  // A row of the shared array has changed.
  void refresh(const RowArray& array, int64_t row) {
    for (const StrategyRows& rows : rows_) refresh_row(rows, array, row);
  }

 private:
  friend class StrategyArrays;

  Strategy strategy_ = Strategy::kGather;
  std::vector<StrategyRows> rows_;  // one, or one for every thread
};

// Owner of the copies that strategies need, laid out thread by thread.
class StrategyArrays {
 public:
  // Most bytes of a table of which every thread may have a copy: larger ones would not stay in a core's
  // cache.
  static constexpr int64_t kMaxPrivateBytes = int64_t{1} << 20;

  struct Member {
    RowArray array;  // rows of the shared array
    Strategy strategy;
    TableStrategy* table;  // set anew
  };

  // Makes the copies of all members from their rows; those made before are freed.
  void build(const std::vector<Member>& members, int num_threads);
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<AlignedBuffer> arenas_;  // the shared one, then every thread's
  int64_t bytes_ = 0;
};

}  // namespace screc
