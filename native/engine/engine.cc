#include "engine/engine.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <stdexcept>
#include <utility>

namespace screc {
namespace {

// Less work than this is done by the caller: sharing it costs some microseconds, and below a dozen samples
// each thread would read all weights for little.
constexpr int64_t kAloneFlops = int64_t{2} << 20;
// So many calls after one among many, a small one still runs alone: where clients come and go, one that
// shares its work in a quiet moment gains less than the next ones lose by it.
constexpr int kCrowded = 16;

// Counts a call for as long as it takes.
class InProgress {
 public:
  explicit InProgress(std::atomic<int>& calls) : calls_(calls) {
    calls_.fetch_add(1, std::memory_order_relaxed);
  }
  ~InProgress() { calls_.fetch_sub(1, std::memory_order_relaxed); }
  InProgress(const InProgress&) = delete;
  InProgress& operator=(const InProgress&) = delete;

 private:
  std::atomic<int>& calls_;
};

// A place in the turnstile, unless there is none.
class Place {
 public:
  explicit Place(Turnstile* turnstile) : turnstile_(turnstile) {
    if (turnstile_ != nullptr) turnstile_->enter();
  }
  ~Place() {
    if (turnstile_ != nullptr) turnstile_->leave();
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

 private:
  Turnstile* const turnstile_;
};

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
      model_(model_shape(store, num_dense, embedding_dim, interaction), bottom, top, kernels()),
      rows_in_dram_(store.rows_in_dram()),
      shares_(num_threads()),
      chunks_(num_threads()),
      way_(choose_way()),
      alone_(num_threads()) {
  const int64_t sample_bytes =
      std::max<int64_t>(1, model_.feature_stride()) * static_cast<int64_t>(sizeof(float));
  segment_ = std::clamp(kSegmentBytes / sample_bytes / kBlock * kBlock, kBlock, kMaxSegment);
  const int64_t unit = model_.row_unit();
  looked_up_block_ = std::clamp(kBlockBytes / sample_bytes / unit * unit, unit, kBlock);
  for (int thread = 0; thread < num_threads(); ++thread) {
    threads_desks_.push_back(make_desk());
    threads_contexts_.push_back(std::make_unique<LookupContext>(store.threads()));
  }
}

Engine::~Engine() { stop_driver(); }

void Engine::check_dense(const float* dense, int64_t batch_size) const {
  const int64_t n = batch_size * num_dense();
  // An exponent of ones carries into the sign bit: what a compiler makes vectors of.
  const auto carry = [&](int64_t i) { return (std::bit_cast<uint32_t>(dense[i]) & 0x7f800000) + 0x00800000; };
  uint32_t any = 0;
  for (int64_t i = 0; i < n; ++i) any |= carry(i);
  for (int64_t i = 0; any >> 31 != 0 && i < n; ++i) {
    if (carry(i) >> 31 == 0) continue;
    throw std::invalid_argument("dense[" + std::to_string(i / num_dense()) + ", " +
                                std::to_string(i % num_dense()) + "] = " + std::to_string(dense[i]) +
                                " is not finite");
  }
}

// ----------------------------------------------------------------------------------------------------
// batches

bool Engine::runs_alone(int64_t batch_size) {
  if (batch_size > kBlock) return false;
  if (batch_size * model_.flops_per_sample() <= kAloneFlops) return true;
  // While calls enough for half the threads are in progress, its own is best: shared, it would wait for those
  // that the others keep busy. A counter that is a call late does no harm: answers are the same either way.
  if (2 * calls_.load(std::memory_order_relaxed) > num_threads()) {
    crowded_.store(kCrowded, std::memory_order_relaxed);
    return true;
  }
  if (const int left = crowded_.load(std::memory_order_relaxed); left > 0) {
    crowded_.store(left - 1, std::memory_order_relaxed);
    return true;
  }
  // And better than waiting while the threads work for a larger one.
  return !std::unique_lock<std::mutex>(turn_, std::try_to_lock).owns_lock();
}

void Engine::predict(const float* dense, const LookupRequest& request, float* out) {
  const InProgress call(calls_);
  if (runs_alone(request.batch_size)) return predict_alone(dense, request, out);
  Prediction prediction{dense, request, out};
  check_dense(dense, request.batch_size);
  // In one turn, so that no number of calls fills the queue of what is submitted.
  std::lock_guard<std::mutex> turn(turn_);
  enqueue(prediction);
  finish(prediction);
}

void Engine::predict_alone(const float* dense, const LookupRequest& request, float* out) {
  check_dense(dense, request.batch_size);
  const Place place(rows_in_dram_ ? &alone_ : nullptr);
  Desk desk = take_desk();
  float* features = desk.features.as<float>();
  store_.lookup(request, 0, request.batch_size, features + model_.own_features(), model_.feature_stride(),
                data_flow());
  model_.run(dense, features, request.batch_size, out, desk.workspace);
  give_back(std::move(desk));  // a desk is lost to an error, and made anew
}

Engine::Desk Engine::take_desk() {
  {
    std::lock_guard<std::mutex> lock(desks_mutex_);
    if (!desks_.empty()) {
      Desk desk = std::move(desks_.back());
      desks_.pop_back();
      return desk;
    }
  }
  return make_desk();
}

Engine::Desk Engine::make_desk() const {
  const auto floats = static_cast<size_t>(kBlock * std::max<int64_t>(1, model_.feature_stride()));
  return {AlignedBuffer(floats * sizeof(float)), model_.make_workspace()};
}

void Engine::give_back(Desk desk) {
  std::lock_guard<std::mutex> lock(desks_mutex_);
  desks_.push_back(std::move(desk));
}

void Engine::layer_inputs(const float* dense, const LookupRequest& request, int layer, float* out) {
  const int64_t width = layer_inputs(layer), stride = model_.feature_stride();
  check_dense(dense, request.batch_size);
  Desk desk = take_desk();
  float predictions[kBlock];
  for (int64_t first = 0; first < request.batch_size; first += kBlock) {
    const int64_t count = std::min(kBlock, request.batch_size - first);
    float* features = desk.features.as<float>();
    store_.lookup(request, first, count, features + model_.own_features(), stride);
    const LayerTap tap{layer, out + first * width};
    model_.run(dense + first * num_dense(), features, count, predictions, desk.workspace, &tap);
  }
  give_back(std::move(desk));
}

void Engine::submit(Prediction& prediction) {
  check_dense(prediction.dense, prediction.request.batch_size);
  std::lock_guard<std::mutex> turn(turn_);
  enqueue(prediction);
}

void Engine::collect(Prediction& prediction) {
  std::lock_guard<std::mutex> turn(turn_);
  finish(prediction);
}

void Engine::enqueue(Prediction& prediction) {
  {
    std::lock_guard<std::mutex> lock(state_);
    if (num_submitted_ == kMaxSubmitted) {
      throw std::length_error("there are " + std::to_string(kMaxSubmitted) +
                              " batches submitted whose look-ups have not begun; collect one first");
    }
    if (prediction.request.batch_size == 0) return;
    submitted_[static_cast<size_t>(num_submitted_++)] = &prediction;
  }
  if (!roles_.mixed()) {
    changed_.raise();
  } else if (way_ == Way::kRing && can_begin()) {
    begin_segment(store_.threads());
  }
}

void Engine::finish(Prediction& prediction) {
  const auto done = [&] {
    std::lock_guard<std::mutex> lock(state_);
    return prediction.begun == prediction.request.batch_size && prediction.in_flight == 0;
  };
  while (!done()) {
    if (way_ != Way::kRing) {
      predict_oldest();
    } else if (roles_.mixed()) {
      advance_mixed();
    } else {
      changed_.wait_until([this] {
        std::lock_guard<std::mutex> lock(state_);
        return looked_up_ > computed_;
      });
      compute_segment(*compute_pool_);
      changed_.raise();
    }
  }
  if (prediction.error) std::rethrow_exception(prediction.error);
}

void Engine::advance_mixed() {
  // Looking further ahead than one segment gains nothing when no reads can be in flight meanwhile.
  while (can_begin() && (begun_ == computed_ || store_.reads_ssd())) begin_segment(store_.threads());
  look_up_segment();
  compute_segment(store_.threads());
}

// ----------------------------------------------------------------------------------------------------
// segments

bool Engine::can_begin() const {
  std::lock_guard<std::mutex> lock(state_);
  const int slots = roles_.mixed() ? 2 : kSlots;
  return num_submitted_ > 0 && begun_ - computed_ < static_cast<uint64_t>(slots);
}

void Engine::begin_segment(ThreadPool& pool) {
  Segment* segment;
  {
    std::lock_guard<std::mutex> lock(state_);
    segment = &ring_[begun_ % kSlots];
    Prediction& batch = *submitted_[0];
    const int64_t left = batch.request.batch_size - batch.begun;
    segment->batch = &batch;
    segment->first = batch.begun;
    segment->count = std::min(left, roles_.mixed() ? segment_ : std::min(segment_, kSplitSegment));
    batch.begun += segment->count;
    ++batch.in_flight;
    if (segment->count == left) {
      std::move(submitted_.begin() + 1, submitted_.begin() + num_submitted_, submitted_.begin());
      --num_submitted_;
    }
  }
  const int64_t stride = model_.feature_stride();
  if (segment->features.size() == 0) {
    segment->features = AlignedBuffer(static_cast<size_t>(segment_ * stride) * sizeof(float));
  }
  try {
    segment->ticket.emplace(store_.begin(segment->batch->request, segment->first, segment->count,
                                         segment->features.as<float>() + model_.own_features(), stride,
                                         data_flow(), pool));
  } catch (...) {
    fail(*segment);
  }
  std::lock_guard<std::mutex> lock(state_);
  ++begun_;
}

void Engine::look_up_segment() {
  Segment& segment = ring_[looked_up_ % kSlots];
  try {
    if (segment.ticket) segment.ticket->finish();
  } catch (...) {
    fail(segment);
  }
  segment.ticket.reset();
  std::lock_guard<std::mutex> lock(state_);
  ++looked_up_;
}

void Engine::fail(Segment& segment) {
  std::lock_guard<std::mutex> lock(state_);
  if (!segment.batch->error) segment.batch->error = std::current_exception();
}

void Engine::compute_segment(ThreadPool& pool) {
  Segment& segment = ring_[computed_ % kSlots];
  Prediction& batch = *segment.batch;
  bool failed;
  {
    std::lock_guard<std::mutex> lock(state_);
    failed = batch.error != nullptr;
  }
  if (!failed) {
    compute_rows(batch.dense + segment.first * num_dense(), segment.features.as<float>(), segment.count,
                 batch.out + segment.first, pool, next_ticket());
  }
  std::lock_guard<std::mutex> lock(state_);
  ++computed_;
  --batch.in_flight;
}

// Of the segment whose look-ups have begun and are not finished. With split roles the memory side takes care
// of its reads itself.
Ticket* Engine::next_ticket() {
  if (!roles_.mixed() || looked_up_ == begun_) return nullptr;
  std::optional<Ticket>& ticket = ring_[looked_up_ % kSlots].ticket;
  return ticket ? &*ticket : nullptr;
}

void Engine::compute_rows(const float* dense, float* features, int64_t count, float* out, ThreadPool& pool,
                          Ticket* ahead) {
  const Blocks blocks = cut(count, kBlock, pool.num_threads());
  const auto body = [&](int64_t block, int64_t, int thread) {
    const int64_t begin = blocks.begin(block), end = blocks.begin(block + 1);
    model_.run(dense + begin * num_dense(), features + begin * model_.feature_stride(), end - begin,
               out + begin, threads_desks_[static_cast<size_t>(thread)].workspace);
    if (thread == 0 && ahead != nullptr) ahead->poll();
  };
  pool.parallel_for(blocks.number, 1, std::ref(body));
}

// As many blocks as fill the threads evenly, at whole multiples of the rows that the dense kernels take.
Engine::Blocks Engine::cut(int64_t count, int64_t most, int num_threads) const {
  const int64_t number = round_up((count + most - 1) / most, num_threads);
  return {count, number, count / number >= 2 * model_.row_unit() ? model_.row_unit() : 1};
}

int64_t Engine::Blocks::begin(int64_t block) const {
  return std::min(count, round_up(count * block / number, unit));
}

// ----------------------------------------------------------------------------------------------------
// blocks

void Engine::predict_oldest() {
  Prediction* batch;
  {
    std::lock_guard<std::mutex> lock(state_);
    batch = submitted_[0];
    std::move(submitted_.begin() + 1, submitted_.begin() + num_submitted_, submitted_.begin());
    --num_submitted_;
  }
  try {
    way_ == Way::kBlocks ? predict_blocks(*batch) : predict_parts(*batch);
  } catch (...) {
    batch->error = std::current_exception();
  }
  std::lock_guard<std::mutex> lock(state_);
  batch->begun = batch->request.batch_size;
}

void Engine::predict_blocks(const Prediction& batch) {
  const LookupRequest& request = batch.request;
  const Blocks blocks = cut(request.batch_size, looked_up_block_, num_threads());
  const int64_t stride = model_.feature_stride();
  const bool ahead = request.num_ids / blocks.number * 64 <= kAheadBytes;
  const auto tables = store_.hold_tables();
  shares_.part(blocks.number);
  const auto body = [&](int64_t, int64_t, int thread) {
    Desk& desk = threads_desks_[static_cast<size_t>(thread)];
    float* const features = desk.features.as<float>();
    for (int64_t block; (block = shares_.take(thread)) != Shares::kNone;) {
      const int64_t begin = blocks.begin(block), end = blocks.begin(block + 1);
      store_.lookup_alone(*threads_contexts_[static_cast<size_t>(thread)], request, begin, end - begin,
                          features + model_.own_features(), stride, thread);
      const int64_t following = shares_.next(thread);
      if (ahead && following != Shares::kNone) {
        const int64_t from = blocks.begin(following);
        store_.prefetch(request, from, blocks.begin(following + 1) - from);
      }
      model_.run(batch.dense + begin * num_dense(), features, end - begin, batch.out + begin, desk.workspace);
    }
  };
  store_.threads().parallel_for(num_threads(), 1, std::ref(body));
}

// ----------------------------------------------------------------------------------------------------
// roles

void Engine::check_idle(const std::string& change) const {
  std::lock_guard<std::mutex> lock(state_);
  if (num_submitted_ == 0 && begun_ == computed_) return;
  throw std::logic_error("batches are submitted; collect them before the " + change);
}

Engine::Way Engine::choose_way() const {
  if (!roles_.mixed() || !rows_in_dram_) return Way::kRing;
  if (data_flow() == DataFlow::kSymmetric) return Way::kBlocks;
  return store_.has_all_parts() ? Way::kParts : Way::kRing;
}

void Engine::set_data_flow(DataFlow flow) {
  std::lock_guard<std::mutex> turn(turn_);
  check_idle("data flow changes");
  if (flow == DataFlow::kAsymmetric && !store_.has_mapping()) {
    throw std::logic_error("data flow: the asymmetric one needs a mapping of the tables; set it first");
  }
  flow_.store(flow);
  way_ = choose_way();
}

void Engine::set_roles(Roles roles) {
  if ((roles.memory > 0) != (roles.compute > 0) || roles.memory < 0 || roles.compute < 0) {
    throw std::invalid_argument(
        "roles: expected two positive numbers of threads, or 0 and 0 for mixed, got " +
        std::to_string(roles.memory) + " and " + std::to_string(roles.compute));
  }
  std::lock_guard<std::mutex> turn(turn_);
  check_idle("roles change");
  stop_driver();
  roles_ = roles;
  way_ = choose_way();
  if (roles.mixed()) return;
  memory_pool_ = std::make_unique<ThreadPool>(roles.memory, true);
  compute_pool_ = std::make_unique<ThreadPool>(roles.compute);
  while (static_cast<int>(threads_desks_.size()) < roles.compute) threads_desks_.push_back(make_desk());
  driver_ = std::thread([this] { drive(); });
}

void Engine::stop_driver() {
  if (!driver_.joinable()) return;
  stopping_.store(true);
  changed_.raise();
  driver_.join();
  stopping_.store(false);
}

void Engine::drive() {
  pin_to_core(available_cores().front());
  const auto in_flight = [this] {
    std::lock_guard<std::mutex> lock(state_);
    return begun_ - looked_up_;
  };
  for (;;) {
    changed_.wait_until([&] { return stopping_.load() || can_begin() || in_flight() > 0; });
    if (stopping_.load()) return;
    // Two look-ups at a time: while the rows of one come from SSD, the other's are pooled.
    if (in_flight() < 2 && can_begin()) {
      begin_segment(*memory_pool_);
    } else {
      look_up_segment();
      changed_.raise();
    }
  }
}

}  // namespace screc
