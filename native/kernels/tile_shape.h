// The shape of AMX tiles: 16 rows of 16 words of 32 bits.
#pragma once

#include <cstdint>

namespace screc {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileSteps = 16;  // words of a row of inputs, or rows of weights
constexpr int64_t kTileRowBytes = 64;
constexpr int64_t kTileBytes = kTileRows * kTileRowBytes;
constexpr int64_t kBlockRows = 2 * kTileRows;  // rows of inputs that a layer takes at once

}  // namespace screc
