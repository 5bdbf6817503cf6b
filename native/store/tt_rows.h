// Rebuilds the tensor-train rows of one call: each once, however often it is looked up, and in the order in
// which rows share most of the work (TtCores::key_of).
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace screc {

// Working memory and machinery, reused from call to call: begin, then what every look-up's thread adds, then
// rebuild.
class TtRows {
 public:
  explicit TtRows(int num_workers);

  // Starts a call whose rows take at most `floats` floats.
  void begin(std::int64_t floats);
  // Look-ups expected of the cores numbered `number` (from 0, without large gaps), at most; before their first
  // add. Few look-ups of a call are not worth the sorting, see grouped.
  void expect(std::int64_t number, const TtCores& cores, std::int64_t lookups);
  // Whether rows are rebuilt by rebuild(); otherwise add does it at once.
  bool grouped() const { return lookups_ >= kLeastGrouped; }

  // Look-up i < n is of slots[i] and wants its row at pointers[positions[i]]. `worker` < num_workers; each is
  // used by one thread at a time.
  void add(int worker, std::int64_t number, const std::int64_t* slots, const std::int32_t* positions,
           std::int64_t n, const float** pointers);
  // Rebuilds what was added and sets the pointers. The rows stay until the next begin.
  void rebuild(ThreadPool& threads);

  // Bytes of working memory of one look-up besides its row, at most.
  static constexpr std::int64_t kLookupBytes = 64;

 private:
  // Sorting costs some 10 ns a look-up.
  static constexpr std::int64_t kLeastGrouped = 256;
  // Look-ups of a part, about: its sorting and its rows stay in a core's own cache.
  static constexpr std::int64_t kPartLookups = 1024;
  static constexpr std::int64_t kMostParts = 64;

  struct Item {
    std::uint64_t key;
    const float** pointer;
  };
  // The look-ups whose first digit falls on one of `num_parts` residues.
  struct Group {
    const TtCores* cores;
    std::int64_t first_part, num_parts;  // a power of two
  };
  struct alignas(64) Worker {
    std::vector<std::vector<Item>> parts;
    std::vector<Item> items, sorted;
    std::vector<std::int64_t> slots;
  };

  void rebuild_part(std::int64_t part, Worker& worker);
  float* take(std::int64_t floats) {
    return arena_.as<float>() + used_.fetch_add(floats, std::memory_order_relaxed);
  }

  std::vector<Worker> workers_;
  std::vector<Group> groups_;               // by number
  std::vector<const TtCores*> part_cores_;  // by part
  std::int64_t lookups_ = 0, num_parts_ = 0;
  AlignedBuffer arena_;  // rebuilt rows
  std::atomic<std::int64_t> used_{0};
};

}  // namespace screc
