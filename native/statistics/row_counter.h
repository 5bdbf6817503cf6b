// How often every row of one table is looked up, in bounded memory: exact as long as the rows that occur fit,
// then with bounds that are stated row by row.
//
// A small table has a counter for each row. Others count the rows that occur in a map. When the map is full
// it forgets the half of its rows that were looked up least (Misra and Gries, 1982, with the median as the
// amount that is taken from all at once: Anderson et al., IMC 2017), and the most that a forgotten row can
// have been looked up is the *offset*. A row that comes (back) later starts at 1 and keeps the offset of that
// moment as its error. So at any time
//
//     count <= look-ups <= count + error      of a row in the map (error 0: exact),
//     look-ups <= offset <= 2 N / m           of any other row,
//
// N being the look-ups counted and m the rows that the map holds when it is full.
//
// What the map forgets is known by a sample: rows are chosen by their hash, each with the same probability
// 2^-level, and counted exactly from their first look-up on (Gibbons, VLDB 2001: distinct sampling). The map,
// while it is still exact, holds all of them, so the sample costs nothing before it is needed. It tells how
// many rows there are by number of look-ups, with a relative standard error of 1 / sqrt(rows in the sample).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "statistics/count_map.h"

namespace screc {

// What was counted. Ranked rows stand in descending order of their counts, equal ones by ascending id.
struct RankedRows {
  std::vector<std::int64_t> ids, counts;
  std::vector<std::uint32_t> errors;  // empty where all counts are exact, and then what follows says nothing
  std::int64_t unranked_bound = 0;    // no row outside `ids` was looked up more often
  int sample_level = 0;               // every row was in the sample with probability 2^-level
  std::vector<std::int64_t> unranked_sample;  // counts of the rows in the sample that are not in `ids`
  std::int64_t sample_rows = 0;               // rows in the sample, ranked or not
  std::int64_t sample_singletons = 0;         // of these, rows looked up once
};

class RowCounter {
 public:
  // Counters take at most `max_bytes`, and so does their result (16 bytes a row, and 4 where there are
  // errors): a counter for each row where that is certain to hold, else a map and later a sample. `table` is
  // for messages. Throws std::invalid_argument unless num_embeddings >= 1 and max_bytes >= kLeastBytes.
  RowCounter(std::string table, std::int64_t num_embeddings, std::int64_t max_bytes);

  static constexpr std::int64_t kLeastBytes = 2048;

  // Throws std::invalid_argument for an id outside the table, and then counts none of them.
  void add(const std::int64_t* ids, std::int64_t n);

  const std::string& table() const { return table_; }
  std::int64_t num_lookups() const { return num_lookups_; }
  bool exact() const { return offset_ == 0; }
  // Of counters, map and sample as they are now.
  std::int64_t bytes() const;

  // Ends counting and frees all counters; the result takes their place. While it is made, both are in memory.
  RankedRows finish();

 private:
  void add_to_map(const std::int64_t* ids, std::int64_t n);
  void add_to_sample(std::uint64_t hash, std::uint64_t key, std::uint64_t count);
  bool sampled(std::uint64_t hash) const { return (hash & ((std::uint64_t{1} << sample_level_) - 1)) == 0; }
  void forget_half();
  // The least number that at least half of the rows in the map exceed the offset by at most.
  std::uint64_t median_above_offset() const;
  RankedRows rank_all() const;
  RankedRows rank_map();

  std::string table_;
  std::int64_t num_embeddings_;
  std::int64_t num_lookups_ = 0;
  AlignedBuffer counts_;         // int64 by id, where every row has a counter
  std::optional<CountMap> map_;  // values: see Tally in the source
  std::int64_t sample_bytes_ = 0;
  std::optional<CountMap> sample_;  // values: counts
  int sample_level_ = 0;
  std::uint64_t offset_ = 0;
};

}  // namespace screc
