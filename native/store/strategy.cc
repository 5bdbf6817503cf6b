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

// A thread's copies share one, so that the core holds one translation for all of them.
constexpr int64_t kHugePage = int64_t{2} << 20;

bool streams(Strategy strategy) {
  return strategy == Strategy::kStream || strategy == Strategy::kPrivateStream;
}

bool has_copies(Strategy strategy) {
  return strategy == Strategy::kPrivate || strategy == Strategy::kPrivateStream;
}

int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Bytes of a member's copies: its rows, and its columns where it is streamed.
int64_t copy_bytes(const StrategyArrays::Member& member) {
  const RowArray& array = member.array;
  int64_t bytes = 0;
  if (has_copies(member.strategy)) bytes += whole_lines(array.bytes());
  if (streams(member.strategy)) {
    bytes += array.codec.dim * RowArray::padded_rows(array.num_rows) * static_cast<int64_t>(sizeof(float));
  }
  return bytes;
}

// The member's array with its copies at `place`.
RowArray copied(const StrategyArrays::Member& member, std::byte* place) {
  RowArray array = member.array;
  if (has_copies(member.strategy)) {
    std::memcpy(place, array.rows, static_cast<size_t>(array.bytes()));
    array.rows = place;
    place += whole_lines(array.bytes());
  }
  if (streams(member.strategy)) {
    const int64_t dim = array.codec.dim, padded = RowArray::padded_rows(array.num_rows);
    auto* columns = reinterpret_cast<float*>(place);
    for (int64_t c = 0; c < dim; ++c) {
      for (int64_t r = 0; r < array.num_rows; ++r) columns[c * padded + r] = array.fp32()[r * dim + c];
    }
    array.columns = columns;
  }
  return array;
}

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

void TableStrategy::pool(const IdBags& bags, int thread) const { kernel_(array(thread), bags); }

void StrategyArrays::check(const RowArray& array, Strategy strategy) {
  if (has_copies(strategy) && array.bytes() > kMaxPrivateBytes) {
    refuse(array, strategy,
           "of at most " + std::to_string(kMaxPrivateBytes) + " bytes, which a core's cache holds");
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

void StrategyArrays::build(const std::vector<Member>& members, int num_threads) {
  const Kernels& k = kernels();
  // Arena 0 is for all threads, the others for one each. Nothing changes until all is allocated.
  std::vector<AlignedBuffer> arenas;
  const auto in_arena = [](const Member& member, int arena) {
    return copy_bytes(member) > 0 && has_copies(member.strategy) == (arena > 0);
  };
  int64_t all_bytes = 0;
  for (int arena = 0; arena <= num_threads; ++arena) {
    int64_t bytes = 0;
    for (const Member& member : members) bytes += in_arena(member, arena) ? copy_bytes(member) : 0;
    if (bytes > 0 && arena > 0) bytes = std::max(bytes, kHugePage);
    arenas.emplace_back(static_cast<size_t>(bytes));
    all_bytes += bytes;
  }
  for (const Member& member : members) {
    TableStrategy& table = *member.table;
    table.strategy_ = member.strategy;
    table.kernel_ = streams(member.strategy)               ? k.stream_ids
                    : member.strategy == Strategy::kCounts ? k.count_ids
                                                           : k.pool_ids;
    table.arrays_.clear();
    if (copy_bytes(member) == 0) table.arrays_.push_back(member.array);
  }
  for (int arena = 0; arena <= num_threads; ++arena) {
    auto* place = arenas[static_cast<size_t>(arena)].as<std::byte>();
    for (const Member& member : members) {
      if (!in_arena(member, arena)) continue;
      member.table->arrays_.push_back(copied(member, place));
      place += copy_bytes(member);
    }
  }
  arenas_ = std::move(arenas);
  bytes_ = all_bytes;
}

}  // namespace screc
