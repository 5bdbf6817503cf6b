#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "base/aligned_buffer.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/pool.h"
#include "bindings/row_codec.h"
#include "kernels/linear.h"

namespace screc::bindings {
namespace {

using namespace nb::literals;
using IsaName = std::optional<std::string>;

int64_t dim(const auto& array, size_t i) { return static_cast<int64_t>(array.shape(i)); }

void expect_shape(const auto& array, const char* name, std::initializer_list<int64_t> shape) {
  bool same = array.ndim() == shape.size();
  std::string wanted = "[";
  size_t i = 0;
  for (int64_t size : shape) {
    same = same && dim(array, i) == size;
    wanted += (i++ ? ", " : "") + std::to_string(size);
  }
  if (!same) {
    throw nb::value_error(
        (std::string(name) + ": expected shape " + wanted + "], got " + shape_text(array)).c_str());
  }
}

void check_ids(const int64_t* ids, int64_t n, int64_t num_rows) {
  for (int64_t k = 0; k < n; ++k) {
    if (ids[k] < 0 || ids[k] >= num_rows) {
      throw std::invalid_argument("ids[" + std::to_string(k) + "] = " + std::to_string(ids[k]) +
                                  " is out of range for " + std::to_string(num_rows) + " rows");
    }
  }
}

void check_offsets(const int64_t* offsets, int64_t num_bags, int64_t num_ids) {
  const auto fail = [&](int64_t b, const std::string& why) {
    throw std::invalid_argument("offsets[" + std::to_string(b) + "] = " + std::to_string(offsets[b]) + why);
  };
  if (offsets[0] != 0) fail(0, ", expected 0");
  for (int64_t b = 0; b < num_bags; ++b) {
    if (offsets[b + 1] < offsets[b]) fail(b + 1, " is less than the offset before it");
  }
  if (offsets[num_bags] != num_ids)
    fail(num_bags, ", expected the number of ids, " + std::to_string(num_ids));
}

void gather_rows(const AnyConstArray& rows, const AnyConstArray& ids, const AnyArray& out, ThreadPool* pool,
                 const IsaName& isa) {
  const float* from = checked<float>(rows, "rows", 2);
  const int64_t* id = checked<int64_t>(ids, "ids", 1);
  float* to = checked<float>(out, "out", 2);
  const int64_t n = dim(ids, 0), width = dim(rows, 1), num_rows = dim(rows, 0);
  expect_shape(out, "out", {n, width});
  const Kernels& k = chosen_kernels(isa);
  nb::gil_scoped_release nogil;
  check_ids(id, n, num_rows);
  share(pool, n, 1024, [&](int64_t begin, int64_t end) {
    k.pool_ids({reinterpret_cast<const std::byte*>(from), num_rows, {RowFormat::kFp32, width}},
               {id + begin, nullptr, end - begin, false, to + begin * width, width});
  });
}

void pool_rows(const AnyConstArray& rows, const AnyConstArray& ids, const AnyConstArray& offsets,
               const AnyArray& out, bool mean, const std::string& format, const SharedScale& scale,
               ThreadPool* pool, const IsaName& isa) {
  const int64_t* id = checked<int64_t>(ids, "ids", 1);
  const int64_t* offset = checked<int64_t>(offsets, "offsets", 1);
  float* to = checked<float>(out, "out", 2);
  const int64_t n = dim(ids, 0), width = dim(out, 1), num_rows = dim(rows, 0);
  const RowCodec codec = codec_of(format, width, scale);
  const auto* from = static_cast<const std::byte*>(checked_rows_of(codec, rows));
  if (codec.format == RowFormat::kFp32) expect_shape(rows, "rows", {num_rows, width});
  if (dim(offsets, 0) < 1) throw nb::value_error("offsets: expected at least 1 entry, got none");
  const int64_t num_bags = dim(offsets, 0) - 1;
  expect_shape(out, "out", {num_bags, width});
  const Kernels& k = chosen_kernels(isa);
  nb::gil_scoped_release nogil;
  check_offsets(offset, num_bags, n);
  check_ids(id, n, num_rows);
  const int64_t row_bytes = codec.row_bytes();
  std::vector<const void*> pointers(static_cast<size_t>(n));
  share(pool, num_bags, 512, [&](int64_t begin, int64_t end) {
    for (int64_t i = offset[begin]; i < offset[end]; ++i) {
      pointers[static_cast<size_t>(i)] = from + id[i] * row_bytes;
    }
    k.pool_rows(codec, pointers.data(), offset + begin, end - begin, mean, to + begin * width, width);
  });
}

TtCores make_cores(const std::vector<AnyConstArray>& cores) {
  std::vector<TtCoreView> views;
  for (size_t i = 0; i < cores.size(); ++i) {
    const std::string name = "cores[" + std::to_string(i) + "]";
    const float* data = checked<float>(cores[i], name.c_str(), 4);
    views.push_back({data, dim(cores[i], 0), dim(cores[i], 1), dim(cores[i], 2), dim(cores[i], 3)});
  }
  return TtCores(views);
}

void tt_rows(const std::vector<AnyConstArray>& cores, const AnyConstArray& ids, const AnyArray& out,
             ThreadPool* pool, const IsaName& isa) {
  const int64_t* id = checked<int64_t>(ids, "ids", 1);
  float* to = checked<float>(out, "out", 2);
  const TtCores packed = make_cores(cores);
  const int64_t n = dim(ids, 0), width = packed.embedding_dim();
  expect_shape(out, "out", {n, width});
  const Kernels& k = chosen_kernels(isa);
  nb::gil_scoped_release nogil;
  check_ids(id, n, packed.num_rows());
  share(pool, n, 256,
        [&](int64_t begin, int64_t end) { k.tt_rows(packed, id + begin, end - begin, to + begin * width); });
}

// As chosen_kernels, and those without extensions or on emulated tiles.
const Kernels& variant(const IsaName& isa, bool extensions) {
  return isa == "amx-emulated" ? emulated_amx() : kernels(isa ? parse_isa(*isa) : selected_isa(), extensions);
}

PackedLinear make_linear(const AnyConstArray& weight, const AnyConstArray& bias, const std::string& precision,
                         const std::optional<AnyConstArray>& range, const IsaName& isa, bool extensions) {
  const float* w = checked<float>(weight, "weight", 2);
  const float* b = checked<float>(bias, "bias", 1);
  expect_shape(bias, "bias", {dim(weight, 0)});
  InputRange span{};
  if (range) {
    const float* low = checked<float>(*range, "range", 2);
    expect_shape(*range, "range", {2, dim(weight, 1)});
    span = {low, low + dim(weight, 1)};
  }
  return PackedLinear(w, b, dim(weight, 0), dim(weight, 1), variant(isa, extensions),
                      parse_precision(precision), range ? &span : nullptr);
}

// The array's data, once its dtype is how `precision` is written.
void* written(const AnyArray& array, const char* name, Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return checked<float>(array, name, 2);
    case Precision::kBf16:
      return checked<uint16_t>(array, name, 2);
    case Precision::kInt8:
      break;
  }
  return checked<uint8_t>(array, name, 2);
}

const void* read(const AnyConstArray& array, const char* name, Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return checked<float>(array, name, 2);
    case Precision::kBf16:
      return checked<uint16_t>(array, name, 2);
    case Precision::kInt8:
      break;
  }
  return checked<uint8_t>(array, name, 2);
}

