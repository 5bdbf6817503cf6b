#include "base/cpu.h"

#include <cstdlib>
#include <stdexcept>

namespace screc {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

Isa parse_isa(std::string_view name) {
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (name == isa_name(isa)) return isa;
  }
  throw std::invalid_argument("instruction set '" + std::string(name) +
                              "' is unknown; use scalar, avx2 or avx512");
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas{Isa::kScalar};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    isas.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      isas.push_back(Isa::kAvx512);
    }
  }
#endif
  return isas;
}

Isa selected_isa() {
  static const Isa selected = [] {
    const std::vector<Isa> available = supported_isas();
    const char* forced = std::getenv("SCREC_ISA");
    if (forced == nullptr || *forced == '\0') return available.back();
    const Isa wanted = parse_isa(forced);
    for (Isa isa : available) {
      if (isa == wanted) return isa;
    }
    throw std::runtime_error(std::string("SCREC_ISA=") + forced +
                             " is not available on this machine; unset it or use " +
                             isa_name(available.back()));
  }();
  return selected;
}

bool has_avx512_vnni() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vnni") != 0;
#else
  return false;
#endif
}

bool has_avx512_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

}  // namespace screc
