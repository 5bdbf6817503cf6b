// What a dense layer multiplies in, for any vector of vec_*.h: one step takes a 32-bit word of inputs (1
// float, 2 bfloat16 or 4 uint8) and one of weights for every output of a vector.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/kernels.h"

namespace screc {
namespace {

// Sums that are floats and start at the bias.
template <typename V>
struct FloatSums {
  using Vec = V;
  using Sum = typename V::F;
  static Sum start(const LinearWeights& w, int64_t column) { return V::load(w.bias + column); }
  static typename V::F value(const LinearWeights&, int64_t, Sum sum) { return sum; }
};

// Sums that are integers, exact, and become floats by the output's scale and bias.
template <typename V>
struct IntegerSums {
  using Vec = V;
  using Sum = typename V::I;
  static Sum start(const LinearWeights& w, int64_t column) { return V::load_words(w.start + column); }
  static typename V::F value(const LinearWeights& w, int64_t column, Sum sum) {
    return V::fma(V::from_int(sum), V::load(w.scale + column), V::load(w.bias + column));
  }
};

template <typename V>
struct DotFp32 : FloatSums<V> {
  static constexpr Precision kPrecision = Precision::kFp32;
  // Rows that, with two vectors of outputs, leave registers for the weights and an input.
  static constexpr int kRows = V::kRegisters == 32 ? 12 : 6;
  using Weights = typename V::F;
  using Input = typename V::F;
  static Weights weights(const uint32_t* words) { return V::load(reinterpret_cast<const float*>(words)); }
  static Input input(uint32_t word) { return V::set1(std::bit_cast<float>(word)); }
  static typename V::F add(typename V::F sum, Input x, Weights w) { return V::fma(x, w, sum); }
};

// bfloat16 without instructions for it: a product of two is exact in fp32.
template <typename V>
struct DotBf16 : FloatSums<V> {
  static constexpr Precision kPrecision = Precision::kBf16;
  static constexpr int kRows = V::kRegisters == 32 ? 12 : 4;
  struct Weights {
    typename V::F even, odd;
  };
  struct Input {
    typename V::F even, odd;
  };
  static Weights weights(const uint32_t* words) {
    const typename V::I pair = V::load_words(words);
    return {V::as_floats(V::shift_up16(pair)), V::as_floats(V::bit_and(pair, V::set1_word(0xffff0000u)))};
  }
  static Input input(uint32_t word) {
    return {V::set1(std::bit_cast<float>(word << 16)), V::set1(std::bit_cast<float>(word & 0xffff0000u))};
  }
  static typename V::F add(typename V::F sum, Input x, Weights w) {
    return V::fma(x.odd, w.odd, V::fma(x.even, w.even, sum));
  }
};

// int8 without VNNI: even and odd bytes as int16, whose products are summed in pairs without loss.
template <typename V>
struct DotInt8 : IntegerSums<V> {
  static constexpr Precision kPrecision = Precision::kInt8;
  static constexpr int kRows = V::kRegisters == 32 ? 12 : 4;
  struct Weights {
    typename V::I even, odd;
  };
  struct Input {
    typename V::I even, odd;
  };
  static Weights weights(const uint32_t* words) {
    const typename V::I four = V::load_words(words);
    return {V::even_bytes(four), V::odd_bytes(four)};
  }
  static Input input(uint32_t word) {
    return {V::set1_word(word & 0x00ff00ffu), V::set1_word((word >> 8) & 0x00ff00ffu)};
  }
  static typename V::I add(typename V::I sum, Input x, Weights w) {
    return V::add_int(sum, V::add_int(V::madd16(x.even, w.even), V::madd16(x.odd, w.odd)));
  }
};

}  // namespace
}  // namespace screc
