#include "kernels/fit_kernels.h"
#include "kernels/small_systems.h"
#include "kernels/vec_avx512.h"
#include "kernels/vector_fit.h"

namespace screc {

const FitKernels& avx512_fit_kernels() {
  static constexpr FitKernels kTable{Vec16::kLanes,      scale_rows<Vec16>,
                                     fit_project<Vec16>, fit_correlate<Vec16>,
                                     transpose<Vec16>,   add,
                                     add_double,         solve};
  return kTable;
}

}  // namespace screc
