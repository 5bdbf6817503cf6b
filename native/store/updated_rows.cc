#include "store/updated_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace screc {
namespace {

constexpr std::size_t kLeastPlaces = 16;

}  // namespace

void UpdatedRows::put(std::int64_t slot, std::int64_t id, std::uint64_t stamp, const std::byte* row) {
  const auto used = static_cast<std::size_t>(size_) + 1;
  if (2 * used > entries_.size()) resize(std::max(kLeastPlaces, 2 * entries_.size()));
  std::size_t at = home(slot);
  while (entries_[at].slot != kFree && entries_[at].slot != slot) at = after(at);
  Entry& entry = entries_[at];
  if (entry.slot == kFree) {
    entry.row = std::make_unique<std::byte[]>(static_cast<std::size_t>(row_bytes_));
    entry.slot = slot;
    note(slot);
    ++size_;
  }
  entry.id = id;
  entry.stamp = stamp;
  std::memcpy(entry.row.get(), row, static_cast<std::size_t>(row_bytes_));
}

void UpdatedRows::erase(std::int64_t slot) {
  if (size_ == 0) return;
  std::size_t hole = home(slot);
  while (entries_[hole].slot != slot) {
    if (entries_[hole].slot == kFree) return;
    hole = after(hole);
  }
  const auto distance = [this](std::size_t first, std::size_t last) {
    return last >= first ? last - first : last + entries_.size() - first;
  };
  // Those behind it that it kept from their places move up.
  for (std::size_t at = after(hole); entries_[at].slot != kFree; at = after(at)) {
    const std::size_t wanted = home(entries_[at].slot);
    if (distance(wanted, at) < distance(hole, at)) continue;  // the hole lies before its home
    entries_[hole] = std::move(entries_[at]);
    hole = at;
  }
  entries_[hole] = Entry();
  --size_;
  if (entries_.size() > kLeastPlaces && 4 * static_cast<std::size_t>(size_) < entries_.size()) {
    resize(entries_.size() / 2);
  }
}

std::vector<const UpdatedRows::Entry*> UpdatedRows::written_until(std::uint64_t stamp) const {
  std::vector<const Entry*> found;
  for (const Entry& entry : entries_) {
    if (entry.slot != kFree && entry.stamp <= stamp) found.push_back(&entry);
  }
  std::sort(found.begin(), found.end(), [](const Entry* a, const Entry* b) { return a->slot < b->slot; });
  return found;
}

void UpdatedRows::resize(std::size_t places) {
  std::vector<Entry> before = std::exchange(entries_, std::vector<Entry>(places));
  filter_.assign(places / 8, 0);
  filter_shift_ = 64 - std::countr_zero(8 * places);
  for (Entry& entry : before) {
    if (entry.slot == kFree) continue;
    std::size_t at = home(entry.slot);
    while (entries_[at].slot != kFree) at = after(at);
    note(entry.slot);
    entries_[at] = std::move(entry);
  }
}

}  // namespace screc
