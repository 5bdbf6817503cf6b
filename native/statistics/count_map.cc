#include "statistics/count_map.h"

#include <algorithm>

namespace screc {
namespace {

constexpr std::int64_t kFirstCapacity = 1024, kLeastCapacity = 16;

std::int64_t most_of(std::int64_t capacity) {
  return static_cast<std::int64_t>(CountMap::kLoad * static_cast<double>(capacity));
}

}  // namespace

CountMap::CountMap(std::int64_t max_bytes, int turn)
    : max_capacity_(std::max(kLeastCapacity, max_bytes / static_cast<std::int64_t>(sizeof(Slot)))),
      turn_(turn) {
  while (max_capacity_ >> shift_ >= 2 * kFirstCapacity) ++shift_;
  capacity_ = max_capacity_ >> shift_;
  most_ = most_of(capacity_);
  buffer_ = AlignedBuffer(static_cast<std::size_t>(bytes()));
}

void CountMap::grow() {
  const AlignedBuffer before = std::move(buffer_);
  const std::int64_t slots_before = capacity_;
  capacity_ = max_capacity_ >> --shift_;
  most_ = most_of(capacity_);
  buffer_ = AlignedBuffer(static_cast<std::size_t>(bytes()));
  for (std::int64_t at = 0; at < slots_before; ++at) {
    const Slot& slot = before.as<Slot>()[at];
    if (slot.key != 0) find(hash_of(slot.key), slot.key) = slot;
  }
}

CountMap::Slot* CountMap::compact() {
  Slot* const begin = slots();
  (void)std::remove_if(begin, begin + capacity_, [](const Slot& slot) { return slot.key == 0; });
  return begin;
}

}  // namespace screc
