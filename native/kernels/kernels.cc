#include "kernels/kernels.h"

#include <stdexcept>
#include <string>

#include "base/aligned_buffer.h"
#include "kernels/tables.h"

namespace screc {

const Kernels& kernels(Isa isa) {
  for (Isa available : supported_isas()) {
    if (available != isa) continue;
    switch (isa) {
      case Isa::kScalar:
        return scalar_kernels();
#if defined(__x86_64__)
      case Isa::kAvx2:
        return avx2_kernels();
      case Isa::kAvx512:
        return avx512_kernels();
#else
      default:
        break;
#endif
    }
  }
  throw std::invalid_argument(std::string("instruction set '") + isa_name(isa) +
                              "' is not available on this machine; see supported_isas()");
}

const Kernels& kernels() {
  static const Kernels& selected = kernels(selected_isa());
  return selected;
}

float* thread_scratch(int64_t floats) {
  thread_local AlignedBuffer buffer;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (buffer.size() < bytes) buffer = AlignedBuffer(bytes);
  return buffer.as<float>();
}

}  // namespace screc
