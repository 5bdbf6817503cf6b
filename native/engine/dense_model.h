// The dense part of a DLRM (arXiv 1906.00091): bottom MLP, interaction of its output with the pooled rows of
// every table, top MLP, sigmoid. Hidden layers and the last bottom layer are followed by ReLU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/linear.h"

namespace screc {

// One dense layer as checkpoints hold it: weight [out, in], bias [out]. Read at construction only.
struct DenseLayer {
  const float* weight;
  const float* bias;
  int64_t out, in;
};

struct DenseModelShape {
  int64_t num_dense, embedding_dim;
  std::vector<int64_t> table_dims;
  std::string interaction;  // "dot" or "cat"
};

// Immutable once made: threads share it, each with a workspace of its own.
class DenseModel {
 public:
  // Rows that the dense kernels take at once (12 and 6): blocks of a multiple of it waste nothing.
  static constexpr int64_t kRowUnit = 12;
  // Most samples of one run: 512-wide activations take 200 KB.
  static constexpr int64_t kBlock = 8 * kRowUnit;

  // Throws std::invalid_argument naming the layer or table that does not fit.
  DenseModel(const DenseModelShape& shape, const std::vector<DenseLayer>& bottom,
             const std::vector<DenseLayer>& top, const Kernels& kernels);

  // Working memory of one thread.
  AlignedBuffer make_workspace() const;

  // out[i] = probability of sample i < count <= kBlock. dense is [count, num_dense]; a row of `features` is
  // feature_stride() floats: own_features() that the bottom MLP's output goes to, then the pooled rows.
  // A sample's answer does not depend on count.
  void run(const float* dense, float* features, int64_t count, float* out, AlignedBuffer& workspace) const;

  Isa isa() const { return kernels_.isa; }
  int64_t num_dense() const { return num_dense_; }
  int64_t own_features() const { return own_features_; }
  int64_t feature_stride() const { return feature_stride_; }
  int64_t flops_per_sample() const { return flops_per_sample_; }

 private:
  enum class Interaction { kDot, kCat };

  // Runs layers on `count` rows; the last one writes to out.
  void run_layers(const std::vector<PackedLinear>& layers, const float* x, int64_t x_stride, int64_t count,
                  bool relu_last, float* out, int64_t out_stride, float* const scratch[2]) const;

  const Kernels& kernels_;
  int64_t num_dense_, embedding_dim_;
  Interaction interaction_;
  std::vector<PackedLinear> bottom_, top_;

  int64_t own_features_;    // floats of the bottom MLP's output in a row of features: embedding_dim or 0
  int64_t feature_stride_;  // floats from one sample's features to the next
  int64_t top_stride_, layer_stride_;
  int64_t flops_per_sample_;
};

}  // namespace screc
