// bf16 and int8 layers on AMX tiles. Compiled for AVX-512 and AMX-TILE, AMX-INT8 and AMX-BF16.
#include "kernels/few_rows_bf16.h"
#include "kernels/tables.h"
#include "kernels/tile_linear.h"
#include "kernels/vec_avx512.h"  // first: it quiets a warning

namespace screc {
namespace {

// The eight tile registers of this thread, all 16 x 16 words, from construction to destruction.
class AmxTiles {
 public:
  AmxTiles() {
    alignas(64) Config config{};
    config.palette = 1;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = kTileRowBytes;
      config.rows[t] = kTileRows;
    }
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  // Not the intrinsics: GCC's are macros that want a literal as the tile's number.
  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  // The operands of AT&T syntax stand last to first.
  template <Precision kPrecision, int kSum, int kInputs, int kWeights>
  void dot() {
    if constexpr (kPrecision == Precision::kInt8) {
      asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kInputs), "i"(kWeights));
    } else {
      asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kInputs), "i"(kWeights));
    }
  }

 private:
  struct Config {  // as LDTILECFG reads it
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  static_assert(sizeof(Config) == 64);
};

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
