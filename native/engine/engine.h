// The model executor: look-ups through the row store, then the dense part of a DLRM, segment by segment.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/look_out.h"
#include "base/shares.h"
#include "base/thread_pool.h"
#include "base/turnstile.h"
#include "engine/chunk_schedule.h"
#include "engine/dense_model.h"
#include "store/row_store.h"

namespace screc {

// Which threads look rows up and which run the dense part: the memory-centric and compute-centric cores of
// SCRec (arXiv 2504.00520). Mixed: every thread does both, in turn.
struct Roles {
  int memory = 0, compute = 0;
  bool mixed() const { return memory == 0; }
};

// A batch on its way through an engine. The arrays and this must live, unmoved, until it is collected.
struct Prediction {
  const float* dense;  // [batch_size, num_dense]
  LookupRequest request;
  float* out;  // [batch_size]

  // Kept by the engine, under its lock.
  int64_t begun = 0;              // samples whose look-ups have begun
  int in_flight = 0;              // segments that have begun and are not computed
  std::exception_ptr error = {};  // the first
};

// The schedule of a DLRM: which samples are looked up and computed when, and on which thread.
//
// The store writes pooled rows straight behind the place of the bottom MLP's output, one row of features per
// sample; blocks of samples small enough for their activations to stay in the second-level cache then go
// through the dense model on one thread each.
//
// Where all rows are in DRAM and roles are mixed, a thread that takes a block also looks it up, and asks for
// the rows of its next block before it computes: features never leave its cache, and memory is waited for
// during arithmetic. In the asymmetric data flow, where a thread looks up its own tables for all samples,
// chunks of a batch are computed as they are looked up (ChunkSchedule): a sample's features come from all
// threads. Else a batch is cut into segments, so memory does not grow with it, which pass through a
// ring in the order in which their batches were submitted:
//
// - mixed roles: the collecting thread and the pool begin the look-ups of a segment, finish them, compute.
//   Where rows come from SSD, the reads of the next segment are in flight while one is computed.
// - split roles: a thread of the engine and its pool look up segment after segment; the collecting thread and
//   its pool compute those that are ready.
//
// A small batch takes neither: it is looked up and computed by its caller, without any queue, and so is one
// of a block at most while there are calls for half the threads, or were a moment ago. Where all rows are in
// DRAM, as many of them at a time as there are threads. A prediction does not depend on the batch it is part
// of.
class Engine {
 public:
  // The store must outlive the engine and gain no tables. interaction is "dot" or "cat".
  // Throws std::invalid_argument naming the layer or table that does not fit.
  Engine(RowStore& store, int64_t num_dense, int64_t embedding_dim, const std::vector<DenseLayer>& bottom,
         const std::vector<DenseLayer>& top, const std::string& interaction);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // out[i] = probability of sample i. dense is [batch_size, num_dense]. Large calls from several threads take
  // turns. Throws std::invalid_argument for a dense value that is not finite (before anything is computed)
  // and for bad offsets and ids (RowStore::lookup; out is then unspecified).
  void predict(const float* dense, const LookupRequest& request, float* out);

  // The same in two halves, so that the look-ups of one batch go on while another is computed: submit begins
  // (throws for dense values only), collect returns when the predictions are there, or throws. Batches are
  // worked on in the order in which they were submitted; each must be collected, once. Throws
  // std::length_error when kMaxSubmitted batches are not yet begun.
  void submit(Prediction& prediction);
  void collect(Prediction& prediction);
  static constexpr int kMaxSubmitted = 8;

  // The inputs of one layer (bottom layers first) for every sample: out is [batch_size, layer_inputs(layer)].
  // Throws as predict does, and std::invalid_argument unless all layers are fp32 and there is such a layer.
  void layer_inputs(const float* dense, const LookupRequest& request, int layer, float* out);
  int64_t layer_inputs(int layer) const { return model_.tapped_inputs(layer); }

  // Takes effect at once. Throws std::invalid_argument for counts that are not both positive or both 0, and
  // std::logic_error while batches are submitted and not collected.
  void set_roles(Roles roles);
  Roles roles() const { return roles_; }

  // Which threads look what up in segments and small batches: in the asymmetric flow, those that the store's
  // mapping says. Takes effect at once. Throws std::logic_error where there is no mapping, and while batches
  // are submitted and not collected.
  void set_data_flow(DataFlow flow);
  DataFlow data_flow() const { return flow_.load(); }

  Isa isa() const { return model_.isa(); }
  int num_threads() const { return store_.threads().num_threads(); }
  int num_tables() const { return store_.num_tables(); }
  int64_t num_dense() const { return model_.num_dense(); }

