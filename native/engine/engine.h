// The model executor: look-ups through the row store, then the dense part of a DLRM, sample block by sample
// block.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "engine/dense_model.h"
#include "store/row_store.h"

namespace screc {

// The schedule of a DLRM: which samples are looked up and computed when, and on which thread.
//
// The batch is processed in segments, so memory does not grow with it. In a segment, the
// store writes pooled rows straight behind the place of the bottom MLP's output, one row of features per
// sample; blocks of samples small enough for their activations to stay in the second-level cache then go
// through the dense model on one thread each. A prediction does not depend on the batch it is part of.
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

  // The inputs of one layer (bottom layers first) for every sample: out is [batch_size, layer_inputs(layer)].
  // Throws as predict does, and std::invalid_argument unless all layers are fp32 and there is such a layer.
  void layer_inputs(const float* dense, const LookupRequest& request, int layer, float* out);
  int64_t layer_inputs(int layer) const { return model_.tapped_inputs(layer); }

  Isa isa() const { return model_.isa(); }
  int num_threads() const { return store_.threads().num_threads(); }
  int num_tables() const { return store_.num_tables(); }
  int64_t num_dense() const { return model_.num_dense(); }

 private:
  static constexpr int64_t kBlock = DenseModel::kBlock;
  // Most samples of a segment, and most bytes of their features (at least one block's are held).
  static constexpr int64_t kMaxSegment = 24 * kBlock;
  static constexpr int64_t kSegmentBytes = int64_t{16} << 20;

  void check_dense(const float* dense, int64_t batch_size) const;

  RowStore& store_;
  DenseModel model_;
  int64_t segment_;  // samples
  std::mutex mutex_;
  AlignedBuffer features_;                // [segment, feature_stride]
  std::vector<AlignedBuffer> workspace_;  // per thread
};

}  // namespace screc
