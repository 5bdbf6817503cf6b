#include "engine/engine.h"

#include <algorithm>
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

DenseModelShape model_shape(const RowStore& store, int64_t num_dense, int64_t embedding_dim,
                            const std::string& interaction) {
  DenseModelShape shape{num_dense, embedding_dim, {}, interaction};
  for (int t = 0; t < store.num_tables(); ++t) shape.table_dims.push_back(store.embedding_dim(t));
  return shape;
}

}  // namespace

Engine::Engine(RowStore& store, int64_t num_dense, int64_t embedding_dim,
               const std::vector<DenseLayer>& bottom, const std::vector<DenseLayer>& top,
               const std::string& interaction)
    : store_(store),
      model_(model_shape(store, num_dense, embedding_dim, interaction), bottom, top, kernels()) {
  const int64_t sample_bytes =
      std::max<int64_t>(1, model_.feature_stride()) * static_cast<int64_t>(sizeof(float));
  segment_ = std::clamp(kSegmentBytes / sample_bytes / kBlock * kBlock, kBlock, kMaxSegment);
  features_ = AlignedBuffer(static_cast<size_t>(segment_ * model_.feature_stride()) * sizeof(float));
  for (int thread = 0; thread < num_threads(); ++thread) workspace_.push_back(model_.make_workspace());
}

void Engine::check_dense(const float* dense, int64_t batch_size) const {
  const int64_t n = batch_size * num_dense();
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
    throw std::invalid_argument("dense[" + std::to_string(i / num_dense()) + ", " +
                                std::to_string(i % num_dense()) + "] = " + std::to_string(dense[i]) +
                                " is not finite");
  }
}

void Engine::predict(const float* dense, const LookupRequest& request, float* out) {
  std::lock_guard<std::mutex> turn(mutex_);
  check_dense(dense, request.batch_size);
  const int64_t stride = model_.feature_stride();
  for (int64_t first = 0; first < request.batch_size; first += segment_) {
    const int64_t count = std::min(segment_, request.batch_size - first);
    float* features = features_.as<float>();
    store_.lookup(request, first, count, features + model_.own_features(), stride);
    // As many blocks as fill the threads evenly, at whole multiples of the rows that the dense kernels take.
    const int64_t threads = num_threads();
    const bool alone = count <= kBlock && count * model_.flops_per_sample() <= kAloneFlops;
    const int64_t blocks = alone ? 1 : round_up((count + kBlock - 1) / kBlock, threads);
    const int64_t unit = count / blocks >= 4 * DenseModel::kRowUnit ? DenseModel::kRowUnit : 1;
    const auto start = [&](int64_t block) { return std::min(count, round_up(count * block / blocks, unit)); };
    const auto body = [&](int64_t block, int64_t, int thread) {
      const int64_t begin = start(block), end = start(block + 1);
      model_.run(dense + (first + begin) * num_dense(), features + begin * stride, end - begin,
                 out + first + begin, workspace_[static_cast<size_t>(thread)]);
    };
    store_.threads().parallel_for(blocks, 1, std::ref(body));
  }
}

void Engine::layer_inputs(const float* dense, const LookupRequest& request, int layer, float* out) {
  const int64_t width = layer_inputs(layer), stride = model_.feature_stride();
  std::lock_guard<std::mutex> turn(mutex_);
  check_dense(dense, request.batch_size);
  float predictions[kBlock];
  for (int64_t first = 0; first < request.batch_size; first += kBlock) {
    const int64_t count = std::min(kBlock, request.batch_size - first);
    float* features = features_.as<float>();
    store_.lookup(request, first, count, features + model_.own_features(), stride);
    const LayerTap tap{layer, out + first * width};
    model_.run(dense + first * num_dense(), features, count, predictions, workspace_[0], &tap);
  }
}

}  // namespace screc
