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
  Precision precision = Precision::kFp32;
  const float* range = nullptr;  // int8: the least and the largest value of each input, [2, in]
};

struct DenseModelShape {
  int64_t num_dense, embedding_dim;
  std::vector<int64_t> table_dims;
  std::string interaction;  // "dot" or "cat"
};

// Takes the inputs of one layer down as they pass by.
struct LayerTap {
  int layer;   // bottom layers first, then top layers
  float* out;  // [count, in]
};

// Immutable once made: threads share it, each with a workspace of its own.
class DenseModel {
 public:
  // Most samples of one run: 512-wide activations take 200 KB. A multiple of every instruction set's
  // row_unit().
  static constexpr int64_t kBlock = 96;

  // Throws std::invalid_argument naming the layer or table that does not fit.
  DenseModel(const DenseModelShape& shape, const std::vector<DenseLayer>& bottom,
             const std::vector<DenseLayer>& top, const Kernels& kernels);

  // Working memory of one thread.
  AlignedBuffer make_workspace() const;

  // out[i] = probability of sample i < count <= kBlock. dense is [count, num_dense]; a row of `features` is
  // feature_stride() floats: own_features() that the bottom MLP's output goes to, then the pooled rows.
  // A sample's answer does not depend on count; it is NaN where a feature of a model with int8 layers is
  // not finite.
  void run(const float* dense, float* features, int64_t count, float* out, AlignedBuffer& workspace,
           const LayerTap* tap = nullptr) const;

  Isa isa() const { return kernels_.isa; }
  // Samples that the dense kernels take at once: blocks of a multiple of it waste nothing.
  int64_t row_unit() const { return kernels_.linear_rows; }
  int64_t num_dense() const { return num_dense_; }
  int64_t own_features() const { return own_features_; }
  int64_t feature_stride() const { return feature_stride_; }
  int num_layers() const { return static_cast<int>(bottom_.size() + top_.size()); }
  // Throws std::invalid_argument unless there is such a layer and all layers are fp32, as LayerTap needs.
  int64_t tapped_inputs(int layer) const;
  // Operations, those of bf16 and int8 counted as the fp32 operations that take as long.
  int64_t flops_per_sample() const { return flops_per_sample_; }

 private:
  enum class Interaction { kDot, kCat };
  // Samples whose interaction is computed before its first row is read again: a row that was written a moment
  // ago, piece by piece, would have to be waited for.
  static constexpr int64_t kTogether = 16;

  // Rows of activations, in the format of the layer that reads them.
  struct Rows {
    const void* data;
    int64_t stride;  // elements
  };

  // Rows of floats in the input format of `layer`, written to `to` unless they are in it as they are. Clears
  // finite[i] of a row that cannot be represented.
  Rows encoded(const PackedLinear& layer, const float* x, int64_t stride, int64_t count, void* to,
               bool* finite) const;
  Rows interact(const float* features, int64_t count, uint8_t* workspace, bool* finite) const;
  // Runs layers on `count` rows; the last one writes floats to out.
  void run_layers(const std::vector<PackedLinear>& layers, int first_number, Rows x, int64_t count,
                  bool relu_last, float* out, int64_t out_stride, uint8_t* workspace,
                  const LayerTap* tap) const;

  const Kernels& kernels_;
  int64_t num_dense_, embedding_dim_;
  Interaction interaction_;
  std::vector<PackedLinear> bottom_, top_;
  InteractKernel* interact_;  // of bfloat16 where that is faster and the top MLP rounds its inputs as well
  bool has_int8_ = false;     // some layer's inputs have no NaN, so it is looked for before them

  int64_t own_features_;    // floats of the bottom MLP's output in a row of features: embedding_dim or 0
  int64_t feature_stride_;  // floats from one sample's features to the next
  int64_t layer_bytes_, input_bytes_;  // parts of the workspace: a layer's outputs, an MLP's encoded inputs
  int64_t joined_bytes_;               // and kTogether rows of the top MLP's inputs as floats
  int64_t flops_per_sample_;
};

}  // namespace screc
