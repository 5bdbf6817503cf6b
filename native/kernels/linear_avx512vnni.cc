// int8 layers with VPDPBUSD, four products of uint8 and int8 a lane. Compiled for AVX-512 and VNNI.
#include "kernels/tables.h"
#include "kernels/vec_avx512.h"  // first: it quiets a warning
#include "kernels/vector_linear.h"

namespace screc {
namespace {

struct DotVnni : IntegerSums<Vec16> {
  static constexpr Precision kPrecision = Precision::kInt8;
  static constexpr int kRows = 12;
  using Weights = __m512i;
  using Input = __m512i;
  static Weights weights(const uint32_t* words) { return Vec16::load_words(words); }
  static Input input(uint32_t word) { return Vec16::set1_word(word); }
  // Not _mm512_dpbusd_epi32: around it GCC 12 copies every sum from register to register, at half the speed.
  static __m512i add(__m512i sum, Input x, Weights w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  }
};

}  // namespace

void linear_int8_avx512vnni(const LinearWeights& weights, const LinearCall& call) {
  linear<DotVnni>(weights, call);
}

}  // namespace screc
