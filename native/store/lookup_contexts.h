// What look-ups in flight work in: each has a context of its own, used again by later ones.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "io/page_reader.h"
#include "store/lookup.h"

namespace screc {

struct LookupRequest {  // table-major bags, as Batch in src/screc/data/batch.py
  const int64_t* ids;
  int64_t num_ids;
  const int64_t* offsets;  // [num_tables * batch_size + 1], from 0 to num_ids
  int64_t batch_size;
};

// Which threads look what up. Symmetric: every thread a part of the samples, in all tables. Asymmetric: every
// thread what its core has of the tables (RowStore::set_mapping).
enum class DataFlow { kSymmetric, kAsymmetric };

const char* data_flow_name(DataFlow flow);
// Throws std::invalid_argument naming the value and the accepted ones.
DataFlow parse_data_flow(std::string_view name);

struct LookupContext {
  explicit LookupContext(ThreadPool& threads) : lookup(threads) {}

  Lookup lookup;
  std::vector<Segment> segments;
  std::unique_ptr<PageReader> reader;  // made when the store has an SSD band
  std::mutex mutex;                    // keeps a ticket's finish() out while it polls

  // Of a look-up between its halves: the samples from that in flight on, and how many of them are in flight.
  LookupRequest request = {};
  DataFlow flow = DataFlow::kSymmetric;
  int64_t first = 0, count = 0, part = 0;
  float* out = nullptr;
  int64_t sample_stride = 0;
};

// Thread-safe.
class LookupContexts {
 public:
  static constexpr int kMost = 8;

  explicit LookupContexts(ThreadPool& threads) : threads_(threads) {}

  // A context that is not in use, made when there is none. When kMost are in use, waits for one of a whole
  // call; throws std::runtime_error when all belong to tickets, which only their holders end. `for_ticket` as
  // in release().
  LookupContext& acquire(bool for_ticket);
  void release(LookupContext& context, bool for_ticket) noexcept;

 private:
  ThreadPool& threads_;
  std::mutex mutex_;
  std::condition_variable released_;
  std::vector<std::unique_ptr<LookupContext>> contexts_;
  std::vector<LookupContext*> free_;
  int calls_ = 0;  // contexts in use by whole calls
};

// A context for as long as a call works in it.
class InUse {
 public:
  InUse(LookupContexts& contexts, bool for_ticket)
      : contexts_(contexts), context_(&contexts.acquire(for_ticket)), for_ticket_(for_ticket) {}
  // Takes over that of a ticket.
  InUse(LookupContexts& contexts, LookupContext& of_ticket)
      : contexts_(contexts), context_(&of_ticket), for_ticket_(true) {}
  ~InUse() {
    if (context_ != nullptr) contexts_.release(*context_, for_ticket_);
  }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

  LookupContext& operator*() const { return *context_; }
  LookupContext* operator->() const { return context_; }
  // Leaves the context to a ticket.
  LookupContext& keep() { return *std::exchange(context_, nullptr); }

 private:
  LookupContexts& contexts_;
  LookupContext* context_;
  const bool for_ticket_;
};

}  // namespace screc
