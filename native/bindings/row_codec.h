// Arguments that say how rows are encoded.
#pragma once

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>
#include <utility>

#include "bindings/arrays.h"
#include "kernels/row_format.h"

namespace screc::bindings {

using SharedScale = std::optional<std::pair<float, float>>;

// Without a shared scale each quantised row has its own.
inline RowCodec codec_of(const std::string& format, int64_t dim, const SharedScale& scale) {
  if (!scale) return make_row_codec(parse_row_format(format), dim);
  const RowScale shared{scale->first, scale->second};
  return make_row_codec(parse_row_format(format), dim, &shared);
}

// The data of rows in the codec: float32 [n, dim] for fp32, uint8 [n, row_bytes] for the other formats.
inline const void* checked_rows_of(const RowCodec& codec, const AnyConstArray& rows) {
  if (codec.format == RowFormat::kFp32) return checked<float>(rows, "rows", 2);
  const auto* data = checked<uint8_t>(rows, "rows", 2);
  if (rows.shape(1) != static_cast<size_t>(codec.row_bytes())) {
    throw nb::value_error(("rows: " + std::string(row_format_name(codec.format)) + " rows of " +
                           std::to_string(codec.dim) + " columns take " + std::to_string(codec.row_bytes()) +
                           " bytes" + (codec.header_bytes() > 0 ? ", scale and bias included" : "") +
                           "; got shape " + shape_text(rows))
                              .c_str());
  }
  return data;
}

}  // namespace screc::bindings
