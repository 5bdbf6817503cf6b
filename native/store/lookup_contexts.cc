#include "store/lookup_contexts.h"

#include <stdexcept>
#include <string>

namespace screc {

const char* data_flow_name(DataFlow flow) {
  return flow == DataFlow::kSymmetric ? "symmetric" : "asymmetric";
}

DataFlow parse_data_flow(std::string_view name) {
  if (name == "symmetric") return DataFlow::kSymmetric;
  if (name == "asymmetric") return DataFlow::kAsymmetric;
  throw std::invalid_argument("data_flow '" + std::string(name) +
                              "' is unknown; use symmetric or asymmetric");
}

LookupContext& LookupContexts::acquire(bool for_ticket) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto full = [this] { return free_.empty() && static_cast<int>(contexts_.size()) == kMost; };
  released_.wait(lock, [&] { return !full() || calls_ == 0; });
  if (full()) {
    throw std::runtime_error(std::to_string(kMost) +
                             " look-ups are in flight; finish one before the next begins");
  }
  if (free_.empty()) {
    free_.reserve(kMost);
    contexts_.push_back(std::make_unique<LookupContext>(threads_));
    free_.push_back(contexts_.back().get());
  }
  LookupContext* const context = free_.back();  // the last used: its memory may be in a cache
  free_.pop_back();
  if (!for_ticket) ++calls_;
  return *context;
}

void LookupContexts::release(LookupContext& context, bool for_ticket) noexcept {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(&context);
    if (!for_ticket) --calls_;
  }
  released_.notify_all();
}

}  // namespace screc
