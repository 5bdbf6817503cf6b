#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/pool.h"
#include "bindings/row_codec.h"

namespace screc::bindings {
namespace {

using namespace nb::literals;

void expect_rows(const AnyConstArray& rows, const AnyArray& out, int64_t columns) {
  if (out.shape(0) != rows.shape(0) || out.shape(1) != static_cast<size_t>(columns)) {
    throw nb::value_error(("out: expected shape [" + std::to_string(rows.shape(0)) + ", " +
                           std::to_string(columns) + "], got " + shape_text(out))
                              .c_str());
  }
}

void encode(const AnyConstArray& rows, const std::string& format, const AnyArray& out,
            const SharedScale& scale, int64_t first_row) {
  const float* from = checked<float>(rows, "rows", 2);
  auto* to = checked<uint8_t>(out, "out", 2);
  const RowCodec codec = codec_of(format, static_cast<int64_t>(rows.shape(1)), scale);
  expect_rows(rows, out, codec.row_bytes());
  nb::gil_scoped_release nogil;
  encode_rows(codec, from, static_cast<int64_t>(rows.shape(0)), to, first_row);
}

void decode(const AnyConstArray& rows, const std::string& format, const AnyArray& out,
            const SharedScale& scale, const std::optional<std::string>& isa) {
  const auto* from = checked<uint8_t>(rows, "rows", 2);
  auto* to = checked<float>(out, "out", 2);
  const auto dim = static_cast<int64_t>(out.shape(1)), n = static_cast<int64_t>(rows.shape(0));
  const RowCodec codec = codec_of(format, dim, scale);
  if (codec.format != RowFormat::kFp32) checked_rows_of(codec, rows);
  expect_rows(rows, out, dim);
  const Kernels& k = chosen_kernels(isa);
  nb::gil_scoped_release nogil;
  constexpr int64_t kPiece = 512;
  const void* pointers[kPiece];
  for (int64_t first = 0; first < n; first += kPiece) {
    const int64_t count = n - first < kPiece ? n - first : kPiece;
    for (int64_t i = 0; i < count; ++i) pointers[i] = from + (first + i) * codec.row_bytes();
    k.decode_rows(codec, pointers, count, to + first * dim, dim);
  }
}

}  // namespace

void bind_row_format(nb::module_& module) {
  module.def(
      "row_bytes",
      [](const std::string& format, int64_t dim, bool own_scale) {
        RowCodec codec = make_row_codec(parse_row_format(format), dim);
        codec.own_scale = own_scale;
        return codec.row_bytes();
      },
      "format"_a, "dim"_a, "own_scale"_a = true,
      "Bytes of an encoded row (docs/format.md, 'Row formats'). own_scale: int8 and int4 rows begin with\n"
      "their scale and bias.");
  module.def("encode_rows", &encode, "rows"_a, "format"_a, "out"_a, "scale"_a = nb::none(), "first_row"_a = 0,
             "Writes rows (float32 [n, dim]) in a row format into out (uint8 [n, row_bytes]), to nearest.\n\n"
             "scale: (scale, bias) that all int8 or int4 rows share; None gives each row its own. Raises "
             "ValueError\n"
             "for a value that the format cannot hold, naming its row counted from first_row.");
  module.def("decode_rows", &decode, "rows"_a, "format"_a, "out"_a, "scale"_a = nb::none(),
             "isa"_a = nb::none(),
             "Values of encoded rows (uint8 [n, row_bytes]) into out (float32 [n, dim]); codes give\n"
             "bias + scale * code, rounded once.");
}

}  // namespace screc::bindings
