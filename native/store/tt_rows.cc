#include "store/tt_rows.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "base/stream_copy.h"

namespace screc {
namespace {

// Rows that are only copied from are rebuilt so many at a time: they stay in the first level of cache.
constexpr std::size_t kCopiedRows = 64;

// An output of 8 MiB would push itself out of a core's share of the caches.
constexpr std::int64_t kStreamedFloats = int64_t{2} << 20;

// Sorts items by key, with `sorted` as working memory; few of them by comparisons, many byte by byte.
template <typename Item>
void sort_by_key(std::vector<Item>& items, std::vector<Item>& sorted) {
  if (items.size() < 128) {
    std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.key < b.key; });
    return;
  }
  std::uint64_t differing = 0;
  for (const Item& item : items) differing |= item.key ^ items[0].key;
  sorted.resize(items.size());
  for (int shift = std::countr_zero(differing); shift < 64 && differing >> shift != 0; shift += 8) {
    if ((differing >> shift & 255) == 0) continue;
    std::array<std::uint32_t, 256> next{};
    for (const Item& item : items) ++next[item.key >> shift & 255];
    std::uint32_t before = 0;
    for (std::uint32_t& entry : next) before += std::exchange(entry, before);
    for (const Item& item : items) sorted[next[item.key >> shift & 255]++] = item;
    items.swap(sorted);
  }
}

}  // namespace

void TtRows::begin(std::int64_t lookups) {
  grouped_ = lookups >= kLeastGrouped;
  part_of_.clear();
}

void TtRows::expect(std::uint64_t number, const TtCores& cores, std::int64_t lookups, const void** pointers,
                    float* out, std::int64_t out_stride) {
  if (groups_.size() <= number) groups_.resize(number + 1);
  Group& group = groups_[number];
  group = {&cores, pointers, out, out_stride};
  if (!grouped_) return;
  const std::uint64_t wanted = std::clamp<std::int64_t>(lookups / kPartLookups, 1, kMostParts);
  group.num_parts = static_cast<std::int64_t>(std::bit_floor(wanted));
  group.first_part = static_cast<std::int64_t>(part_of_.size());
  group.streamed = lookups * cores.embedding_dim() >= kStreamedFloats;
  part_of_.insert(part_of_.end(), static_cast<std::size_t>(group.num_parts), number);
  for (Worker& worker : workers_) {
    if (worker.parts.size() < part_of_.size()) worker.parts.resize(part_of_.size());
    for (auto part = static_cast<std::size_t>(group.first_part); part < part_of_.size(); ++part) {
      worker.parts[part].clear();
    }
  }
}

void TtRows::add(int worker, std::uint64_t number, const std::int64_t* slots, std::int64_t first,
                 const std::int32_t* positions, std::int64_t n) {
  const Group& group = groups_[number];
  const TtCores& cores = *group.cores;
  if (!grouped()) {
    float* rows = arena_.take(n * cores.embedding_dim());
    kernels().tt_rows(cores, slots, n, rows);
    for (std::int64_t i = 0; i < n; ++i) {
      group.pointers[first + positions[i]] = rows + i * cores.embedding_dim();
    }
    return;
  }
  std::vector<Item>* parts = workers_[static_cast<std::size_t>(worker)].parts.data() + group.first_part;
  const auto residues = static_cast<std::uint64_t>(group.num_parts - 1);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint64_t key = cores.key_of(slots[i]);
    const std::int64_t position = first + positions[i];
    parts[cores.first_digit(key) & residues].push_back({key, position});
    // In order here; scattered writes later would hold up those of the rows.
    if (group.out != nullptr) group.pointers[position] = group.out + position * group.out_stride;
  }
}

void TtRows::rebuild(int number, std::int64_t part) {
  Worker& worker = workers_[static_cast<std::size_t>(number)];
  std::vector<Item>& items = worker.items;
  items.clear();
  for (const Worker& other : workers_) {
    const std::vector<Item>& own = other.parts[static_cast<std::size_t>(part)];
    items.insert(items.end(), own.begin(), own.end());
  }
  if (items.empty()) return;
  sort_by_key(items, worker.sorted);
  const Group& group = groups_[part_of_[static_cast<std::size_t>(part)]];
  const TtCores& cores = *group.cores;
  const std::int64_t dim = cores.embedding_dim();
  const bool copied = group.out != nullptr;
  for (std::size_t i = 0; i < items.size();) {
    std::size_t end = i;
    worker.slots.clear();
    for (; end < items.size(); ++end) {
      if (end > i && items[end].key == items[end - 1].key) continue;
      if (copied && worker.slots.size() == kCopiedRows) break;
      worker.slots.push_back(cores.slot_of(items[end].key));
    }
    const auto distinct = static_cast<std::int64_t>(worker.slots.size());
    float* row = copied ? worker.rows(kCopiedRows * dim) : arena_.take(distinct * dim);
    kernels().tt_rows(cores, worker.slots.data(), distinct, row);
    for (std::uint64_t key = items[i].key; i < end; ++i) {
      if (items[i].key != key) row += dim;
      key = items[i].key;
      const std::int64_t position = items[i].position;
      if (!copied) {
        group.pointers[position] = row;
      } else if (group.streamed) {
        stream_copy(group.out + position * group.out_stride, row, dim);
      } else {
        std::copy_n(row, dim, group.out + position * group.out_stride);
      }
    }
  }
  stream_fence();
}

}  // namespace screc
