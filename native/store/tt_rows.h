// Rebuilds the tensor-train rows of one call: each once, however often it is looked up, and in the order in
// which rows share most of the work (TtCores::key_of).
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/arena.h"
#include "kernels/kernels.h"

namespace screc {

// Working memory and machinery, reused from call to call: begin, expect of each band, then adds from several
// threads, and when all is added rebuild of each part from several threads.
class TtRows {
 public:
  // Rows that have no place in an output are taken from the arena.
  explicit TtRows(Arena& arena) : arena_(arena) {}

  // How many threads add and rebuild from now on, at most.
  void use(int num_workers) {
    if (workers_.size() < static_cast<std::size_t>(num_workers)) {
      workers_.resize(static_cast<std::size_t>(num_workers));
    }
  }

  // Starts a call of at most so many look-ups.
  void begin(std::int64_t lookups);
  // At most so many look-ups will come of the band `number` (from 0, without large gaps). That of position i
  // gets its row's address in pointers[i]; where `out` is given, that may be out + i * out_stride, and the
  // row is written there.
  void expect(std::uint64_t number, const TtCores& cores, std::int64_t lookups, const void** pointers,
              float* out, std::int64_t out_stride);
  // Whether rows are rebuilt by rebuild(); few look-ups are not worth the sorting, and add does it at once.
  bool grouped() const { return grouped_; }

  // Look-up i < n is of slots[i] and has position first + positions[i]. `worker` < num_workers; each is used
  // by one thread at a time.
  void add(int worker, std::uint64_t number, const std::int64_t* slots, std::int64_t first,
           const std::int32_t* positions, std::int64_t n);

  std::int64_t num_parts() const { return static_cast<std::int64_t>(part_of_.size()); }
  // Rebuilds the rows of one part.
  void rebuild(int worker, std::int64_t part);

  // Bytes of working memory of one look-up besides its row, at most.
  static constexpr std::int64_t kLookupBytes = 64;

 private:
  static constexpr std::int64_t kLeastGrouped = 256;
  // Look-ups of a part, about: its sorting and its rows stay in a core's own cache.
  static constexpr std::int64_t kPartLookups = 1024;
  static constexpr std::int64_t kMostParts = 64;

  struct Item {
    std::uint64_t key;
    std::int64_t position;
  };
  // The look-ups of one band. Those whose first digits are equal modulo num_parts form a part.
  struct Group {
    const TtCores* cores = nullptr;
    const void** pointers = nullptr;
    float* out = nullptr;
    std::int64_t out_stride = 0;
    bool streamed = false;                       // past the caches
    std::int64_t first_part = 0, num_parts = 1;  // a power of two
  };
  struct alignas(64) Worker {
    std::vector<std::vector<Item>> parts;
    std::vector<Item> items, sorted;
    std::vector<std::int64_t> slots;
    AlignedBuffer buffer;

    float* rows(std::int64_t floats) {
      const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
      if (buffer.size() < bytes) buffer = AlignedBuffer(bytes);
      return buffer.as<float>();
    }
  };

  std::vector<Worker> workers_;
  std::vector<Group> groups_;           // by number
  std::vector<std::uint64_t> part_of_;  // number by part
  bool grouped_ = false;
  Arena& arena_;
};

}  // namespace screc
