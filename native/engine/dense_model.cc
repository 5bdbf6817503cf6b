#include "engine/dense_model.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace screc {
namespace {

// Elements from one row of activations to the next: whole cache lines, and an odd number of them, since rows
// a power of two apart would share few sets of the caches.
int64_t row_stride(int64_t width, Precision precision) {
  const int64_t per_line = 64 / element_bytes(precision);
  return ((width + per_line - 1) / per_line | 1) * per_line;
}

int64_t row_bytes(int64_t width) { return row_stride(width, Precision::kFp32) * int64_t{sizeof(float)}; }

void check_layers(const char* name, const std::vector<DenseLayer>& layers, int64_t in, int64_t out,
                  const char* in_is, const char* out_is) {
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].in != in) {
      throw std::invalid_argument(std::string(name) + "." + std::to_string(i) + ".weight takes " +
                                  std::to_string(layers[i].in) + " inputs, expected " + std::to_string(in) +
                                  ", " + (i == 0 ? in_is : "the outputs of the layer before"));
    }
    in = layers[i].out;
  }
  if (!layers.empty() && in != out) {
    throw std::invalid_argument(std::string(name) + "." + std::to_string(layers.size() - 1) +
                                ".weight gives " + std::to_string(in) + " outputs, expected " +
                                std::to_string(out) + ", " + out_is);
  }
}

std::vector<PackedLinear> pack_layers(const char* name, const std::vector<DenseLayer>& layers,
                                      const Kernels& kernels) {
  std::vector<PackedLinear> packed;
  packed.reserve(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const DenseLayer& layer = layers[i];
    const InputRange range{layer.range, layer.range + (layer.range == nullptr ? 0 : layer.in)};
    try {
      packed.emplace_back(layer.weight, layer.bias, layer.out, layer.in, kernels, layer.precision,
                          layer.range == nullptr ? nullptr : &range);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(std::string(name) + "." + std::to_string(i) + "." + error.what());
    }
  }
  return packed;
}

}  // namespace

DenseModel::DenseModel(const DenseModelShape& shape, const std::vector<DenseLayer>& bottom,
                       const std::vector<DenseLayer>& top, const Kernels& kernels)
    : kernels_(kernels), num_dense_(shape.num_dense), embedding_dim_(shape.embedding_dim) {
  if (shape.interaction != "dot" && shape.interaction != "cat") {
    throw std::invalid_argument("interaction '" + shape.interaction + "' is unknown; use 'dot' or 'cat'");
  }
  interaction_ = shape.interaction == "dot" ? Interaction::kDot : Interaction::kCat;
  if (num_dense_ < 0) {
    throw std::invalid_argument("num_dense must not be negative, got " + std::to_string(num_dense_));
  }
  if (embedding_dim_ < 1) {
    throw std::invalid_argument("embedding_dim must be positive, got " + std::to_string(embedding_dim_));
  }
  if ((num_dense_ > 0) != !bottom.empty()) {
    throw std::invalid_argument("bottom has " + std::to_string(bottom.size()) + " layers for " +
                                std::to_string(num_dense_) +
                                " dense features; give layers exactly when num_dense is positive");
  }
  if (top.empty()) throw std::invalid_argument("top has no layers; its last one gives the logit");
  for (size_t t = 0; t < shape.table_dims.size() && interaction_ == Interaction::kDot; ++t) {
    if (shape.table_dims[t] != embedding_dim_) {
      throw std::invalid_argument("table " + std::to_string(t) + " has embedding_dim " +
                                  std::to_string(shape.table_dims[t]) + ", expected " +
                                  std::to_string(embedding_dim_) + " as interaction 'dot' needs");
    }
  }

  own_features_ = num_dense_ > 0 ? embedding_dim_ : 0;
  feature_stride_ = std::accumulate(shape.table_dims.begin(), shape.table_dims.end(), own_features_);
  const int64_t num_features = static_cast<int64_t>(shape.table_dims.size()) + (num_dense_ > 0 ? 1 : 0);
  const int64_t top_in = interaction_ == Interaction::kDot
                             ? own_features_ + num_features * (num_features - 1) / 2
                             : feature_stride_;
  check_layers("bottom", bottom, num_dense_, embedding_dim_, "num_dense", "embedding_dim");
  check_layers("top", top, top_in, 1, "the width of the interaction", "the logit");
  bottom_ = pack_layers("bottom", bottom, kernels_);
  top_ = pack_layers("top", top, kernels_);
  const bool rounds = top_[0].input_format().precision != Precision::kFp32;
  interact_ = rounds && kernels_.interact_bf16 != nullptr ? kernels_.interact_bf16 : kernels_.interact;

  int64_t widest = 0;
  flops_per_sample_ = 2 * top_in * embedding_dim_;
  for (const auto* layers : {&bottom_, &top_}) {
    for (const PackedLinear& layer : *layers) {
      widest = std::max(widest, layer.out_features());
      has_int8_ |= layer.input_format().precision == Precision::kInt8;
      const int64_t per_word = 4 / element_bytes(layer.input_format().precision);
      flops_per_sample_ += 2 * layer.in_features() * layer.out_features() / per_word;
    }
  }
  layer_bytes_ = kBlock * row_bytes(widest);
  input_bytes_ = kBlock * row_bytes(std::max(num_dense_, top_in));
  joined_bytes_ = kTogether * row_bytes(top_in);
}

