// One hash for everything that is found by a row's id.
#pragma once

#include <cstdint>

namespace screc {

// The splitmix64 finaliser.
inline std::uint64_t hash_id(std::int64_t id) {
  auto x = static_cast<std::uint64_t>(id);
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// The high bits of a hash as a number below `size`; hashes in ascending order give places in ascending order.
inline std::int64_t hash_place(std::uint64_t hash, std::int64_t size) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::int64_t>((static_cast<Wide>(hash) * static_cast<Wide>(size)) >> 64);
}

}  // namespace screc
