// How the bound functions share work over an optional ThreadPool, and which kernels they take.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace screc::bindings {

inline const Kernels& chosen_kernels(const std::optional<std::string>& isa) {
  return isa ? kernels(parse_isa(*isa)) : kernels();
}

// body(begin, end) over pieces of [0, n), on the pool where there is one.
template <typename Body>
void share(ThreadPool* pool, int64_t n, int64_t grain, const Body& body) {
  if (pool == nullptr) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  const auto piece = [&](int64_t begin, int64_t end, int) { body(begin, end); };
  pool->parallel_for(n, grain, std::ref(piece));
}

}  // namespace screc::bindings