AlignedBuffer DenseModel::make_workspace() const {
  return AlignedBuffer(static_cast<size_t>(2 * layer_bytes_ + input_bytes_ + joined_bytes_));
}

void DenseModel::run(const float* dense, float* features, int64_t count, float* out, AlignedBuffer& workspace,
                     const LayerTap* tap) const {
  uint8_t* const memory = workspace.as<uint8_t>();
  bool finite[kBlock];
  std::fill_n(finite, count, true);
  if (!bottom_.empty()) {
    const Rows x = encoded(bottom_[0], dense, num_dense_, count, memory + 2 * layer_bytes_, finite);
    run_layers(bottom_, 0, x, count, true, features, feature_stride_, memory, tap);
  }
  const Rows x = interaction_ == Interaction::kDot
                     ? interact(features, count, memory, finite)
                     : encoded(top_[0], features, feature_stride_, count, memory + 2 * layer_bytes_, finite);
  run_layers(top_, static_cast<int>(bottom_.size()), x, count, false, out, 1, memory, tap);
  kernels_.sigmoid(out, count, out);
  for (int64_t i = 0; i < count; ++i) {
    if (!finite[i]) out[i] = std::numeric_limits<float>::quiet_NaN();
  }
}

DenseModel::Rows DenseModel::encoded(const PackedLinear& layer, const float* x, int64_t stride, int64_t count,
                                     void* to, bool* finite) const {
  const Precision precision = layer.input_format().precision;
  if (precision == Precision::kFp32 && !has_int8_) return {x, stride};
  const int64_t to_stride = row_stride(layer.in_features(), precision);
  for (int64_t i = 0; i < count; ++i) {
    void* row = static_cast<uint8_t*>(to) + i * to_stride * element_bytes(precision);
    finite[i] &= layer.encode(x + i * stride, row);
  }
  return {to, to_stride};
}

// The top MLP's inputs: the bottom MLP's output and the dot product of every pair of features.
DenseModel::Rows DenseModel::interact(const float* features, int64_t count, uint8_t* workspace,
                                      bool* finite) const {
  const PackedLinear& layer = top_[0];
  const Precision precision = layer.input_format().precision;
  const int64_t stride = row_stride(layer.in_features(), precision);
  uint8_t* const joined = workspace + 2 * layer_bytes_;
  const bool as_it_is = precision == Precision::kFp32 && !has_int8_;
  const int64_t width = as_it_is ? stride : row_stride(layer.in_features(), Precision::kFp32);
  for (int64_t first = 0; first < count; first += kTogether) {
    const int64_t n = std::min(kTogether, count - first);
    const float* const own = features + first * feature_stride_;
    uint8_t* const to = joined + first * stride * element_bytes(precision);
    float* const rows = reinterpret_cast<float*>(as_it_is ? to : joined + input_bytes_);
    for (int64_t i = 0; i < n; ++i) {
      std::copy_n(own + i * feature_stride_, own_features_, rows + i * width);
    }
    interact_(own, n, feature_stride_ / embedding_dim_, embedding_dim_, feature_stride_, rows + own_features_,
              width);
    for (int64_t i = 0; !as_it_is && i < n; ++i) {
      finite[first + i] &= layer.encode(rows + i * width, to + i * stride * element_bytes(precision));
    }
  }
  return {joined, stride};
}

void DenseModel::run_layers(const std::vector<PackedLinear>& layers, int first_number, Rows x, int64_t count,
                            bool relu_last, float* out, int64_t out_stride, uint8_t* workspace,
                            const LayerTap* tap) const {
  for (size_t i = 0; i < layers.size(); ++i) {
    const PackedLinear& layer = layers[i];
    if (tap != nullptr && tap->layer == first_number + static_cast<int>(i)) {
      for (int64_t row = 0; row < count; ++row) {
        std::copy_n(static_cast<const float*>(x.data) + row * x.stride, layer.in_features(),
                    tap->out + row * layer.in_features());
      }
    }
    if (i + 1 == layers.size()) {
      layer.forward(x.data, x.stride, count, relu_last, {}, out, out_stride);
      break;
    }
    const ActivationFormat& format = layers[i + 1].input_format();
    void* to = workspace + static_cast<int64_t>(i % 2) * layer_bytes_;
    const int64_t stride = row_stride(layer.out_features(), format.precision);
    layer.forward(x.data, x.stride, count, true, format, to, stride);
    x = {to, stride};
  }
}

int64_t DenseModel::tapped_inputs(int layer) const {
  for (const auto* layers : {&bottom_, &top_}) {
    for (const PackedLinear& one : *layers) {
      if (one.input_format().precision != Precision::kFp32) {
        throw std::invalid_argument(
            "layer inputs are taken from a model whose layers are all fp32; this one has " +
            std::string(precision_name(one.input_format().precision)));
      }
    }
  }
  if (layer < 0 || layer >= num_layers()) {
    throw std::invalid_argument("layer " + std::to_string(layer) + " is out of range; the model has " +
                                std::to_string(num_layers()));
  }
  const size_t i = static_cast<size_t>(layer);
  return i < bottom_.size() ? bottom_[i].in_features() : top_[i - bottom_.size()].in_features();
}

}  // namespace screc
