#include "kernels/tables.h"
#include "kernels/vec_avx2.h"
#include "kernels/vector_linear.h"
#include "kernels/vector_math.h"
#include "kernels/vector_pool.h"
#include "kernels/vector_small.h"
#include "kernels/vector_tt.h"

namespace screc {

const Kernels& avx2_kernels() {
  static constexpr Kernels kTable{Isa::kAvx2,
                                  LinearShape<Vec8>::kPanel,
                                  {1, 1, 1},
                                  LinearShape<Vec8>::kMaxDots,
                                  DotFp32<Vec8>::kRows,
                                  pool_rows<Vec8>,
                                  decode_rows<Vec8>,
                                  tt_rows_with<Vec8, Vec8>,
                                  {linear<DotFp32<Vec8>>, linear<DotBf16<Vec8>>, linear<DotInt8<Vec8>>},
                                  encode<Vec8>,
                                  interact<Vec8>,
                                  nullptr,
                                  sigmoid<Vec8>,
                                  pool_ids<Vec8>,
                                  stream_ids<Vec8>,
                                  count_ids<Vec8>};
  return kTable;
}

}  // namespace screc
