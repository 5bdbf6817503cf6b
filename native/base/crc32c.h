// CRC32C (Castagnoli, reflected 0x82f63b78), the checksum of pages and files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace screc {

// The checksum of `size` bytes. `seed` is the checksum of the bytes before them, 0 at the beginning:
// crc32c(b, n, crc32c(a, m)) is the checksum of a followed by b. Uses the machine's CRC instruction if it has
// one.
std::uint32_t crc32c(const void* data, std::size_t size, std::uint32_t seed = 0);

// The checksum of `count` bytes of zeros, after bytes whose checksum is `seed`, in time that grows with the
// logarithm of `count`: what a hole of a file is worth.
std::uint32_t crc32c_zeros(std::uint64_t count, std::uint32_t seed = 0);

// crc32c() by tables, on every machine; the reference for the other.
std::uint32_t crc32c_portable(const void* data, std::size_t size, std::uint32_t seed = 0);

}  // namespace screc
