// The table of each instruction set, defined in kernels_<isa>.cc.
#pragma once

#include "kernels/kernels.h"

namespace screc {

const Kernels& scalar_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
// AVX-512 F, BW, DQ and VL; the products of int8 and bfloat16 use VNNI and BF16 where told to.
const Kernels& avx512_kernels(bool vnni, bool bf16);
// All of AVX-512 and dense layers on AMX tiles. The emulated tiles are plain C++ over AVX-512, for tests on
// machines without AMX.
const Kernels& amx_kernels();
const Kernels& emulated_amx_kernels();
InteractKernel interact_bf16_amx;
InteractKernel interact_bf16_emulated_avx512;
void linear_bf16_amx(const LinearWeights& weights, const LinearCall& call);
void linear_int8_amx(const LinearWeights& weights, const LinearCall& call);
void linear_bf16_emulated_avx512(const LinearWeights& weights, const LinearCall& call);
void linear_int8_emulated_avx512(const LinearWeights& weights, const LinearCall& call);
void linear_int8_avx512vnni(const LinearWeights& weights, const LinearCall& call);
void linear_bf16_avx512bf16(const LinearWeights& weights, const LinearCall& call);
#endif

}  // namespace screc
