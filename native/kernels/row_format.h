// How the rows of a band are written as bytes (docs/format.md, "Row formats"): encoding, and decoding one
// row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace screc {

enum class RowFormat { kFp32, kFp16, kBf16, kInt8, kInt4 };

const char* row_format_name(RowFormat format);
// Throws std::invalid_argument naming the value and the accepted ones.
RowFormat parse_row_format(const std::string& name);

// value = bias + scale * code.
struct RowScale {
  float scale = 1.0f, bias = 0.0f;
  bool operator==(const RowScale&) const = default;
};

// What is needed to read the rows of a band. Rows need no alignment, but for fp32, which needs that of a
// float.
struct RowCodec {
  RowFormat format = RowFormat::kFp32;
  std::int64_t dim = 0;
  // int8 and int4: each row begins with its own scale and bias in fp16, else `shared` holds for all rows.
  bool own_scale = true;
  RowScale shared = {};

  bool operator==(const RowCodec&) const = default;
  bool quantised() const { return format == RowFormat::kInt8 || format == RowFormat::kInt4; }
  // Bytes before the first code.
  std::int64_t header_bytes() const { return quantised() && own_scale ? 4 : 0; }
  std::int64_t row_bytes() const;
};

// A codec without `shared` gives each quantised row its own scale. Throws std::invalid_argument for a
// dimension below 1, and for a shared scale that is negative, not finite, or given to a format without codes.
RowCodec make_row_codec(RowFormat format, std::int64_t dim, const RowScale* shared = nullptr);

// Writes n rows, float32 [n, dim], as uint8 [n, row_bytes], rounding to nearest (ties to even). With scales
// of their own, rows come back within half their scale: the bias is the smallest value rounded down to fp16,
// the scale rounded up. With a shared scale, values outside the codes' range take the nearest code. Throws
// std::invalid_argument naming the row, counted from `first_row`, for values that are not finite (in
// quantised rows) or finite values that the format cannot hold.
void encode_rows(const RowCodec& codec, const float* rows, std::int64_t n, unsigned char* out,
                 std::int64_t first_row = 0);

inline float float_of_fp16(std::uint16_t half) {
  std::uint32_t bits = static_cast<std::uint32_t>(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  value *= 0x1p112f;  // exact, for subnormals too
  std::memcpy(&bits, &value, sizeof(bits));
  if ((half & 0x7c00) == 0x7c00) bits |= 0x7f800000u;
  bits |= static_cast<std::uint32_t>(half & 0x8000) << 16;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float float_of_bf16(std::uint16_t brain) {
  const std::uint32_t bits = static_cast<std::uint32_t>(brain) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The scale and bias that a row with its own begins with.
inline RowScale row_scale(const std::byte* row) {
  std::uint16_t halves[2];
  std::memcpy(halves, row, sizeof(halves));
  return {float_of_fp16(halves[0]), float_of_fp16(halves[1])};
}

}  // namespace screc
