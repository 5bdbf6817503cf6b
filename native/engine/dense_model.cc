#include "engine/dense_model.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace screc {
namespace {

// Whole cache lines, and an odd number of them: rows a power of two apart would share few sets of the caches.
int64_t padded_stride(int64_t width) {
  const int64_t whole = (width + 15) / 16 * 16;
  return whole + (whole % 32 == 0 ? 16 : 0);
}

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

std::vector<PackedLinear> pack_layers(const std::vector<DenseLayer>& layers, const Kernels& kernels) {
  std::vector<PackedLinear> packed;
  packed.reserve(layers.size());
  for (const DenseLayer& layer : layers) {
    packed.emplace_back(layer.weight, layer.bias, layer.out, layer.in, kernels);
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
  bottom_ = pack_layers(bottom, kernels_);
  top_ = pack_layers(top, kernels_);

  int64_t widest = 0;
  flops_per_sample_ = 2 * top_in * embedding_dim_;
  for (const auto* layers : {&bottom_, &top_}) {
    for (const PackedLinear& layer : *layers) {
      widest = std::max(widest, layer.out_features());
      flops_per_sample_ += 2 * layer.in_features() * layer.out_features();
    }
  }
  layer_stride_ = padded_stride(widest);
  top_stride_ = padded_stride(top_in);
}

AlignedBuffer DenseModel::make_workspace() const {
  // Two layers' outputs and the top MLP's input.
  return AlignedBuffer(static_cast<size_t>(kBlock * (2 * layer_stride_ + top_stride_)) * sizeof(float));
}

void DenseModel::run(const float* dense, float* features, int64_t count, float* out,
                     AlignedBuffer& workspace) const {
  float* const scratch[2] = {workspace.as<float>(), workspace.as<float>() + kBlock * layer_stride_};
  run_layers(bottom_, dense, num_dense_, count, true, features, feature_stride_, scratch);

  const float* top_in = features;
  int64_t top_stride = feature_stride_;
  if (interaction_ == Interaction::kDot) {
    float* joined = workspace.as<float>() + 2 * kBlock * layer_stride_;
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(features + i * feature_stride_, own_features_, joined + i * top_stride_);
    }
    kernels_.interact(features, count, feature_stride_ / embedding_dim_, embedding_dim_, feature_stride_,
                      joined + own_features_, top_stride_);
    top_in = joined;
    top_stride = top_stride_;
  }
  run_layers(top_, top_in, top_stride, count, false, out, 1, scratch);
  kernels_.sigmoid(out, count, out);
}

void DenseModel::run_layers(const std::vector<PackedLinear>& layers, const float* x, int64_t x_stride,
                            int64_t count, bool relu_last, float* out, int64_t out_stride,
                            float* const scratch[2]) const {
  for (size_t i = 0; i < layers.size(); ++i) {
    const bool last = i + 1 == layers.size();
    float* to = last ? out : scratch[i % 2];
    const int64_t to_stride = last ? out_stride : layer_stride_;
    layers[i].forward(x, x_stride, count, relu_last || !last, to, to_stride);
    x = to;
    x_stride = to_stride;
  }
}

}  // namespace screc
