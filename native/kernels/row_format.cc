#include "kernels/row_format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace screc {
namespace {

constexpr RowFormat kFormats[] = {RowFormat::kFp32, RowFormat::kFp16, RowFormat::kBf16, RowFormat::kInt8,
                                  RowFormat::kInt4};
constexpr float kMaxFp16 = 65504.0f;
constexpr std::uint32_t kInfinity = 0x7f800000;

std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// To nearest, ties to even. A finite value of 65520 or more becomes an infinity.
std::uint16_t fp16_of(float x) {
  const std::uint32_t sign = bits_of(x) >> 16 & 0x8000;
  const std::uint32_t bits = bits_of(x) & 0x7fffffff;
  if (bits > kInfinity) return static_cast<std::uint16_t>(sign | 0x7e00);
  if (bits <
      0x38800000) {  // below 2^-14: adding 1/2 leaves the subnormal's mantissa in the last bits, rounded
    return static_cast<std::uint16_t>(sign | (bits_of(float_of(bits) + 0.5f) - bits_of(0.5f)));
  }
  const std::uint32_t rounded = (bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
  return static_cast<std::uint16_t>(sign | std::min(rounded, 0x7c00u));
}

std::uint16_t bf16_of(float x) {
  const std::uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffff) > kInfinity) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The neighbour of `half` towards plus infinity; -0 counts as 0.
std::uint16_t next_up(std::uint16_t half) {
  if ((half & 0x7fff) == 0) return 1;
  return static_cast<std::uint16_t>((half & 0x8000) != 0 ? half - 1 : half + 1);
}

std::uint16_t next_down(std::uint16_t half) {
  return static_cast<std::uint16_t>(next_up(half ^ 0x8000) ^ 0x8000);
}

std::string number(float x) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", static_cast<double>(x));
  return text;
}

[[noreturn]] void refuse(const RowCodec& codec, std::int64_t row, const std::string& why) {
  throw std::invalid_argument("rows[" + std::to_string(row) + "] " + why + ", which " +
                              row_format_name(codec.format) + " rows cannot hold; use fp32");
}

// A finite value that became an infinity, if any.
template <typename To>
void encode_short(const RowCodec& codec, const float* row, std::int64_t number_of_row, unsigned char* out,
                  std::uint16_t infinity, const To& to) {
  bool overflow = false;
  for (std::int64_t c = 0; c < codec.dim; ++c) {
    const std::uint16_t half = to(row[c]);
    overflow |= (half & 0x7fff) == infinity && (bits_of(row[c]) & kInfinity) != kInfinity;
    std::memcpy(out + 2 * c, &half, sizeof(half));
  }
  if (!overflow) return;
  for (std::int64_t c = 0; c < codec.dim; ++c) {
    if ((to(row[c]) & 0x7fff) == infinity && std::isfinite(row[c])) {
      refuse(codec, number_of_row, "holds " + number(row[c]));
    }
  }
}

void check_finite(const RowCodec& codec, const float* row, std::int64_t number_of_row) {
  bool wrong = false;
  for (std::int64_t c = 0; c < codec.dim; ++c) wrong |= (bits_of(row[c]) & kInfinity) == kInfinity;
  for (std::int64_t c = 0; wrong && c < codec.dim; ++c) {
    if (!std::isfinite(row[c])) refuse(codec, number_of_row, "holds " + number(row[c]));
  }
}

// Writes the header of a row with its own scale.
RowScale encode_scale(const RowCodec& codec, const float* row, std::int64_t number_of_row, float levels,
                      unsigned char* out) {
  float low = row[0], high = row[0];
  for (std::int64_t c = 1; c < codec.dim; ++c) {
    low = std::min(low, row[c]);
    high = std::max(high, row[c]);
  }
  if (std::abs(low) > kMaxFp16) {
    refuse(codec, number_of_row, "has the bias " + number(low) + " beyond fp16's 65504");
  }
  low += 0.0f;  // -0 becomes 0, so that the bytes do not depend on which zero comes first
  high += 0.0f;
  std::uint16_t bias = fp16_of(low);
  if (float_of_fp16(bias) > low) bias = next_down(bias);
  const float wanted = (high - float_of_fp16(bias)) / levels;
  if (!(wanted <= kMaxFp16)) {
    refuse(codec, number_of_row, "has the scale " + number(wanted) + " beyond fp16's 65504");
  }
  std::uint16_t scale = fp16_of(wanted);
  if (float_of_fp16(scale) < wanted) scale = next_up(scale);
  std::memcpy(out, &scale, sizeof(scale));
  std::memcpy(out + 2, &bias, sizeof(bias));
  return {float_of_fp16(scale), float_of_fp16(bias)};
}

