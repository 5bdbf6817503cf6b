#include "kernels/kernels.h"

#include <algorithm>
#include <vector>

namespace screc {
namespace {

void pool_rows(const float* const* rows, const int64_t* offsets, int64_t num_bags, int64_t dim, bool mean,
               float* out, int64_t out_stride) {
  for (int64_t bag = 0; bag < num_bags; ++bag, out += out_stride) {
    std::fill(out, out + dim, 0.0f);
    for (int64_t k = offsets[bag]; k < offsets[bag + 1]; ++k) {
      for (int64_t i = 0; i < dim; ++i) out[i] += rows[k][i];
    }
    const int64_t length = offsets[bag + 1] - offsets[bag];
    if (mean && length > 1) {
      for (int64_t i = 0; i < dim; ++i) out[i] /= static_cast<float>(length);
    }
  }
}

void tt_rows(const TtCores& cores, const int64_t* slots, int64_t n, float* out) {
  thread_local std::vector<float> state, next;
  const auto& views = cores.views();
  for (int64_t s = 0; s < n; ++s) {
    int64_t unit = cores.num_rows(), rest = slots[s], columns = 1;
    state.assign(1, 1.0f);
    for (const TtCoreView& core : views) {
      unit /= core.rows;
      const int64_t digit = rest / unit;
      rest %= unit;
      next.assign(static_cast<size_t>(columns * core.columns * core.next_rank), 0.0f);
      const int64_t width = core.columns * core.next_rank;
      for (int64_t c = 0; c < columns; ++c) {
        for (int64_t r = 0; r < core.rank; ++r) {
          const float* slice = core.data + (r * core.rows + digit) * width;
          for (int64_t j = 0; j < width; ++j) next[c * width + j] += state[c * core.rank + r] * slice[j];
        }
      }
      state.swap(next);
      columns *= core.columns;
    }
    std::copy(state.begin(), state.end(), out + s * cores.embedding_dim());
  }
}

}  // namespace

const Kernels& kernels() {
  static const Kernels table{Isa::kScalar, pool_rows, tt_rows};
  return table;
}

}  // namespace screc
