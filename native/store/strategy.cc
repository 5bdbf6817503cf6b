#include "store/strategy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "kernels/kernels.h"

namespace screc {
namespace {

constexpr Strategy kAll[] = {Strategy::kGather, Strategy::kPrivate, Strategy::kStream,
                             Strategy::kPrivateStream, Strategy::kCounts};

bool streams(Strategy strategy) {
  return strategy == Strategy::kStream || strategy == Strategy::kPrivateStream;
}

int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

[[noreturn]] void refuse(const RowArray& array, Strategy strategy, const std::string& why) {
  throw std::invalid_argument("strategy '" + std::string(strategy_name(strategy)) + "' is for tables " + why +
                              "; this one has " + std::to_string(array.num_rows) + " rows of " +
                              std::to_string(array.codec.dim) + " columns in " +
                              row_format_name(array.codec.format) + ": use 'gather'");
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

bool has_copies(Strategy strategy) {
  return strategy == Strategy::kPrivate || strategy == Strategy::kPrivateStream;
}

void check_strategy(const RowArray& array, Strategy strategy, int64_t max_copy_bytes) {
  if (has_copies(strategy) && array.bytes() > max_copy_bytes) {
    refuse(array, strategy,
           "of at most " + std::to_string(max_copy_bytes) + " bytes, which a core's cache holds");
  }
  if (strategy == Strategy::kGather || strategy == Strategy::kPrivate) return;
  if (array.codec.format != RowFormat::kFp32) refuse(array, strategy, "of fp32 rows");
  const int64_t most = streams(strategy) ? RowArray::kMaxStreamed : RowArray::kMaxCounted;
  if (array.num_rows > most) refuse(array, strategy, "of at most " + std::to_string(most) + " rows");
  if (strategy != Strategy::kCounts) return;
  // A row that is not in the bag is multiplied with 0.
  const float* end = array.fp32() + array.num_rows * array.codec.dim;
  if (!std::all_of(array.fp32(), end, [](float x) { return std::isfinite(x); })) {
    refuse(array, strategy, "whose entries are all finite");
  }
}

// Its rows, and its columns where it is streamed.
int64_t strategy_bytes(const RowArray& array, Strategy strategy) {
  int64_t bytes = 0;
  if (has_copies(strategy)) bytes += whole_lines(array.bytes());
  if (streams(strategy)) {
    bytes += array.codec.dim * RowArray::padded_rows(array.num_rows) * static_cast<int64_t>(sizeof(float));
  }
  return bytes;
}

StrategyRows make_strategy_rows(const RowArray& array, Strategy strategy, std::byte* place) {
  const Kernels& k = kernels();
  StrategyRows made{array, streams(strategy)               ? k.stream_ids
                           : strategy == Strategy::kCounts ? k.count_ids
                                                           : k.pool_ids};
  if (has_copies(strategy)) {
    std::memcpy(place, array.rows, static_cast<size_t>(array.bytes()));
    made.array.rows = place;
    place += whole_lines(array.bytes());
  }
  if (streams(strategy)) {
    const int64_t dim = array.codec.dim, padded = RowArray::padded_rows(array.num_rows);
    auto* columns = reinterpret_cast<float*>(place);
    for (int64_t c = 0; c < dim; ++c) {
      for (int64_t r = 0; r < array.num_rows; ++r) columns[c * padded + r] = array.fp32()[r * dim + c];
    }
    made.array.columns = columns;
  }
  return made;
}

void refresh_row(const StrategyRows& made, const RowArray& array, int64_t row) {
  const int64_t row_bytes = array.codec.row_bytes(), dim = array.codec.dim;
  if (made.array.rows != array.rows) {
    // The copy is StrategyArrays' or CoreTables' own.
    std::memcpy(const_cast<std::byte*>(made.array.rows) + row * row_bytes, array.rows + row * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  if (made.array.columns == nullptr) return;
  auto* columns = const_cast<float*>(made.array.columns) + row;
  const int64_t padded = RowArray::padded_rows(array.num_rows);
  for (int64_t c = 0; c < dim; ++c) columns[c * padded] = array.fp32()[row * dim + c];
}

void StrategyArrays::build(const std::vector<Member>& members, int num_threads) {
  // Arena 0 is for all threads, the others for one each. Nothing changes until all is allocated.
  std::vector<AlignedBuffer> arenas;
  const auto in_arena = [](const Member& member, int arena) {
    return has_copies(member.strategy) == (arena > 0);
  };
  int64_t all_bytes = 0;
  for (int arena = 0; arena <= num_threads; ++arena) {
    int64_t bytes = 0;
    for (const Member& member : members) {
      if (in_arena(member, arena)) bytes += strategy_bytes(member.array, member.strategy);
    }
    if (bytes > 0 && arena > 0) bytes = std::max(bytes, kPrivateArenaBytes);
    arenas.emplace_back(static_cast<size_t>(bytes));
    all_bytes += bytes;
  }
  for (const Member& member : members) {
    member.table->strategy_ = member.strategy;
    member.table->rows_.clear();
  }
  for (int arena = 0; arena <= num_threads; ++arena) {
    auto* place = arenas[static_cast<size_t>(arena)].as<std::byte>();
    for (const Member& member : members) {
      if (!in_arena(member, arena)) continue;
      member.table->rows_.push_back(make_strategy_rows(member.array, member.strategy, place));
      place += strategy_bytes(member.array, member.strategy);
    }
  }
  arenas_ = std::move(arenas);
  bytes_ = all_bytes;
}

}  // namespace screc
