// Pure functions on arrays.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "kernels/tt_cores.h"

namespace screc {

struct Kernels {
  Isa isa;
  // Bag b sums (or averages) rows[offsets[b]] ... rows[offsets[b + 1] - 1], pointers to rows of `dim` floats,
  // into out + b * out_stride; an empty bag gives zeros.
  void (*pool_rows)(const float* const* rows, const int64_t* offsets, int64_t num_bags, int64_t dim,
                    bool mean, float* out, int64_t out_stride);
  // Rebuilds n rows of a tensor-train band into out [n, embedding_dim].
  void (*tt_rows)(const TtCores& cores, const int64_t* slots, int64_t n, float* out);
};

const Kernels& kernels();

}  // namespace screc
