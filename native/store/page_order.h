// Which rows share a page: rows that are read together should (docs/format.md, "Layouts and addressing").
//
// Recursive bisection of the rows (Dhulipala et al., KDD 2016, arXiv 1602.08820; the hypergraph view is
// Bandana's, arXiv 1811.05922): a group is a set of rows that were read together, and a range of pages is cut
// in two so that groups lie, as far as possible, on one side. What a cut costs is the log-gap cost of that
// paper; it still tells hot from cold where a group is so large that it touches both sides however they are
// cut, which is why rows that are not related at all end up ordered by frequency.
//
// Work: about (row, group) pairs * levels * iterations, levels = log2(pages). Memory: 16 bytes a group a
// thread and 24 bytes a row, besides the input.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"

namespace screc {

// Row i was read with groups [starts[i], starts[i + 1]) of `groups`, each < num_groups and each once.
struct RowGroups {
  const std::int64_t* starts;  // [num_rows + 1]
  const std::uint32_t* groups;
  std::int64_t num_rows;
  std::int64_t num_groups;
};

// Orders the rows 0 to num_rows - 1 into pages of `rows_per_page`; `order` [num_rows] holds the first order
// on entry, any permutation (by frequency does well). The answer depends on the input alone, not on the
// threads. Throws std::invalid_argument when the input is not as described above.
void order_by_co_access(const RowGroups& rows, std::int64_t rows_per_page, int iterations, ThreadPool* pool,
                        std::uint32_t* order);

}  // namespace screc
