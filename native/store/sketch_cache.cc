#include "store/sketch_cache.h"

#include <algorithm>
#include <cstring>

#include "base/hash.h"

namespace screc {
namespace {

constexpr std::uint8_t kMost = 255;

std::uint64_t hash_of(std::uint64_t key) { return hash_id(static_cast<std::int64_t>(key)); }
std::uint32_t fingerprint(std::uint64_t hash) { return static_cast<std::uint32_t>(hash); }

std::int64_t sets_in(std::int64_t bytes, std::int64_t num_rows, std::int64_t row_bytes,
                     std::int64_t set_bytes) {
  constexpr std::int64_t kWays = SketchCache::kWays;
  // Sets fill unevenly: twice the ways that the rows need have room for nearly all.
  const std::int64_t useful = (2 * num_rows + kWays - 1) / kWays;
  return std::min(useful, bytes / (set_bytes + kWays * row_bytes));
}

}  // namespace

SketchCache::SketchCache(std::int64_t bytes, std::int64_t num_rows, std::int64_t row_bytes)
    : row_bytes_(row_bytes),
      num_sets_(sets_in(bytes, num_rows, row_bytes, sizeof(Set))),
      sets_(static_cast<std::size_t>(num_sets_) * sizeof(Set)),
      rows_(static_cast<std::size_t>(num_sets_ * kWays * row_bytes)) {}

std::int64_t SketchCache::bytes() const {
  return num_sets_ * (static_cast<std::int64_t>(sizeof(Set)) + kWays * row_bytes_);
}

SketchCache::Set& SketchCache::set_of(std::uint64_t hash) const {
  return sets_.as<Set>()[hash_place(hash, num_sets_)];
}

std::byte* SketchCache::row(const Set& set, int way) const {
  const std::int64_t number = &set - sets_.as<Set>();
  return rows_.as<std::byte>() + (number * kWays + way) * row_bytes_;
}

void SketchCache::age(Set& set, std::uint16_t epoch) {
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

void SketchCache::forget(Set& set, int candidate) {
  for (int i = candidate; i + 1 < kCandidates; ++i) {
    set.candidates[i] = set.candidates[i + 1];
    set.candidate_counts[i] = set.candidate_counts[i + 1];
  }
  set.candidate_counts[kCandidates - 1] = 0;
}

void SketchCache::prefetch(std::uint64_t key, int stage) const {
  if (stage != kStages - 1) return;
  const Set& set = set_of(hash_of(key));
  __builtin_prefetch(&set);
  __builtin_prefetch(set.candidates);
}

const std::byte* SketchCache::access(std::uint64_t key) {
  if (++accesses_ == kAgeAccesses * kWays * num_sets_) {
    accesses_ = 0;
    ++epoch_;
  }
  const std::uint64_t hash = hash_of(key);
  Set& set = set_of(hash);
  age(set, epoch_);
  for (int way = 0; way < kWays; ++way) {
    if (set.keys[way] != key + 1) continue;
    set.counts[way] += set.counts[way] < kMost;
    prefetch_row(row(set, way), row_bytes_);
    return row(set, way);
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

bool SketchCache::offer(std::uint64_t key, const std::byte* data) {
  const std::uint64_t hash = hash_of(key);
  Set& set = set_of(hash);
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
  std::memcpy(row(set, least), data, static_cast<std::size_t>(row_bytes_));
  return true;
}

void SketchCache::refresh(std::uint64_t key, const std::byte* data) {
  Set& set = set_of(hash_of(key));
  for (int way = 0; way < kWays; ++way) {
    if (set.keys[way] == key + 1) std::memcpy(row(set, way), data, static_cast<std::size_t>(row_bytes_));
  }
}

}  // namespace screc
