// Pure functions on arrays, one table of them per instruction set.
//
// Every kernel accumulates in fp32. Against a double-precision oracle the error of one result is at most
// n * 2^-24 * sum(|terms|) for a sum of n terms (in practice far less); sigmoid is within 2e-7 absolute.
// A result never depends on which other rows or samples share the call, so an answer is the same for every
// batch size. None of these functions allocates after its thread's first call, and none checks its arguments.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/cpu.h"
#include "kernels/id_bags.h"
#include "kernels/row_format.h"
#include "kernels/tt_cores.h"

namespace screc {

// What a layer multiplies in, which is also how its inputs are written: float, bfloat16 as uint16_t, uint8_t.
enum class Precision { kFp32 = 0, kBf16 = 1, kInt8 = 2 };
constexpr int kNumPrecisions = 3;

const char* precision_name(Precision precision);
// Throws std::invalid_argument naming the value and the accepted ones.
Precision parse_precision(std::string_view name);
constexpr int64_t element_bytes(Precision p) {
  return p == Precision::kFp32 ? 4 : p == Precision::kBf16 ? 2 : 1;
}

// How activations are written for the layer that reads them. In int8, column c of x becomes
// q = clamp(round(x * inverse_scale[c] + zero_point[c]), 0, 255), rounding half to even; a NaN becomes 255.
struct ActivationFormat {
  Precision precision = Precision::kFp32;
  const float* inverse_scale = nullptr;  // int8 only, [columns]
  const float* zero_point = nullptr;     // int8 only, [columns], integers
};

// The weights of one dense layer as the kernel of one instruction set wants them (see PackedLinear). They are
// 32-bit words, each one output's weights of a step of inputs: 1 float, 2 bfloat16 or 4 int8; the last step
// is filled up with zeros.
struct LinearWeights {
  enum class Form { kPanels, kDots };
  Form form;
  Precision precision;
  int64_t in, out, steps;
  // kPanels: ceil(out / panel) panels [steps][panel], zero-padded. kDots: rows [out][in] of fp32, for very
  // few outputs.
  const void* words;
  const float* bias;  // [out], zero-padded to whole panels, as the next two
  // int8 only: out[o] = (start[o] + sum of q * weight) * scale[o] + bias[o]. `start` takes the inputs' zero
  // points off.
  const int32_t* start;
  const float* scale;
};

// One call of a dense layer: m rows that lie x_stride and out_stride elements apart.
struct LinearCall {
  const void* x;  // in the precision of the weights
  int64_t x_stride;
  int64_t m;
  bool relu;
  ActivationFormat output;
  void* out;
  int64_t out_stride;
};

using LinearKernel = void(const LinearWeights& weights, const LinearCall& call);

// Sample s: <f_i, f_j> for i in [0, F), j in [0, i), where f_i = features + s * sample_stride + i * dim.
using InteractKernel = void(const float* features, int64_t num_samples, int64_t num_features, int64_t dim,
                            int64_t sample_stride, float* out, int64_t out_stride);

struct Kernels {
  Isa isa;
  // Output columns that a panel of LinearWeights holds.
  int64_t linear_panel;
  // Steps that a layer of each precision takes at once.
  int64_t linear_steps[kNumPrecisions];
  // At most this many outputs are computed as dot products, without panels.
  int64_t linear_max_dots;
  // Rows that a layer takes at once: calls of a multiple of it waste nothing.
  int64_t linear_rows;

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

  // out[i] = act(x[i] W^T + b) by the precision of the weights; act is ReLU or nothing. In int8 the sums are
  // exact and what follows them is the same on every instruction set, to the bit.
  LinearKernel* linear[kNumPrecisions];

  // Writes n floats in another format; bfloat16 rounds half to even. False when one of them is not finite.
  bool (*encode)(const float* x, int64_t n, const ActivationFormat& format, void* out);

  InteractKernel* interact;
  // Of features rounded to bfloat16; null where that is no faster.
  InteractKernel* interact_bf16;

  void (*sigmoid)(const float* x, int64_t n, float* out);

  // Pools bags of ids of one array, as pool_rows does with pointers. The answers of pool_ids and stream_ids
  // are the same to the bit; count_ids adds a row once, times the number of its look-ups in the bag. The
  // latter two are for fp32.
  void (*pool_ids)(const RowArray& table, const IdBags& bags);
  void (*stream_ids)(const RowArray& table, const IdBags& bags);
  void (*count_ids)(const RowArray& table, const IdBags& bags);
};

// The kernels of one instruction set; std::invalid_argument when this machine cannot run it.
// Without extensions it does as if the machine lacked those that are optional in an instruction set (VNNI and
// BF16 in AVX-512), for tests of what then runs.
const Kernels& kernels(Isa isa, bool extensions = true);
// Those of AMX on tiles in plain C++, for tests; std::invalid_argument without AVX-512.
const Kernels& emulated_amx();
// Those of selected_isa().
const Kernels& kernels();

// Working memory of the calling thread: at least `floats` floats, 64-byte-aligned, contents undefined. Kept
// and only ever grown; the next call on the same thread takes it over.
float* thread_scratch(int64_t floats);

}  // namespace screc
