#include "store/band.h"

#include <cstring>

namespace screc {
namespace {

template <typename T>
const T* copy(const T* from, std::int64_t count, AlignedBuffer& to) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  to = AlignedBuffer(bytes);
  if (bytes > 0) std::memcpy(to.data(), from, bytes);
  return to.as<T>();
}

}  // namespace

void WrittenPages::own() {
  if (auto* const bitmap = std::get_if<BitmapIndex>(&groups)) {
    bitmap->bits = copy(bitmap->bits, bitmap->num_words, first_);
    bitmap->directory = copy(bitmap->directory, bitmap->num_blocks, second_);
  } else {
    auto& hash = std::get<HashIndex>(groups);
    hash.keys = copy(hash.keys, hash.capacity, first_);
    hash.slots = copy(hash.slots, hash.capacity, second_);
  }
}

}  // namespace screc
