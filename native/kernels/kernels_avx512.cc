#include "kernels/tables.h"
#include "kernels/tile_shape.h"
#include "kernels/vec_avx2.h"
#include "kernels/vec_avx512.h"  // first: it quiets a warning
#include "kernels/vector_linear.h"
#include "kernels/vector_math.h"
#include "kernels/vector_pool.h"
#include "kernels/vector_small.h"
#include "kernels/vector_tt.h"

namespace screc {
namespace {

// Short last steps (d = 16 as 2 x 2 x 4 gives 8 outputs at a time) would leave half of a long vector empty.
void tt_rows(const TtCores& cores, const int64_t* slots, int64_t n, float* out) {
  const int last = cores.num_cores() - 1;
  const bool halves = tt_is_long(cores, Vec8::kLanes) && !tt_is_long(cores, Vec16::kLanes);
  if (halves || cores.level(last - 1).columns * cores.level(last).columns <= Vec8::kLanes) {
    tt_rows_with<Vec16, Vec8>(cores, slots, n, out);
  } else {
    tt_rows_with<Vec16, Vec16>(cores, slots, n, out);
  }
}

template <bool kVnni, bool kBf16>
const Kernels& table() {
  static constexpr Kernels kTable{
      Isa::kAvx512,
      LinearShape<Vec16>::kPanel,
      {1, 1, 1},
      LinearShape<Vec16>::kMaxDots,
      DotFp32<Vec16>::kRows,
      pool_rows<Vec16>,
      decode_rows<Vec16>,
      tt_rows,
      {linear<DotFp32<Vec16>>, kBf16 ? linear_bf16_avx512bf16 : linear<DotBf16<Vec16>>,
       kVnni ? linear_int8_avx512vnni : linear<DotInt8<Vec16>>},
      encode<Vec16>,
      interact<Vec16>,
      nullptr,
      sigmoid<Vec16>,
      pool_ids<Vec16>,
      stream_ids<Vec16>,
      count_ids<Vec16>};
  return kTable;
}

Kernels with_tiles(Kernels kernels, LinearKernel* bf16, LinearKernel* int8, InteractKernel* interact) {
  kernels.isa = Isa::kAmx;
  kernels.linear_rows = kBlockRows;
  kernels.interact_bf16 = interact;
  for (Precision precision : {Precision::kBf16, Precision::kInt8}) {
    kernels.linear_steps[static_cast<int>(precision)] = kTileSteps;
    kernels.linear[static_cast<int>(precision)] = precision == Precision::kBf16 ? bf16 : int8;
  }
  return kernels;
}

}  // namespace

const Kernels& avx512_kernels(bool vnni, bool bf16) {
  if (vnni) return bf16 ? table<true, true>() : table<true, false>();
  return bf16 ? table<false, true>() : table<false, false>();
}

const Kernels& amx_kernels() {
  static const Kernels kTable =
      with_tiles(avx512_kernels(true, true), linear_bf16_amx, linear_int8_amx, interact_bf16_amx);
  return kTable;
}

const Kernels& emulated_amx_kernels() {
  static const Kernels kTable = with_tiles(avx512_kernels(false, false), linear_bf16_emulated_avx512,
                                           linear_int8_emulated_avx512, interact_bf16_emulated_avx512);
  return kTable;
}

}  // namespace screc
