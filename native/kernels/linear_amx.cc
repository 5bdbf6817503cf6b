// bf16 and int8 layers on AMX tiles. Compiled for AVX-512 and AMX-TILE, AMX-INT8 and AMX-BF16.
#include "kernels/amx_tiles.h"
#include "kernels/few_rows_bf16.h"
#include "kernels/tables.h"
#include "kernels/tile_linear.h"
#include "kernels/vec_avx512.h"  // first: it quiets a warning

namespace screc {
namespace {

// Most rows for which AVX-512 is faster: tiles take as long for one row as for sixteen. The answers are the
// same to the bit: sums of int8 are exact, and those of bf16 are made in the order of tiles.
constexpr int64_t kFewRows = 4;

}  // namespace

void linear_bf16_amx(const LinearWeights& weights, const LinearCall& call) {
  if (call.m <= kFewRows) return few_rows_bf16<Vec16>(weights, call);
  tile_linear<AmxTiles, FloatTileSums<Vec16>>(weights, call);
}

void linear_int8_amx(const LinearWeights& weights, const LinearCall& call) {
  if (call.m <= kFewRows) return linear_int8_avx512vnni(weights, call);
  tile_linear<AmxTiles, IntegerTileSums<Vec16>>(weights, call);
}

}  // namespace screc