void linear_forward(const PackedLinear& layer, const AnyConstArray& x, const AnyArray& out, bool relu,
                    const PackedLinear* next, ThreadPool* pool) {
  const ActivationFormat output = next == nullptr ? ActivationFormat{} : next->input_format();
  const Precision input = layer.input_format().precision;
  const uint8_t* from = static_cast<const uint8_t*>(read(x, "x", input));
  uint8_t* to = static_cast<uint8_t*>(written(out, "out", output.precision));
  const int64_t m = dim(x, 0), in = layer.in_features(), width = layer.out_features();
  expect_shape(x, "x", {m, in});
  expect_shape(out, "out", {m, width});
  if (next != nullptr && next->in_features() != width) {
    throw nb::value_error(("next: takes " + std::to_string(next->in_features()) + " inputs, expected " +
                           std::to_string(width) + ", the outputs of this layer")
                              .c_str());
  }
  const int64_t x_row = in * element_bytes(input), out_row = width * element_bytes(output.precision);
  nb::gil_scoped_release nogil;
  share(pool, m, 96, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += 96) {  // so many rows of input stay in the second-level cache
      const int64_t rows = end - row < 96 ? end - row : 96;
      layer.forward(from + row * x_row, in, rows, relu, output, to + row * out_row, width);
    }
  });
}

