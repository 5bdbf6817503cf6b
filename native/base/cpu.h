// Which instruction sets this machine has, and which one the kernels use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace screc {

// kAmx is everything of kAvx512 and tiles for the products of dense layers.
enum class Isa { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3 };

const char* isa_name(Isa isa);
// Throws std::invalid_argument naming the value and the accepted ones.
Isa parse_isa(std::string_view name);
// Every instruction set that can run here, slowest first.
std::vector<Isa> supported_isas();
// The best supported one, or the one that SCREC_ISA forces (std::runtime_error when this machine lacks it).
// Read once, at first use.
Isa selected_isa();

// Optional extensions of AVX-512: instructions for products of int8 and of bfloat16.
bool has_avx512_vnni();
bool has_avx512_bf16();

}  // namespace screc
