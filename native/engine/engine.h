// The model executor: look-ups through the row store, then the dense part of a DLRM, sample block by sample
// block.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/linear.h"
#include "store/row_store.h"

namespace screc {

// One dense layer as checkpoints hold it: weight [out, in], bias [out]. Read at construction only.
struct DenseLayer {
  const float* weight;
  const float* bias;
  int64_t out, in;
};

// DLRM (arXiv 1906.00091): bottom MLP, interaction of its output with the pooled rows of every table, top
// MLP, sigmoid. Hidden layers and the last bottom layer are followed by ReLU.
//
// The batch is processed in segments, so memory does not grow with it. In a segment, the
// store writes pooled rows straight behind the place of the bottom MLP's output, one row of features per
// sample; blocks of samples small enough for their activations to stay in the second-level cache then go
// through all layers on one thread each. A prediction does not depend on the batch it is part of.
class Engine {
 public:
  // The store must outlive the engine and gain no tables. interaction is "dot" or "cat".
  // Throws std::invalid_argument naming the layer or table that does not fit.
  Engine(RowStore& store, int64_t num_dense, int64_t embedding_dim, const std::vector<DenseLayer>& bottom,
         const std::vector<DenseLayer>& top, const std::string& interaction);

  // out[i] = probability of sample i. dense is [batch_size, num_dense]. Calls from several threads take
  // turns. Throws std::invalid_argument for a dense value that is not finite (before anything is computed)
  // and for bad offsets and ids (RowStore::lookup; out is then unspecified).
  void predict(const float* dense, const LookupRequest& request, float* out);

  Isa isa() const { return kernels_.isa; }
  int num_threads() const { return store_.threads().num_threads(); }
  int num_tables() const { return store_.num_tables(); }
  int64_t num_dense() const { return num_dense_; }

 private:
  enum class Interaction { kDot, kCat };

  // Rows that the dense kernels take at once (12 and 6).
  static constexpr int64_t kRowUnit = 12;
  // Most samples of a block: 512-wide activations take 200 KB.
  static constexpr int64_t kBlock = 8 * kRowUnit;
  // Most samples of a segment, and most bytes of their features (at least one block's are held).
  static constexpr int64_t kMaxSegment = 24 * kBlock;
  static constexpr int64_t kSegmentBytes = int64_t{16} << 20;

  void check_dense(const float* dense, int64_t batch_size) const;
  void dense_part(const float* dense, float* features, int64_t count, float* out, int thread);
  // Runs layers on `count` rows; the last one writes to out.
  void run_layers(const std::vector<PackedLinear>& layers, const float* x, int64_t x_stride, int64_t count,
                  bool relu_last, float* out, int64_t out_stride, float* const scratch[2]) const;

  RowStore& store_;
  const Kernels& kernels_;
  int64_t num_dense_, embedding_dim_;
  Interaction interaction_;
  std::vector<PackedLinear> bottom_, top_;

  int64_t own_features_;    // floats of the bottom MLP's output in a row of features: embedding_dim or 0
  int64_t feature_stride_;  // floats from one sample's features to the next
  int64_t segment_;         // samples
  int64_t top_stride_, layer_stride_;
  int64_t flops_per_sample_;
  std::mutex mutex_;
  AlignedBuffer features_;  // [segment, feature_stride]
  std::vector<AlignedBuffer>
      workspace_;  // per thread: two layers' outputs and the top MLP's input, kBlock rows each
};

}  // namespace screc
