#include "kernels/fit_kernels.h"
#include "kernels/small_systems.h"
#include "kernels/vec_avx2.h"
#include "kernels/vector_fit.h"

namespace screc {

const FitKernels& avx2_fit_kernels() {
  static constexpr FitKernels kTable{Vec8::kLanes,      scale_rows<Vec8>,
                                     fit_project<Vec8>, fit_correlate<Vec8>,
                                     transpose<Vec8>,   add,
                                     add_double,        solve};
  return kTable;
}

}  // namespace screc
