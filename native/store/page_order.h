// Which rows share a page: rows that are read together should (docs/format.md, "Layouts and addressing").
//
// Recursive bisection of the rows (Dhulipala et al., KDD 2016, arXiv 1602.08820; the hypergraph view is
// Bandana's, arXiv 1811.05922): a group is a set of rows that were read together, and a range of pages is cut
// in two so that groups lie, as far as possible, on one side. What a cut costs is the log-gap cost of that
// paper; it still tells hot from cold where a group is so large that it touches both sides however they are
// cut, which is why rows that are not related at all end up ordered by frequency.
//
// Each half is cut further on its own: it keeps of each group what lies in it, and forgets groups of which it
// has only one row, for those cost the same wherever they are. So the work shrinks level by level, and fits
// into a core's cache soon.
//
// Work: about pairs * levels * iterations at most, levels = log2(pages). Memory: about 16 bytes a pair and 16
// a row, besides the input.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"

namespace screc {

// Row rows[i] was read with group groups[i]; each pair once, rows < num_rows, groups < num_groups.
struct RowGroups {
  const std::uint32_t *rows, *groups;
  std::int64_t num_pairs, num_rows, num_groups;
};

// Orders the rows 0 to num_rows - 1 into pages of `rows_per_page`; `order` [num_rows] holds the first order
// on entry, any permutation (by frequency does well). The answer depends on the input alone, not on the
// threads. Throws std::invalid_argument when the input is not as described above.
void order_by_co_access(const RowGroups& pairs, std::int64_t rows_per_page, int iterations, ThreadPool* pool,
                        std::uint32_t* order);

}  // namespace screc
