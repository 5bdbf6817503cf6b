// The table of each instruction set, defined in kernels_<isa>.cc.
#pragma once

#include "kernels/kernels.h"

namespace screc {

const Kernels& scalar_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace screc
