// The layers of linear_amx.cc on emulated tiles.
#include "kernels/emulated_tiles.h"
#include "kernels/tables.h"
#include "kernels/tile_linear.h"
#include "kernels/vec_avx512.h"  // first: it quiets a warning

namespace screc {

void linear_bf16_emulated_avx512(const LinearWeights& weights, const LinearCall& call) {
  tile_linear<EmulatedTiles, FloatTileSums<Vec16>>(weights, call);
}

void linear_int8_emulated_avx512(const LinearWeights& weights, const LinearCall& call) {
  tile_linear<EmulatedTiles, IntegerTileSums<Vec16>>(weights, call);
}

}  // namespace screc
