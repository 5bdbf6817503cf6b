#include "store/lru_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/hash.h"

namespace screc {
namespace {

constexpr std::int64_t kSlotBytes = 4;

std::uint64_t hash_of(std::uint64_t key) { return hash_id(static_cast<std::int64_t>(key)); }

// Two thirds of the slots are in use at most.
std::int64_t slots_for(std::int64_t entries) { return entries == 0 ? 0 : entries + entries / 2 + 1; }

std::int64_t entries_in(std::int64_t bytes, std::int64_t num_rows, std::int64_t row_bytes,
                        std::int64_t node_bytes) {
  const std::int64_t each = row_bytes + node_bytes + kSlotBytes + kSlotBytes / 2;
  const std::int64_t most = std::min(num_rows, (std::int64_t{1} << 32) - 2);
  return std::clamp<std::int64_t>((bytes - kSlotBytes) / each, 0, most);
}

}  // namespace

LruCache::LruCache(std::int64_t bytes, std::int64_t num_rows, std::int64_t row_bytes)
    : row_bytes_(row_bytes),
      capacity_(entries_in(bytes, num_rows, row_bytes, sizeof(Node))),
      num_slots_(slots_for(capacity_)),
      entry_bits_(std::bit_width(static_cast<std::uint64_t>(capacity_))),
      slots_(static_cast<std::size_t>(num_slots_ * kSlotBytes)),
      nodes_(static_cast<std::size_t>(capacity_) * sizeof(Node)),
      rows_(static_cast<std::size_t>(capacity_ * row_bytes)) {}

std::int64_t LruCache::bytes() const {
  return capacity_ * (row_bytes_ + static_cast<std::int64_t>(sizeof(Node))) + num_slots_ * kSlotBytes;
}

std::int64_t LruCache::home(std::uint64_t hash) const { return hash_place(hash, num_slots_); }

// The low bits of the hash, for home() takes the high ones.
std::uint32_t LruCache::fingerprint(std::uint64_t hash) const {
  return static_cast<std::uint32_t>(hash & std::uint64_t{0xffffffff} >> entry_bits_);
}

bool LruCache::has_fingerprint(std::uint32_t slot, std::uint32_t print) const {
  return std::uint64_t{slot} >> entry_bits_ == print;
}

LruCache::Entry LruCache::entry_in(std::uint32_t slot) const {
  return (slot & static_cast<std::uint32_t>((std::uint64_t{1} << entry_bits_) - 1)) - 1;
}

LruCache::Entry LruCache::likely(std::uint64_t hash) const {
  const auto* slots = slots_.as<std::uint32_t>();
  const std::uint32_t print = fingerprint(hash);
  for (std::int64_t at = home(hash); slots[at] != 0; at = after(at)) {
    if (has_fingerprint(slots[at], print)) return entry_in(slots[at]);
  }
  return kNone;
}

LruCache::Entry LruCache::find(std::uint64_t hash, std::uint64_t key) const {
  const auto* slots = slots_.as<std::uint32_t>();
  const std::uint32_t print = fingerprint(hash);
  for (std::int64_t at = home(hash); slots[at] != 0; at = after(at)) {
    if (!has_fingerprint(slots[at], print)) continue;
    const Entry entry = entry_in(slots[at]);
    if (nodes_.as<Node>()[entry].key == key) return entry;
  }
  return kNone;
}

void LruCache::insert(std::uint64_t hash, Entry entry) {
  auto* slots = slots_.as<std::uint32_t>();
  std::int64_t at = home(hash);
  while (slots[at] != 0) at = after(at);
  slots[at] = static_cast<std::uint32_t>(std::uint64_t{fingerprint(hash)} << entry_bits_) | (entry + 1);
}

void LruCache::remove(Entry entry) {
  auto* slots = slots_.as<std::uint32_t>();
  const auto* nodes = nodes_.as<Node>();
  std::int64_t hole = home(hash_of(nodes[entry].key));
  while (entry_in(slots[hole]) != entry) hole = after(hole);
  for (std::int64_t at = after(hole); slots[at] != 0; at = after(at)) {
    const std::int64_t wanted = home(hash_of(nodes[entry_in(slots[at])].key));
    if (distance(wanted, at) < distance(hole, at)) continue;  // the hole lies before its home
    slots[hole] = slots[at];
    hole = at;
  }
  slots[hole] = 0;
}

void LruCache::link_newest(Entry entry) {
  auto* nodes = nodes_.as<Node>();
  nodes[entry].newer = kNone;
  nodes[entry].older = newest_;
  (newest_ == kNone ? oldest_ : nodes[newest_].newer) = entry;
  newest_ = entry;
}

void LruCache::unlink(Entry entry) {
  auto* nodes = nodes_.as<Node>();
  const auto [key, newer, older] = nodes[entry];
  (newer == kNone ? newest_ : nodes[newer].older) = older;
  (older == kNone ? oldest_ : nodes[older].newer) = newer;
}

void LruCache::prefetch(std::uint64_t key, int stage) const {
  const std::uint64_t hash = hash_of(key);
  if (stage == 0) return __builtin_prefetch(slots_.as<std::uint32_t>() + home(hash));
  const Entry entry = likely(hash);
  if (entry == kNone) return;
  const auto* nodes = nodes_.as<Node>();
  if (stage == 1) return __builtin_prefetch(nodes + entry);
  const auto [found, newer, older] = nodes[entry];
  if (newer != kNone) __builtin_prefetch(nodes + newer);
  if (older != kNone) __builtin_prefetch(nodes + older);
}

const std::byte* LruCache::access(std::uint64_t key) {
  const Entry entry = find(hash_of(key), key);
  if (entry == kNone) return nullptr;
  if (entry != newest_) {
    unlink(entry);
    link_newest(entry);
  }
  prefetch_row(row(entry), row_bytes_);
  return row(entry);
}

bool LruCache::offer(std::uint64_t key, const std::byte* data) {
  const std::uint64_t hash = hash_of(key);
  if (find(hash, key) != kNone) return false;  // another call offered it meanwhile
  Entry entry = used_;
  if (static_cast<std::int64_t>(used_) < capacity_) {
    ++used_;
  } else {
    entry = oldest_;
    remove(entry);
    unlink(entry);
  }
  nodes_.as<Node>()[entry].key = key;
  link_newest(entry);
  insert(hash, entry);
  std::memcpy(row(entry), data, static_cast<std::size_t>(row_bytes_));
  return true;
}

void LruCache::refresh(std::uint64_t key, const std::byte* data) {
  const Entry entry = find(hash_of(key), key);
  if (entry != kNone) std::memcpy(row(entry), data, static_cast<std::size_t>(row_bytes_));
}

}  // namespace screc