bool linear_encode(const PackedLinear& layer, const AnyConstArray& x, const AnyArray& out) {
  const float* from = checked<float>(x, "x", 2);
  const ActivationFormat& format = layer.input_format();
  uint8_t* to = static_cast<uint8_t*>(written(out, "out", format.precision));
  const int64_t m = dim(x, 0), in = layer.in_features();
  expect_shape(x, "x", {m, in});
  expect_shape(out, "out", {m, in});
  nb::gil_scoped_release nogil;
  bool finite = true;
  for (int64_t i = 0; i < m; ++i) {
    finite &= layer.encode(from + i * in, to + i * in * element_bytes(format.precision));
  }
  return finite;
}

void interact(const AnyConstArray& features, const AnyArray& out, ThreadPool* pool, const IsaName& isa,
              bool bf16) {
  const float* from = checked<float>(features, "features", 3);
  float* to = checked<float>(out, "out", 2);
  const int64_t batch = dim(features, 0), f = dim(features, 1), d = dim(features, 2);
  const int64_t pairs = f * (f - 1) / 2;
  expect_shape(out, "out", {batch, pairs});
  const Kernels& k = variant(isa, true);
  if (bf16 && k.interact_bf16 == nullptr) {
    throw nb::value_error((std::string("bf16: ") + isa_name(k.isa) + " interacts in float32 only").c_str());
  }
  InteractKernel* const kernel = bf16 ? k.interact_bf16 : k.interact;
  nb::gil_scoped_release nogil;
  share(pool, batch, 128, [&](int64_t begin, int64_t end) {
    kernel(from + begin * f * d, end - begin, f, d, f * d, to + begin * pairs, pairs);
  });
}

void sigmoid(const AnyConstArray& x, const AnyArray& out, ThreadPool* pool, const IsaName& isa) {
  const float* from = checked<float>(x, "x", 1);
  float* to = checked<float>(out, "out", 1);
  expect_shape(out, "out", {dim(x, 0)});
  const Kernels& k = chosen_kernels(isa);
  nb::gil_scoped_release nogil;
  share(pool, dim(x, 0), 4096,
        [&](int64_t begin, int64_t end) { k.sigmoid(from + begin, end - begin, to + begin); });
}

nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> empty(int64_t num_bytes) {
  if (num_bytes < 0) {
    throw nb::value_error(("num_bytes: must not be negative, got " + std::to_string(num_bytes)).c_str());
  }
  auto* buffer = new AlignedBuffer(static_cast<size_t>(num_bytes));
  nb::capsule owner(buffer, [](void* p) noexcept { delete static_cast<AlignedBuffer*>(p); });
  return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(buffer->data(), {buffer->size()}, owner);
}

}  // namespace

