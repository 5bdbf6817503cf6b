#include "kernels/kernels.h"

#include <stdexcept>
#include <string>

#include "base/aligned_buffer.h"
#include "kernels/tables.h"

namespace screc {

const char* precision_name(Precision precision) {
  constexpr const char* kNames[kNumPrecisions] = {"fp32", "bf16", "int8"};
  return kNames[static_cast<int>(precision)];
}

Precision parse_precision(std::string_view name) {
  for (Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt8}) {
    if (name == precision_name(precision)) return precision;
  }
  throw std::invalid_argument("precision '" + std::string(name) + "' is unknown; use fp32, bf16 or int8");
}

const Kernels& kernels(Isa isa, bool extensions) {
  for (Isa available : supported_isas()) {
    if (available != isa) continue;
    switch (isa) {
      case Isa::kScalar:
        return scalar_kernels();
#if defined(__x86_64__)
      case Isa::kAvx2:
        return avx2_kernels();
      case Isa::kAvx512:
        return avx512_kernels(extensions && has_avx512_vnni(), extensions && has_avx512_bf16());
      case Isa::kAmx:
        return amx_kernels();
#else
      default:
        break;
#endif
    }
  }
  throw std::invalid_argument(std::string("instruction set '") + isa_name(isa) +
                              "' is not available on this machine; see supported_isas()");
}

const Kernels& emulated_amx() {
  const Kernels& without_tiles = kernels(Isa::kAvx512);  // throws where it cannot run
#if defined(__x86_64__)
  static_cast<void>(without_tiles);
  return emulated_amx_kernels();
#else
  return without_tiles;
#endif
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
