#include "store/row_cache.h"

#include <algorithm>
#include <cstring>

#include "base/hash.h"

namespace screc {
namespace {

constexpr std::uint8_t kMost = 255;

std::uint32_t fingerprint(std::uint64_t hash) { return static_cast<std::uint32_t>(hash); }

}  // namespace

RowCache::RowCache(std::int64_t bytes, const std::vector<CachedBand>& bands) {
  std::vector<std::int64_t> num_rows;
  double total = 0;
  for (const CachedBand& band : bands) {
    const auto same = std::find_if(classes_.begin(), classes_.end(),
                                   [&](const Class& made) { return made.row_bytes == band.row_bytes; });
    const auto number = static_cast<std::size_t>(same - classes_.begin());
    if (same == classes_.end()) {
      classes_.emplace_back().row_bytes = band.row_bytes;
      num_rows.push_back(0);
    }
    num_rows[number] += band.num_rows;
    class_numbers_.push_back(static_cast<int>(number));
    total += static_cast<double>(band.num_rows) * static_cast<double>(band.row_bytes);
  }
  for (std::size_t number = 0; number < classes_.size(); ++number) {
    Class& made = classes_[number];
    const double own = static_cast<double>(num_rows[number]) * static_cast<double>(made.row_bytes);
    const std::int64_t set_bytes = static_cast<std::int64_t>(sizeof(Set)) + kWays * made.row_bytes;
    // Sets fill unevenly: twice the ways that the rows need have room for nearly all.
    const std::int64_t useful = (2 * num_rows[number] + kWays - 1) / kWays;
    made.num_sets =
        std::min(useful, static_cast<std::int64_t>(own / total * static_cast<double>(bytes)) / set_bytes);
    made.accesses_per_epoch = kAgeAccesses * kWays * made.num_sets;
    made.sets = AlignedBuffer(static_cast<std::size_t>(made.num_sets) * sizeof(Set));
    made.rows = AlignedBuffer(static_cast<std::size_t>(made.num_sets * kWays * made.row_bytes));
    bytes_ += made.num_sets * set_bytes;
  }
  for (int& number : class_numbers_) {
    if (classes_[static_cast<std::size_t>(number)].num_sets == 0) number = -1;
  }
}

RowCache::Class* RowCache::class_of(std::uint64_t band) {
  const int number = class_numbers_[band];
  return number < 0 ? nullptr : &classes_[static_cast<std::size_t>(number)];
}

std::uint64_t RowCache::hash_of(std::uint64_t key) { return hash_id(static_cast<std::int64_t>(key)); }

RowCache::Set& RowCache::Class::set_of(std::uint64_t hash) const {
  return sets.as<Set>()[hash_place(hash, num_sets)];
}

std::byte* RowCache::Class::row(const Set& set, int way) const {
  const std::int64_t number = &set - sets.as<Set>();
  return rows.as<std::byte>() + (number * kWays + way) * row_bytes;
}

void RowCache::age(Set& set, std::uint16_t epoch) {
  const auto passed = static_cast<std::uint16_t>(epoch - set.epoch);
  if (passed == 0) return;
  set.epoch = epoch;
  const int shift = std::min<int>(passed, 8);
  for (std::uint8_t& count : set.counts) count = static_cast<std::uint8_t>(count >> shift);
  int left = 0;
  for (int i = 0; i < kCandidates; ++i) {
    const auto count = static_cast<std::uint8_t>(set.candidate_counts[i] >> shift);
    if (count == 0) continue;
    set.candidates[left] = set.candidates[i];
    set.candidate_counts[left++] = count;
  }
  for (; left < kCandidates; ++left) set.candidate_counts[left] = 0;
}

void RowCache::forget(Set& set, int candidate) {
  for (int i = candidate; i + 1 < kCandidates; ++i) {
    set.candidates[i] = set.candidates[i + 1];
    set.candidate_counts[i] = set.candidate_counts[i + 1];
  }
  set.candidate_counts[kCandidates - 1] = 0;
}

void RowCache::prefetch(std::uint64_t band, std::uint64_t key) const {
  const int number = class_numbers_[band];
  if (number < 0) return;
  const Set& set = classes_[static_cast<std::size_t>(number)].set_of(hash_of(key));
  __builtin_prefetch(&set);
  __builtin_prefetch(set.candidates);
}

const std::byte* RowCache::access(std::uint64_t band, std::uint64_t key) {
  Class* const found = class_of(band);
  if (found == nullptr) return nullptr;
  Class& rows = *found;
  if (++rows.accesses == rows.accesses_per_epoch) {
    rows.accesses = 0;
    ++rows.epoch;
  }
  const std::uint64_t hash = hash_of(key);
  Set& set = rows.set_of(hash);
  age(set, rows.epoch);
  for (int way = 0; way < kWays; ++way) {
    if (set.keys[way] != key + 1) continue;
    set.counts[way] += set.counts[way] < kMost;
    const std::byte* row = rows.row(set, way);
    for (std::int64_t line = 0; line < std::min<std::int64_t>(rows.row_bytes, 256); line += 64) {
      __builtin_prefetch(row + line);
    }
    return row;
  }
  const std::uint32_t print = fingerprint(hash);
  int least = 0;
  for (int i = 0; i < kCandidates; ++i) {
    std::uint8_t& count = set.candidate_counts[i];
    if (count == 0) {
      set.candidates[i] = print;
      count = 1;
      return nullptr;
    }
    if (set.candidates[i] == print) {
      count += count < kMost;
      return nullptr;
    }
    if (count < set.candidate_counts[least]) least = i;
  }
  if (--set.candidate_counts[least] > 0) return nullptr;
  forget(set, least);
  set.candidates[kCandidates - 1] = print;
  set.candidate_counts[kCandidates - 1] = 1;
  return nullptr;
}

bool RowCache::offer(std::uint64_t band, std::uint64_t key, const std::byte* row) {
  const Class* const found = class_of(band);
  if (found == nullptr) return false;
  const Class& rows = *found;
  const std::uint64_t hash = hash_of(key);
  Set& set = rows.set_of(hash);
  int candidate = 0;
  while (candidate < kCandidates && set.candidate_counts[candidate] > 0 &&
         set.candidates[candidate] != fingerprint(hash)) {
    ++candidate;
  }
  const bool known = candidate < kCandidates && set.candidate_counts[candidate] > 0;
  const std::uint8_t count = known ? set.candidate_counts[candidate] : 0;
  int least = -1;
  for (int way = 0; way < kWays; ++way) {
    if (set.keys[way] == key + 1) return false;  // another call offered it meanwhile
    if (least >= 0 && set.keys[least] == 0) continue;
    if (least < 0 || set.keys[way] == 0 || set.counts[way] < set.counts[least]) least = way;
  }
  const std::uint64_t old = set.keys[least];
  if (old != 0 && count <= set.counts[least]) return false;
  if (old != 0 && set.counts[least] > 0) {  // the two change places
    set.candidates[candidate] = fingerprint(hash_of(old - 1));
    set.candidate_counts[candidate] = set.counts[least];
  } else if (known) {
    forget(set, candidate);
  }
  set.keys[least] = key + 1;
  set.counts[least] = std::max<std::uint8_t>(count, 1);
  std::memcpy(rows.row(set, least), row, static_cast<std::size_t>(rows.row_bytes));
  return true;
}

}  // namespace screc