// In [0, levels], to nearest: adding 1.5 * 2^23 leaves the integer in the last bits.
std::uint8_t code_of(float x, RowScale scale, float levels) {
  const float code = std::min(std::max((x - scale.bias) / scale.scale, 0.0f), levels);
  return static_cast<std::uint8_t>(bits_of(code + 12582912.0f));
}

void encode_codes(const RowCodec& codec, const float* row, RowScale scale, unsigned char* out) {
  if (scale.scale == 0.0f) {
    std::memset(out, 0, static_cast<std::size_t>(codec.row_bytes() - codec.header_bytes()));
    return;
  }
  if (codec.format == RowFormat::kInt8) {
    for (std::int64_t c = 0; c < codec.dim; ++c) out[c] = code_of(row[c], scale, 255.0f);
    return;
  }
  for (std::int64_t c = 0; c < codec.dim; c += 2) {
    const std::uint8_t even = code_of(row[c], scale, 15.0f);
    const std::uint8_t odd = c + 1 < codec.dim ? code_of(row[c + 1], scale, 15.0f) : std::uint8_t{0};
    out[c / 2] = static_cast<unsigned char>(even | odd << 4);
  }
}

}  // namespace

const char* row_format_name(RowFormat format) {
  switch (format) {
    case RowFormat::kFp32:
      return "fp32";
    case RowFormat::kFp16:
      return "fp16";
    case RowFormat::kBf16:
      return "bf16";
    case RowFormat::kInt8:
      return "int8";
    case RowFormat::kInt4:
      return "int4";
  }
  return "unknown";
}

RowFormat parse_row_format(const std::string& name) {
  for (RowFormat format : kFormats) {
    if (name == row_format_name(format)) return format;
  }
  throw std::invalid_argument("format: '" + name + "' is unknown; use fp32, fp16, bf16, int8 or int4");
}

std::int64_t RowCodec::row_bytes() const {
  switch (format) {
    case RowFormat::kFp32:
      return 4 * dim;
    case RowFormat::kFp16:
    case RowFormat::kBf16:
      return 2 * dim;
    case RowFormat::kInt8:
      return header_bytes() + dim;
    case RowFormat::kInt4:
      return header_bytes() + (dim + 1) / 2;
  }
  return 0;
}

RowCodec make_row_codec(RowFormat format, std::int64_t dim, const RowScale* shared) {
  if (dim < 1) throw std::invalid_argument("dim: must be at least 1, got " + std::to_string(dim));
  RowCodec codec{format, dim};
  if (shared == nullptr) return codec;
  if (!codec.quantised()) {
    throw std::invalid_argument(std::string("scale: ") + row_format_name(format) +
                                " rows have none; only int8 and int4 rows do");
  }
  if (!std::isfinite(shared->scale) || !std::isfinite(shared->bias) || shared->scale < 0.0f) {
    throw std::invalid_argument("scale: expected a finite scale >= 0 and a finite bias, got " +
                                number(shared->scale) + " and " + number(shared->bias));
  }
  codec.own_scale = false;
  codec.shared = *shared;
  return codec;
}

void encode_rows(const RowCodec& codec, const float* rows, std::int64_t n, unsigned char* out,
                 std::int64_t first_row) {
  const std::int64_t row_bytes = codec.row_bytes();
  const float levels = codec.format == RowFormat::kInt8 ? 255.0f : 15.0f;
  for (std::int64_t i = 0; i < n; ++i) {
    const float* row = rows + i * codec.dim;
    unsigned char* to = out + i * row_bytes;
    switch (codec.format) {
      case RowFormat::kFp32:
        std::memcpy(to, row, static_cast<std::size_t>(row_bytes));
        break;
      case RowFormat::kFp16:
        encode_short(codec, row, first_row + i, to, 0x7c00, fp16_of);
        break;
      case RowFormat::kBf16:
        encode_short(codec, row, first_row + i, to, 0x7f80, bf16_of);
        break;
      case RowFormat::kInt8:
      case RowFormat::kInt4: {
        check_finite(codec, row, first_row + i);
        const RowScale scale =
            codec.own_scale ? encode_scale(codec, row, first_row + i, levels, to) : codec.shared;
        encode_codes(codec, row, scale, to + codec.header_bytes());
        break;
      }
    }
  }
}

}  // namespace screc
