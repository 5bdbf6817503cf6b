#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>

namespace screc {
namespace {

// Less work than this is done on one thread: waking another took 50-150 us on a two-core virtual machine,
// about the time in which a core does 10 Mflop, and below a dozen samples each thread would read all weights
// for little.
constexpr int64_t kAloneFlops = int64_t{30} << 20;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Whole cache lines, and an odd number of them: rows a power of two apart would share few sets of the caches.
int64_t padded_stride(int64_t width) {
  return round_up(width, 16) + (round_up(width, 16) % 32 == 0 ? 16 : 0);
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

Engine::Engine(RowStore& store, int64_t num_dense, int64_t embedding_dim,
               const std::vector<DenseLayer>& bottom, const std::vector<DenseLayer>& top,
               const std::string& interaction)
    : store_(store), kernels_(kernels()), num_dense_(num_dense), embedding_dim_(embedding_dim) {
  if (interaction != "dot" && interaction != "cat") {
    throw std::invalid_argument("interaction '" + interaction + "' is unknown; use 'dot' or 'cat'");
  }
  interaction_ = interaction == "dot" ? Interaction::kDot : Interaction::kCat;
  if (num_dense < 0) {
    throw std::invalid_argument("num_dense must not be negative, got " + std::to_string(num_dense));
  }
  if (embedding_dim < 1) {
    throw std::invalid_argument("embedding_dim must be positive, got " + std::to_string(embedding_dim));
  }
  if ((num_dense > 0) != !bottom.empty()) {
    throw std::invalid_argument("bottom has " + std::to_string(bottom.size()) + " layers for " +
                                std::to_string(num_dense) +
                                " dense features; give layers exactly when num_dense is positive");
  }
  if (top.empty()) throw std::invalid_argument("top has no layers; its last one gives the logit");
  for (int t = 0; t < store.num_tables() && interaction_ == Interaction::kDot; ++t) {
    if (store.embedding_dim(t) != embedding_dim) {
      throw std::invalid_argument("table " + std::to_string(t) + " has embedding_dim " +
                                  std::to_string(store.embedding_dim(t)) + ", expected " +
                                  std::to_string(embedding_dim) + " as interaction 'dot' needs");
    }
  }

  own_features_ = num_dense > 0 ? embedding_dim : 0;
  feature_stride_ = own_features_ + store.total_dim();
  const int64_t num_features = store.num_tables() + (num_dense > 0 ? 1 : 0);
  const int64_t top_in = interaction_ == Interaction::kDot
                             ? own_features_ + num_features * (num_features - 1) / 2
                             : feature_stride_;
  check_layers("bottom", bottom, num_dense, embedding_dim, "num_dense", "embedding_dim");
  check_layers("top", top, top_in, 1, "the width of the interaction", "the logit");
  bottom_ = pack_layers(bottom, kernels_);
  top_ = pack_layers(top, kernels_);

  int64_t widest = 0;
  flops_per_sample_ = 2 * top_in * embedding_dim;
  for (const auto* layers : {&bottom_, &top_}) {
    for (const PackedLinear& layer : *layers) {
      widest = std::max(widest, layer.out_features());
      flops_per_sample_ += 2 * layer.in_features() * layer.out_features();
    }
  }
  layer_stride_ = padded_stride(widest);
  top_stride_ = padded_stride(top_in);
  const int64_t sample_bytes = std::max<int64_t>(1, feature_stride_) * static_cast<int64_t>(sizeof(float));
  segment_ = std::clamp(kSegmentBytes / sample_bytes / kBlock * kBlock, kBlock, kMaxSegment);
  features_ = AlignedBuffer(static_cast<size_t>(segment_ * feature_stride_) * sizeof(float));
  for (int thread = 0; thread < num_threads(); ++thread) {
    workspace_.emplace_back(static_cast<size_t>(kBlock * (2 * layer_stride_ + top_stride_)) * sizeof(float));
  }
}

void Engine::check_dense(const float* dense, int64_t batch_size) const {
  const int64_t n = batch_size * num_dense_;
  constexpr uint32_t kExponent = 0x7f800000;
  const auto not_finite = [&](int64_t i) {
    uint32_t bits;
    std::memcpy(&bits, dense + i, sizeof(bits));
    return (bits & kExponent) == kExponent;
  };
  bool any = false;
  for (int64_t i = 0; i < n; ++i) any |= not_finite(i);
  for (int64_t i = 0; any && i < n; ++i) {
    if (!not_finite(i)) continue;
    throw std::invalid_argument("dense[" + std::to_string(i / num_dense_) + ", " +
                                std::to_string(i % num_dense_) + "] = " + std::to_string(dense[i]) +
                                " is not finite");
  }
}

void Engine::predict(const float* dense, const LookupRequest& request, float* out) {
  std::lock_guard<std::mutex> turn(mutex_);
  check_dense(dense, request.batch_size);
  for (int64_t first = 0; first < request.batch_size; first += segment_) {
    const int64_t count = std::min(segment_, request.batch_size - first);
    float* features = features_.as<float>();
    store_.lookup(request, first, count, features + own_features_, feature_stride_);
    // As many blocks as fill the threads evenly, at whole multiples of the rows that the dense kernels take.
    const int64_t threads = num_threads();
    const bool alone = count <= kBlock && count * flops_per_sample_ <= kAloneFlops;
    const int64_t blocks = alone ? 1 : round_up((count + kBlock - 1) / kBlock, threads);
    const int64_t unit = count / blocks >= 4 * kRowUnit ? kRowUnit : 1;
    const auto start = [&](int64_t block) { return std::min(count, round_up(count * block / blocks, unit)); };
    const auto body = [&](int64_t block, int64_t, int thread) {
      const int64_t begin = start(block), end = start(block + 1);
      dense_part(dense + (first + begin) * num_dense_, features + begin * feature_stride_, end - begin,
                 out + first + begin, thread);
    };
    store_.threads().parallel_for(blocks, 1, std::ref(body));
  }
}

void Engine::dense_part(const float* dense, float* features, int64_t count, float* out, int thread) {
  float* const workspace = workspace_[static_cast<size_t>(thread)].as<float>();
  float* const scratch[2] = {workspace, workspace + kBlock * layer_stride_};
  run_layers(bottom_, dense, num_dense_, count, true, features, feature_stride_, scratch);

  const float* top_in = features;
  int64_t top_stride = feature_stride_;
  if (interaction_ == Interaction::kDot) {
    float* joined = workspace + 2 * kBlock * layer_stride_;
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

void Engine::run_layers(const std::vector<PackedLinear>& layers, const float* x, int64_t x_stride,
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