 private:
  static constexpr int64_t kBlock = DenseModel::kBlock;
  // Most bytes of the features of a block that one thread looks up and computes, and of the rows that it asks
  // for meanwhile: parts of a second-level cache.
  static constexpr int64_t kBlockBytes = int64_t{512} << 10;
  static constexpr int64_t kAheadBytes = int64_t{512} << 10;
  // Most samples of a segment, and most bytes of their features (at least one block's are held).
  static constexpr int64_t kMaxSegment = 24 * kBlock;
  static constexpr int64_t kSegmentBytes = int64_t{16} << 20;
  // With split roles segments are short: the first of a batch is looked up, and the last computed, alone.
  static constexpr int64_t kSplitSegment = 4 * kBlock;
  static constexpr int kSlots = 3;
  // Most bytes of the features of a chunk: they pass through the cores' caches beside the tables.
  static constexpr int64_t kChunkBytes = int64_t{512} << 10;

  struct Segment {
    AlignedBuffer features;  // [segment_, feature_stride]; made at first use
    Prediction* batch = nullptr;
    int64_t first = 0, count = 0;
    std::optional<Ticket> ticket = {};
  };

  void check_dense(const float* dense, int64_t batch_size) const;
  // Throws std::logic_error while batches are submitted and not collected.
  void check_idle(const std::string& change) const;
  bool runs_alone(int64_t batch_size);
  // submit and collect within a turn.
  void enqueue(Prediction& prediction);
  void finish(Prediction& prediction);

  // The stages that a segment passes, each for the oldest that has not passed it. Errors go to its batch.
  bool can_begin() const;
  void begin_segment(ThreadPool& pool);
  void fail(Segment& segment);  // with the current exception
  void look_up_segment();
  void compute_segment(ThreadPool& pool);
  Ticket* next_ticket();

  // What a thread works at that computes a block alone.
  struct Desk {
    AlignedBuffer features;  // [kBlock, feature_stride]
    AlignedBuffer workspace;
  };
  Desk make_desk() const;
  void predict_alone(const float* dense, const LookupRequest& request, float* out);
  Desk take_desk();
  void give_back(Desk desk);

  // Samples [0, count) as blocks of nearly equal size: block b begins at begin(b).
  struct Blocks {
    int64_t count, number, unit;
    int64_t begin(int64_t block) const;
  };
  Blocks cut(int64_t count, int64_t most, int num_threads) const;

  // `ahead`: a look-up whose reads are kept going meanwhile, or null.
  void compute_rows(const float* dense, float* features, int64_t count, float* out, ThreadPool& pool,
                    Ticket* ahead);
  void predict_blocks(const Prediction& batch);
  void predict_parts(const Prediction& batch);

  // How batches that are not small are predicted: through the ring, or at once, in blocks or by parts.
  enum class Way { kRing, kBlocks, kParts };
  Way choose_way() const;
  // Predicts the batch that was submitted first.
  void predict_oldest();
  void advance_mixed();
  void drive();  // the memory side of split roles
  void stop_driver();

  RowStore& store_;
  DenseModel model_;
  const bool rows_in_dram_;
  int64_t segment_;          // samples
  int64_t looked_up_block_;  // samples of a block that is looked up by the thread that computes it
  std::vector<Desk> threads_desks_;
  std::vector<std::unique_ptr<LookupContext>> threads_contexts_;  // of the blocks that they look up
  Shares shares_;                                                 // of the blocks of one batch
  ChunkSchedule chunks_;
  AlignedBuffer chunk_features_;              // of ChunkSchedule::kBuffers chunks; made at first use
  std::vector<int64_t> pieces_, first_part_;  // of each of its queues
  Roles roles_;
  std::atomic<DataFlow> flow_{DataFlow::kSymmetric};
  Way way_;
  std::mutex turn_;                        // one submit or collect at a time
  alignas(64) std::atomic<int> calls_{0};  // of predict, in progress
  std::atomic<int> crowded_{0};            // calls to come that run alone whoever else is there
  Turnstile alone_;                        // calls that run alone, where no look-up waits for a drive

  std::mutex desks_mutex_;
  std::vector<Desk> desks_;  // nobody works at them

  // The ring: segments [computed_, looked_up_) are ready to be computed, those up to begun_ are being looked
  // up. Counters and submitted batches are guarded by state_.
  mutable std::mutex state_;
  std::array<Segment, kSlots> ring_;
  uint64_t begun_ = 0, looked_up_ = 0, computed_ = 0;
  std::array<Prediction*, kMaxSubmitted> submitted_{};  // not yet begun to their end, oldest first
  int num_submitted_ = 0;

  // Split roles.
  std::unique_ptr<ThreadPool> memory_pool_, compute_pool_;
  std::thread driver_;
  std::atomic<bool> stopping_{false};
  Signal changed_;
};

}  // namespace screc
