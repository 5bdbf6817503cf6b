#include "base/cpu.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace screc {
namespace {

// The kernel saves 8 KiB of tiles only for processes that ask for it; asking again is harmless.
bool has_amx() {
#if defined(__x86_64__)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl(2)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!has_avx512_vnni() || !has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & kBf16) != 0 && (d & kTile) != 0 && (d & kInt8) != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

Isa parse_isa(std::string_view name) {
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (name == isa_name(isa)) return isa;
  }
  throw std::invalid_argument("instruction set '" + std::string(name) +
                              "' is unknown; use scalar, avx2, avx512 or amx");
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
      if (has_amx()) isas.push_back(Isa::kAmx);
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
