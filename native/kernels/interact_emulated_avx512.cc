// The interaction of interact_amx.cc on emulated tiles.
#include "kernels/emulated_tiles.h"
#include "kernels/tables.h"
#include "kernels/tile_interact.h"

namespace screc {

void interact_bf16_emulated_avx512(const float* features, int64_t num_samples, int64_t num_features,
                                   int64_t dim, int64_t sample_stride, float* out, int64_t out_stride) {
  tile_interact<EmulatedTiles>(features, num_samples, num_features, dim, sample_stride, out, out_stride);
}

}  // namespace screc
