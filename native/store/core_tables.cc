#include "store/core_tables.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace screc {
namespace {

std::string text(int64_t value) { return std::to_string(value); }

[[noreturn]] void refuse(size_t table, const std::string& why) {
  throw std::invalid_argument("mapping: table " + std::to_string(table) + " " + why);
}

// Columns from `first` on of rows [row, row + count) of the array, as `part` has them, to `place`, where the
// part's rows begin. Codes keep their rows' scales.
void copy_columns(const RowArray& array, const RowArray& part, int64_t first, int64_t row, int64_t count,
                  std::byte* place) {
  RowCodec before = array.codec;
  before.dim = first;
  const int64_t header = array.codec.header_bytes();
  const int64_t from_bytes = array.codec.row_bytes(), to_bytes = part.codec.row_bytes();
  const int64_t skipped = before.row_bytes() - header;
  for (const int64_t end = row + count; row < end; ++row) {
    const std::byte* from = array.rows + row * from_bytes;
    std::byte* to = place + row * to_bytes;
    std::memcpy(to, from, static_cast<size_t>(header));
    std::memcpy(to + header, from + header + skipped, static_cast<size_t>(to_bytes - header));
  }
}

// Columns [first, first + count) of the array's rows, side by side at `place`.
RowArray take_columns(const RowArray& array, int64_t first, int64_t count, std::byte* place) {
  RowArray part = array;
  part.codec.dim = count;
  part.whole_dim = array.codec.dim;
  part.rows = place;
  copy_columns(array, part, first, 0, array.num_rows, place);
  return part;
}

// Where the k-th of n parts of the columns begins: at whole cache lines of fp32 where there are enough.
int64_t column_begin(int64_t dim, int64_t k, int64_t n) {
  const int64_t unit = dim >= 16 * n ? 16 : 2;  // two codes of int4 are a byte
  return k == n ? dim : dim * k / n / unit * unit;
}

void check(size_t number, const CoreTables::Member& member, int num_threads) {
  const TableCores& own = *member.cores;
  if (member.array.rows == nullptr) {
    if (own.cores.empty() && own.strategy == Strategy::kGather) return;
    refuse(number, "has other bands than rows in DRAM: give it no core and strategy 'gather'");
  }
  if (own.cores.empty() && has_copies(own.strategy)) {
    refuse(number, "has strategy '" + std::string(strategy_name(own.strategy)) + "' and no core to hold it");
  }
  for (size_t i = 0; i < own.cores.size(); ++i) {
    if (own.cores[i] < 0 || own.cores[i] >= num_threads) {
      refuse(number, "has core " + text(own.cores[i]) + ", there are " + text(num_threads));
    }
    if (i > 0 && own.cores[i] <= own.cores[i - 1]) {
      refuse(number,
             "has cores that do not ascend: core " + text(own.cores[i]) + " after " + text(own.cores[i - 1]));
    }
  }
  const auto n = static_cast<int64_t>(own.cores.size());
  try {
    if (n <= 1 || own.split == Split::kSamples) {
      check_strategy(member.array, own.strategy, CoreTables::kMaxPrivateBytes);
    } else if (own.strategy != Strategy::kPrivate) {
      throw std::invalid_argument("can be split by columns with strategy 'private' only, got '" +
                                  std::string(strategy_name(own.strategy)) + "'");
    } else if (member.dim < 2 * n) {
      throw std::invalid_argument("has " + text(member.dim) + " columns, too few to split among " + text(n) +
                                  " cores");
    } else {
      RowArray part = member.array;
      for (int64_t k = 0; k < n; ++k) {
        part.codec.dim = column_begin(member.dim, k + 1, n) - column_begin(member.dim, k, n);
        check_strategy(part, own.strategy, CoreTables::kMaxPrivateBytes);
      }
    }
  } catch (const std::invalid_argument& error) {
    refuse(number, error.what());
  }
}

}  // namespace

const char* split_name(Split split) { return split == Split::kColumns ? "columns" : "samples"; }

Split parse_split(std::string_view name) {
  if (name == "columns") return Split::kColumns;
  if (name == "samples") return Split::kSamples;
  throw std::invalid_argument("split '" + std::string(name) + "' is unknown; use columns or samples");
}

CoreTables::CoreTables(const std::vector<Member>& tables, int num_threads) {
  for (size_t number = 0; number < tables.size(); ++number) check(number, tables[number], num_threads);
  for (int core = kNobody; core < num_threads; ++core) add_parts(tables, core);
  for (const Member& member : tables) whole_.push_back(member.array.rows != nullptr);
}

void CoreTables::refresh(int table, const RowArray& array, int64_t first_column, int64_t row) {
  for (const Part& part : parts_) {
    if (part.table != table) continue;
    const RowArray& held = part.rows.array;
    if (held.whole_dim == 0) {
      refresh_row(part.rows, array, row);
    } else {
      copy_columns(array, held, part.first_column - first_column, row, 1,
                   const_cast<std::byte*>(held.rows));  // in an arena of ours
    }
  }
}

void CoreTables::add_parts(const std::vector<Member>& tables, int core) {
  struct Held {
    const Member* member;
    int64_t begin, count;  // columns
    int64_t bytes;
  };
  std::vector<Held> held;
  int64_t bytes = 0, first_column = 0;
  for (size_t number = 0; number < tables.size(); ++number) {
    const Member& member = tables[number];
    const TableCores& own = *member.cores;
    const int64_t column = std::exchange(first_column, first_column + member.dim);
    if (member.array.rows == nullptr) continue;
    int64_t k = 0, n = 1;
    if (core == kNobody) {
      if (!own.cores.empty()) continue;
    } else {
      const auto here = std::find(own.cores.begin(), own.cores.end(), core);
      if (here == own.cores.end()) continue;
      k = here - own.cores.begin(), n = static_cast<int64_t>(own.cores.size());
    }
    const bool by_columns = n > 1 && own.split == Split::kColumns;
    const int64_t begin = by_columns ? column_begin(member.dim, k, n) : 0;
    const int64_t end = by_columns ? column_begin(member.dim, k + 1, n) : member.dim;
    RowArray array = member.array;
    array.codec.dim = end - begin;
    held.push_back({&member, begin, end - begin, strategy_bytes(array, own.strategy)});
    bytes += held.back().bytes;
    parts_.push_back({static_cast<int>(number),
                      core,
                      column + begin,
                      by_columns ? 0 : k,
                      by_columns ? 1 : n,
                      begin == 0,
                      {}});
  }
  if (bytes > 0 && core != kNobody) bytes = std::max(bytes, kPrivateArenaBytes);
  arenas_.emplace_back(static_cast<size_t>(bytes));
  bytes_ += bytes;
  auto* place = arenas_.back().as<std::byte>();
  Part* part = parts_.data() + (parts_.size() - held.size());
  for (const Held& one : held) {
    const RowArray& array = one.member->array;
    if (one.count < one.member->dim) {
      const RowArray columns = take_columns(array, one.begin, one.count, place);
      part++->rows = make_strategy_rows(columns, Strategy::kGather, nullptr);
    } else {
      part++->rows = make_strategy_rows(array, one.member->cores->strategy, place);
    }
    place += one.bytes;
  }
}

}  // namespace screc
