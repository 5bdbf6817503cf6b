// Pure functions on arrays, one table of them per instruction set.
//
// Every kernel accumulates in fp32. Against a double-precision oracle the error of one result is at most
// n * 2^-24 * sum(|terms|) for a sum of n terms (in practice far less); sigmoid is within 2e-7 absolute.
// A result never depends on which other rows or samples share the call, so an answer is the same for every
// batch size. None of these functions allocates after its thread's first call, and none checks its arguments.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "kernels/id_bags.h"
#include "kernels/row_format.h"
#include "kernels/tt_cores.h"

namespace screc {

// The weights of one dense layer as the kernel of one instruction set wants them (see PackedLinear).
struct LinearWeights {
  enum class Form { kPanels, kDots };
  Form form;
  int64_t in, out;
  // kPanels: ceil(out / panel) panels [in][panel], zero-padded. kDots: rows [out][in], for very few outputs.
  const float* weight;
  const float* bias;  // [out], zero-padded to whole panels
};

struct Kernels {
  Isa isa;
  // Output columns that a panel of LinearWeights holds.
  int64_t linear_panel;
  // At most this many outputs are computed as dot products, without panels.
  int64_t linear_max_dots;

  // Bag b sums (or averages) rows[offsets[b]] ... rows[offsets[b + 1] - 1], pointers to encoded rows, into
  // out + b * out_stride; an empty bag gives zeros, a bag of one row what decode_rows gives. Of quantised
  // rows the codes (times their rows' scales) and the biases are summed apart.
  void (*pool_rows)(const RowCodec& codec, const void* const* rows, const int64_t* offsets, int64_t num_bags,
                    bool mean, float* out, int64_t out_stride);

  // Writes the values of n encoded rows, row i to out + i * out_stride. Codes give bias + scale * code,
  // rounded once.
  void (*decode_rows)(const RowCodec& codec, const void* const* rows, int64_t n, float* out,
                      int64_t out_stride);

  // Rebuilds n rows of a tensor-train band into out [n, embedding_dim]. Consecutive slots that share leading
  // digits share that work: sorted slots are the fastest.
  void (*tt_rows)(const TtCores& cores, const int64_t* slots, int64_t n, float* out);

  // out[i] = act(x[i] W^T + b) for m rows; act is ReLU or nothing.
  void (*linear)(const LinearWeights& weights, const float* x, int64_t x_stride, int64_t m, bool relu,
                 float* out, int64_t out_stride);

  // Sample s: <f_i, f_j> for i in [0, F), j in [0, i), where f_i = features + s * sample_stride + i * dim.
  void (*interact)(const float* features, int64_t num_samples, int64_t num_features, int64_t dim,
                   int64_t sample_stride, float* out, int64_t out_stride);

  void (*sigmoid)(const float* x, int64_t n, float* out);

  // Pools bags of ids of one array, as pool_rows does with pointers. The answers of pool_ids and stream_ids
  // are the same to the bit; count_ids adds a row once, times the number of its look-ups in the bag. The
  // latter two are for fp32.
  void (*pool_ids)(const RowArray& table, const IdBags& bags);
  void (*stream_ids)(const RowArray& table, const IdBags& bags);
  void (*count_ids)(const RowArray& table, const IdBags& bags);
};

// The kernels of one instruction set; std::invalid_argument when this machine cannot run it.
const Kernels& kernels(Isa isa);
// Those of selected_isa().
const Kernels& kernels();

// Working memory of the calling thread: at least `floats` floats, 64-byte-aligned, contents undefined. Kept
// and only ever grown; the next call on the same thread takes it over.
float* thread_scratch(int64_t floats);

}  // namespace screc