void bind_kernels(nb::module_& module) {
  module.def(
      "isa", [] { return std::string(isa_name(selected_isa())); },
      "The instruction set in use: the best this machine has, or the one that SCREC_ISA forces.");
  module.def(
      "supported_isas",
      [] {
        std::vector<std::string> names;
        for (Isa isa : supported_isas()) names.emplace_back(isa_name(isa));
        return names;
      },
      "Every instruction set that can run here, slowest first.");

  nb::class_<ThreadPool>(module, "ThreadPool",
                         "Worker threads that share one loop at a time with the caller.\n\n"
                         "num_threads counts the caller; 0 means one per available core.")
      .def(
          "__init__",
          [](ThreadPool* self, int num_threads) {
            if (num_threads < 0) {
              throw nb::value_error(("num_threads: must not be negative, got " + std::to_string(num_threads) +
                                     "; use 0 for one per core")
                                        .c_str());
            }
            new (self) ThreadPool(num_threads);
          },
          "num_threads"_a = 0)
      .def_prop_ro("num_threads", &ThreadPool::num_threads, "Threads, the caller included.");

  module.def("gather_rows", &gather_rows, "rows"_a, "ids"_a, "out"_a, "pool"_a.none() = nb::none(),
             "isa"_a = nb::none(),
             "out[i] = rows[ids[i]].\n\n"
             "rows float32 [N, d], ids int64 [n], out float32 [n, d]. ValueError for an id outside [0, N).");
  module.def(
      "pool_rows", &pool_rows, "rows"_a, "ids"_a, "offsets"_a, "out"_a, "mean"_a = false, "format"_a = "fp32",
      "scale"_a = nb::none(), "pool"_a.none() = nb::none(), "isa"_a = nb::none(),
      "out[b] = sum (or mean) of rows[ids[offsets[b]:offsets[b + 1]]]; an empty bag gives zeros.\n\n"
      "rows float32 [N, d], or uint8 [N, row_bytes] in another format (see encode_rows); ids int64 [n],\n"
      "offsets int64 [B + 1], out float32 [B, d]. ValueError for an id outside [0, N) and for offsets that "
      "do not rise from 0 to n.");
  module.def(
      "tt_rows", &tt_rows, "cores"_a, "ids"_a, "out"_a, "pool"_a.none() = nb::none(), "isa"_a = nb::none(),
      "Rebuilds rows of a tensor-train table (TT-Rec, arXiv 2101.11714, section 3).\n\n"
      "cores: float32 [r_k, p_k, q_k, r_(k+1)] each, ids int64 [n] below the product of all p_k, out\n"
      "float32 [n, product of all q_k]. Cores are repacked at each call; the row store keeps them packed.");

  nb::class_<PackedLinear>(
      module, "Linear",
      "A dense layer, packed once for one instruction set and one precision: 'fp32', 'bf16' or 'int8'.\n\n"
      "weight float32 [out, in], bias float32 [out]; both are copied. An int8 layer needs range, float32\n"
      "[2, in]: the least and the largest value of each input, with 0 between them; values outside are\n"
      "clamped. ValueError for weights or ranges that are not finite. For tests, extensions=False does "
      "without\n"
      "VNNI and BF16 instructions, and isa 'amx-emulated' runs AMX's kernels on tiles in plain C++.")
      .def(
          "__init__",
          [](PackedLinear* self, const AnyConstArray& weight, const AnyConstArray& bias,
             const std::string& precision, const std::optional<AnyConstArray>& range, const IsaName& isa,
             bool extensions) {
            new (self) PackedLinear(make_linear(weight, bias, precision, range, isa, extensions));
          },
          "weight"_a, "bias"_a, "precision"_a = "fp32", "range"_a = nb::none(), "isa"_a = nb::none(),
          "extensions"_a = true)
      .def("encode", &linear_encode, "x"_a, "out"_a,
           "Writes x float32 [M, in] as this layer takes it: out float32, uint16 (bf16) or uint8 (int8) [M, "
           "in].\n\n"
           "False when a value is not finite.")
      .def("forward", &linear_forward, "x"_a, "out"_a, "relu"_a = false, "next"_a.none() = nb::none(),
           "pool"_a.none() = nb::none(),
           "out = x @ weight.T + bias, then max(0, out) with relu. x [M, in] as encode writes it, out [M, "
           "out]\n"
           "float32, or as the layer `next` takes it. A row's result does not depend on M.")
      .def_prop_ro("in_features", &PackedLinear::in_features, "Inputs of the layer.")
      .def_prop_ro("out_features", &PackedLinear::out_features, "Outputs of the layer.")
      .def_prop_ro(
          "isa", [](const PackedLinear& self) { return std::string(isa_name(self.isa())); },
          "The instruction set the weights are packed for.");

  module.def(
      "interact", &interact, "features"_a, "out"_a, "pool"_a.none() = nb::none(), "isa"_a = nb::none(),
      "bf16"_a = false,
      "Dot products of pairs of features, <f_i, f_j> for i in range(F) for j in range(i).\n\n"
      "features float32 [B, F, d], out float32 [B, F * (F - 1) / 2]. bf16 rounds the features first;\n"
      "ValueError where the instruction set has no faster way for that. isa also takes 'amx-emulated'.");
  module.def("sigmoid", &sigmoid, "x"_a, "out"_a, "pool"_a.none() = nb::none(), "isa"_a = nb::none(),
             "out = 1 / (1 + exp(-x)) within 2e-7. x and out float32 [n].");
  module.def(
      "empty", &empty, "num_bytes"_a,
      "Zeroed, 64-byte-aligned memory as uint8 [num_bytes], on huge pages where the system grants them.");
}

}  // namespace screc::bindings
