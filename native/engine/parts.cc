// How an engine predicts a batch in the asymmetric data flow.
#include <algorithm>
#include <functional>

#include "engine/engine.h"

namespace screc {

void Engine::predict_parts(const Prediction& batch) {
  const LookupRequest& request = batch.request;
  const auto tables = store_.hold_tables();
  const std::vector<CoreTables::Part>& parts = store_.all_parts();
  // The parts of each queue stand one after the other, nobody's first; that is the schedule's last queue.
  const auto queue_of = [&](const CoreTables::Part& part) {
    return static_cast<size_t>(part.core == CoreTables::kNobody ? num_threads() : part.core);
  };
  pieces_.assign(static_cast<size_t>(num_threads()) + 1, 0);
  first_part_.assign(pieces_.size(), 0);
  for (size_t p = 0; p < parts.size(); ++p) {
    const size_t queue = queue_of(parts[p]);
    if (pieces_[queue]++ == 0) first_part_[queue] = static_cast<int64_t>(p);
  }

  const int64_t stride = model_.feature_stride(), unit = model_.row_unit();
  const int64_t sample_bytes = std::max<int64_t>(1, stride) * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::clamp(kChunkBytes / sample_bytes, unit, num_threads() * kBlock);
  const Blocks chunks = cut(request.batch_size, most, 1);
  if (chunk_features_.size() == 0) {
    const int64_t samples = ChunkSchedule::kBuffers * (most + unit);
    chunk_features_ = AlignedBuffer(static_cast<size_t>(samples * sample_bytes));
  }
  const auto features_of = [&](int64_t chunk) {
    return chunk_features_.as<float>() + chunk % ChunkSchedule::kBuffers * (most + unit) * stride;
  };

  std::atomic<bool> failed{false};
  std::exception_ptr error;  // the first
  const auto look_up = [&](int queue, int64_t piece, int64_t chunk) {
    if (failed.load(std::memory_order_relaxed)) return;
    const int64_t first = chunks.begin(chunk), count = chunks.begin(chunk + 1) - first;
    try {
      store_.lookup_part(parts[static_cast<size_t>(first_part_[static_cast<size_t>(queue)] + piece)], request,
                         first, count, features_of(chunk) + model_.own_features(), stride);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  };
  const auto body = [&](int64_t, int64_t, int thread) {
    chunks_.work(thread, look_up, [&](int64_t chunk, int64_t block) {
      if (failed.load(std::memory_order_relaxed)) return;
      const int64_t first = chunks.begin(chunk), count = chunks.begin(chunk + 1) - first;
      const Blocks blocks{count, num_threads(), count / num_threads() >= 2 * unit ? unit : 1};
      const int64_t begin = blocks.begin(block), end = blocks.begin(block + 1);
      if (begin == end) return;
      for (const float* at = features_of(chunk) + begin * stride; at < features_of(chunk) + end * stride;
           at += 16) {
        __builtin_prefetch(at, 0, 2);
      }
      model_.run(batch.dense + (first + begin) * num_dense(), features_of(chunk) + begin * stride,
                 end - begin, batch.out + first + begin,
                 threads_desks_[static_cast<size_t>(thread)].workspace);
    });
  };
  chunks_.begin(chunks.number, num_threads(), pieces_);
  store_.threads().parallel_for(num_threads(), 1, std::ref(body));
  if (error) std::rethrow_exception(error);
  store_.count_lookups(request.num_ids);
}

}  // namespace screc
