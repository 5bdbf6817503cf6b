#include "store/strategy.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/kernels.h"

namespace screc {
namespace {

constexpr Strategy kAll[] = {Strategy::kGather, Strategy::kPrivate, Strategy::kStream,
                             Strategy::kPrivateStream, Strategy::kCounts};

bool streams(Strategy strategy) {
  return strategy == Strategy::kStream || strategy == Strategy::kPrivateStream;
}

bool has_copies(Strategy strategy) {
  return strategy == Strategy::kPrivate || strategy == Strategy::kPrivateStream;
}

// Floats to the next cache line, where the next array begins.
int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

int64_t column_floats(const RowArray& array) { return array.dim * RowArray::padded_rows(array.num_rows); }

// Floats of a member's copy: its rows, and its columns where it is streamed.
int64_t copy_floats(const StrategyArrays::Member& member) {
  int64_t floats = 0;
  if (has_copies(member.strategy)) floats += whole_lines(member.array.num_rows * member.array.dim);
  if (streams(member.strategy)) floats += column_floats(member.array);
  return floats;
}

// The member's array with its copies at `place`.
RowArray copied(const StrategyArrays::Member& member, float* place) {
  RowArray array = member.array;
  if (has_copies(member.strategy)) {
    std::copy_n(member.array.rows, array.num_rows * array.dim, place);
    array.rows = place;
    place += whole_lines(array.num_rows * array.dim);
  }
  if (streams(member.strategy)) {
    const int64_t padded = RowArray::padded_rows(array.num_rows);
    for (int64_t c = 0; c < array.dim; ++c) {
      for (int64_t r = 0; r < array.num_rows; ++r) place[c * padded + r] = array.rows[r * array.dim + c];
    }
    array.columns = place;
  }
  return array;
}

void refuse(const RowArray& array, Strategy strategy, const std::string& why) {
  throw std::invalid_argument("strategy '" + std::string(strategy_name(strategy)) + "' " + why +
                              "; this table has " + std::to_string(array.num_rows) + " rows of " +
                              std::to_string(array.dim) + " columns: use 'gather'");
}

}  // namespace

const char* strategy_name(Strategy strategy) {
  switch (strategy) {
    case Strategy::kGather:
      return "gather";
    case Strategy::kPrivate:
      return "private";
    case Strategy::kStream:
      return "stream";
    case Strategy::kPrivateStream:
      return "private_stream";
    case Strategy::kCounts:
      return "counts";
  }
  return "unknown";
}

Strategy parse_strategy(std::string_view name) {
  for (Strategy strategy : kAll) {
    if (name == strategy_name(strategy)) return strategy;
  }
  throw std::invalid_argument("strategy '" + std::string(name) +
                              "' is unknown; use gather, private, stream, private_stream or counts");
}

void TableStrategy::pool(const IdBags& bags, int thread) const { kernel_(array(thread), bags); }

void StrategyArrays::check(const RowArray& array, Strategy strategy) {
  const int64_t bytes = array.num_rows * array.dim * static_cast<int64_t>(sizeof(float));
  if (has_copies(strategy) && bytes > kMaxPrivateBytes) {
    refuse(array, strategy,
           "is for tables of at most " + std::to_string(kMaxPrivateBytes) +
               " bytes, which a core's cache holds");
  }
  if (streams(strategy) && array.num_rows > RowArray::kMaxStreamed) {
    refuse(array, strategy,
           "is for tables of at most " + std::to_string(RowArray::kMaxStreamed) +
               " rows, which the registers hold");
  }
  if (strategy != Strategy::kCounts) return;
  if (array.num_rows > RowArray::kMaxCounted) {
    refuse(array, strategy, "is for tables of at most " + std::to_string(RowArray::kMaxCounted) + " rows");
  }
  // A row that is not in the bag is multiplied with 0.
  const float* end = array.rows + array.num_rows * array.dim;
  if (!std::all_of(array.rows, end, [](float x) { return std::isfinite(x); })) {
    refuse(array, strategy, "is for tables whose entries are all finite, and here one is not");
  }
}

void StrategyArrays::build(const std::vector<Member>& members, int num_threads) {
  const Kernels& k = kernels();
  std::vector<AlignedBuffer> arenas;
  bytes_ = 0;
  for (const Member& member : members) {
    TableStrategy& table = *member.table;
    table.strategy_ = member.strategy;
    table.kernel_ = streams(member.strategy)               ? k.stream_ids
                    : member.strategy == Strategy::kCounts ? k.count_ids
                                                           : k.pool_ids;
    table.arrays_.clear();
    if (copy_floats(member) == 0) table.arrays_.push_back(member.array);
  }
  for (int owner = 0; owner <= num_threads; ++owner) {  // 0 is all threads
    const auto here = [&](const Member& m) {
      return copy_floats(m) > 0 && has_copies(m.strategy) == (owner > 0);
    };
    int64_t floats = 0;
    for (const Member& member : members) floats += here(member) ? copy_floats(member) : 0;
    arenas.emplace_back(static_cast<size_t>(floats) * sizeof(float));
    bytes_ += floats * static_cast<int64_t>(sizeof(float));
    float* place = arenas.back().as<float>();
    for (const Member& member : members) {
      if (!here(member)) continue;
      member.table->arrays_.push_back(copied(member, place));
      place += copy_floats(member);
    }
  }
  arenas_ = std::move(arenas);
}

}  // namespace screc
