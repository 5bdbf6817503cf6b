// bfloat16 layers with VDPBF16PS, two products a lane. It takes denormals as zeros and rounds its sum in an
// order of its own, so results differ from the other instruction sets' within the bound of kernels.h.
// Compiled for AVX-512 and BF16.
#include "kernels/tables.h"
#include "kernels/vec_avx512.h"  // first: it quiets a warning
#include "kernels/vector_linear.h"

namespace screc {
namespace {

struct DotBf16Pairs : FloatSums<Vec16> {
  static constexpr Precision kPrecision = Precision::kBf16;
  static constexpr int kRows = 12;
  using Weights = __m512bh;
  using Input = __m512bh;
  static Weights weights(const uint32_t* words) { return std::bit_cast<__m512bh>(Vec16::load_words(words)); }
  static Input input(uint32_t word) { return std::bit_cast<__m512bh>(Vec16::set1_word(word)); }
  static __m512 add(__m512 sum, Input x, Weights w) { return _mm512_dpbf16_ps(sum, x, w); }
};

}  // namespace

void linear_bf16_avx512bf16(const LinearWeights& weights, const LinearCall& call) {
  linear<DotBf16Pairs>(weights, call);
}

}  // namespace screc
