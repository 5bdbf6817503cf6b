#include "base/crc32c.h"

#include <array>
#include <cstring>

namespace screc {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78u;

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

// Slicing by 8: table k advances a byte by k further zero bytes.
constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

std::uint64_t load64(const unsigned char* p) {
  std::uint64_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

// `state` is the register without the final inversion.
std::uint32_t advance_by_tables(std::uint32_t state, const unsigned char* p, std::size_t size) {
  for (; size >= 8; size -= 8, p += 8) {
    const std::uint64_t word = load64(p) ^ state;
    state = 0;
    for (std::size_t k = 0; k < 8; ++k) state ^= kTables[7 - k][(word >> (8 * k)) & 0xff];
  }
  for (; size > 0; --size, ++p) state = (state >> 8) ^ kTables[0][(state ^ *p) & 0xff];
  return state;
}

#if defined(__x86_64__)

// The instruction takes 3 cycles but one can start in each, so three lanes run side by side. 3 x 1360 bytes
// is a page's 4092 but for 12.
constexpr std::size_t kLane = 1360;

using Shift = std::array<std::array<std::uint32_t, 256>, 4>;

// What kLane zero bytes make of a state: a linear map, held as one table for each byte of the state.
Shift make_shift() {
  static const unsigned char zeros[kLane] = {};
  std::array<std::uint32_t, 32> image;
  for (int bit = 0; bit < 32; ++bit) image[bit] = advance_by_tables(std::uint32_t{1} << bit, zeros, kLane);
  Shift shift{};
  for (int byte = 0; byte < 4; ++byte) {
    for (int value = 0; value < 256; ++value) {
      for (int bit = 0; bit < 8; ++bit) {
        if (value >> bit & 1) shift[byte][value] ^= image[8 * byte + bit];
      }
    }
  }
  return shift;
}

std::uint32_t shifted(const Shift& shift, std::uint32_t state) {
  return shift[0][state & 0xff] ^ shift[1][state >> 8 & 0xff] ^ shift[2][state >> 16 & 0xff] ^
         shift[3][state >> 24];
}

__attribute__((target("sse4.2"))) std::uint32_t advance_by_instruction(std::uint32_t state,
                                                                       const unsigned char* p,
                                                                       std::size_t size) {
  static const Shift shift = make_shift();
  while (size >= 3 * kLane) {
    std::uint64_t a = state, b = 0, c = 0;
    for (std::size_t i = 0; i < kLane; i += 8) {
      a = __builtin_ia32_crc32di(a, load64(p + i));
      b = __builtin_ia32_crc32di(b, load64(p + kLane + i));
      c = __builtin_ia32_crc32di(c, load64(p + 2 * kLane + i));
    }
    state = shifted(shift, static_cast<std::uint32_t>(a)) ^ static_cast<std::uint32_t>(b);
    state = shifted(shift, state) ^ static_cast<std::uint32_t>(c);
    p += 3 * kLane;
    size -= 3 * kLane;
  }
  std::uint64_t wide = state;
  for (; size >= 8; size -= 8, p += 8) wide = __builtin_ia32_crc32di(wide, load64(p));
  state = static_cast<std::uint32_t>(wide);
  for (; size > 0; --size, ++p) state = __builtin_ia32_crc32qi(state, *p);
  return state;
}

#endif

// The product of two polynomials over GF(2) modulo the checksum's, the coefficient of x^0 in the highest bit.
constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (; a != 0; a <<= 1) {
    if (a >> 31) product ^= b;
    b = (b >> 1) ^ ((b & 1) ? kPolynomial : 0);
  }
  return product;
}

// Entry k is x^(8 * 2^k): multiplying by it advances a state by 2^k bytes of zeros.
constexpr std::array<std::uint32_t, 64> make_powers() {
  std::array<std::uint32_t, 64> powers{};
  powers[0] = std::uint32_t{1} << (31 - 8);
  for (std::size_t k = 1; k < powers.size(); ++k) powers[k] = multiply(powers[k - 1], powers[k - 1]);
  return powers;
}

constexpr std::array<std::uint32_t, 64> kPowers = make_powers();

}  // namespace

std::uint32_t crc32c_zeros(std::uint64_t count, std::uint32_t seed) {
  std::uint32_t state = ~seed;
  for (std::size_t k = 0; count != 0; count >>= 1, ++k) {
    if (count & 1) state = multiply(kPowers[k], state);
  }
  return ~state;
}

std::uint32_t crc32c_portable(const void* data, std::size_t size, std::uint32_t seed) {
  return ~advance_by_tables(~seed, static_cast<const unsigned char*>(data), size);
}

std::uint32_t crc32c(const void* data, std::size_t size, std::uint32_t seed) {
#if defined(__x86_64__)
  static const bool has_instruction = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
  }();
  if (has_instruction) {
    return ~advance_by_instruction(~seed, static_cast<const unsigned char*>(data), size);
  }
#endif
  return crc32c_portable(data, size, seed);
}

}  // namespace screc
