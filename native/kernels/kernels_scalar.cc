// The reference: what every other instruction set must agree with, and what runs where there is none.
#include <cmath>
#include <cstring>

#include "kernels/tables.h"

namespace screc {
namespace {

void pool_rows(const float* const* rows, const int64_t* offsets, int64_t num_bags, int64_t dim, bool mean,
               float* out, int64_t out_stride) {
  for (int64_t b = 0; b < num_bags; ++b) {
    float* sum = out + b * out_stride;
    for (int64_t c = 0; c < dim; ++c) sum[c] = 0.0f;
    for (int64_t k = offsets[b]; k < offsets[b + 1]; ++k) {
      for (int64_t c = 0; c < dim; ++c) sum[c] += rows[k][c];
    }
    const int64_t count = offsets[b + 1] - offsets[b];
    if (mean && count > 1) {
      for (int64_t c = 0; c < dim; ++c) sum[c] /= static_cast<float>(count);
    }
  }
}

// entry(id, column) of a table, pooled as pool_rows does.
template <typename Entry>
void pool_entries(int64_t dim, const IdBags& bags, const Entry& entry) {
  for (int64_t b = 0; b < bags.num_bags; ++b) {
    const int64_t begin = bags.start(b), end = bags.start(b + 1);
    for (int64_t c = 0; c < dim; ++c) {
      float sum = end - begin == 1 ? entry(bags.ids[begin], c) : 0.0f;
      for (int64_t k = begin; end - begin > 1 && k < end; ++k) sum += entry(bags.ids[k], c);
      if (bags.mean && end - begin > 1) sum /= static_cast<float>(end - begin);
      bags.out[b * bags.out_stride + c] = sum;
    }
  }
}

void pool_ids(const RowArray& table, const IdBags& bags) {
  pool_entries(table.dim, bags, [&](int64_t id, int64_t c) { return table.rows[id * table.dim + c]; });
}

void stream_ids(const RowArray& table, const IdBags& bags) {
  const int64_t stride = RowArray::padded_rows(table.num_rows);
  pool_entries(table.dim, bags, [&](int64_t id, int64_t c) { return table.columns[c * stride + id]; });
}

void count_ids(const RowArray& table, const IdBags& bags) {
  float counts[RowArray::kMaxCounted];
  for (int64_t b = 0; b < bags.num_bags; ++b) {
    const int64_t begin = bags.start(b), end = bags.start(b + 1);
    for (int64_t r = 0; r < table.num_rows; ++r) counts[r] = 0.0f;
    for (int64_t k = begin; k < end; ++k) counts[bags.ids[k]] += 1.0f;
    for (int64_t c = 0; c < table.dim; ++c) {
      float sum = end - begin == 1 ? table.rows[bags.ids[begin] * table.dim + c] : 0.0f;
      for (int64_t r = 0; end - begin > 1 && r < table.num_rows; ++r) {
        sum += counts[r] * table.rows[r * table.dim + c];
      }
      if (bags.mean && end - begin > 1) sum /= static_cast<float>(end - begin);
      bags.out[b * bags.out_stride + c] = sum;
    }
  }
}

void tt_rows(const TtCores& cores, const int64_t* slots, int64_t n, float* out) {
  float* scratch = thread_scratch(cores.scratch_floats());
  const int last = cores.num_cores() - 1;
  for (int64_t i = 0; i < n; ++i) {
    const auto slice = [&](int k) {
      const TtCores::Level& level = cores.level(k);
      return level.slices + slots[i] / level.digit_unit % level.rows * level.slice_floats;
    };
    const float* state = slice(0);
    for (int k = 1; k <= last; ++k) {
      const TtCores::Level& left = cores.level(k - 1);
      const TtCores::Level& level = cores.level(k);
      const int64_t width = level.next_rank * level.columns;
      const int64_t stride = k == last ? width : level.state_stride;
      const float* core = slice(k);
      float* next = k == last ? out + i * cores.embedding_dim() : scratch + level.state_offset;
      for (int64_t m = 0; m < left.left_columns; ++m) {
        for (int64_t c = 0; c < left.columns; ++c) {
          float* to = next + (m * left.columns + c) * stride;
          for (int64_t j = 0; j < width; ++j) to[j] = 0.0f;
          for (int64_t r = 0; r < level.rank; ++r) {
            const float x = state[m * left.state_stride + r * left.columns + c];
            for (int64_t j = 0; j < width; ++j) to[j] += x * core[r * width + j];
          }
        }
      }
      state = next;
    }
  }
}

void linear(const LinearWeights& w, const float* x, int64_t x_stride, int64_t m, bool relu, float* out,
            int64_t out_stride) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t o = 0; o < w.out; ++o) {
      const float* row = w.weight + o * w.in;  // panels of width 1 are rows
      float sum = w.bias[o];
      for (int64_t k = 0; k < w.in; ++k) sum += x[i * x_stride + k] * row[k];
      out[i * out_stride + o] = relu && sum < 0.0f ? 0.0f : sum;
    }
  }
}

void interact(const float* features, int64_t num_samples, int64_t num_features, int64_t dim,
              int64_t sample_stride, float* out, int64_t out_stride) {
  for (int64_t s = 0; s < num_samples; ++s) {
    const float* f = features + s * sample_stride;
    float* to = out + s * out_stride;
    for (int64_t i = 0; i < num_features; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        float sum = 0.0f;
        for (int64_t c = 0; c < dim; ++c) sum += f[i * dim + c] * f[j * dim + c];
        *to++ = sum;
      }
    }
  }
}

void sigmoid(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = 1.0f / (1.0f + std::exp(-x[i]));
}

}  // namespace

const Kernels& scalar_kernels() {
  static constexpr Kernels kTable{Isa::kScalar, 1,       0,        pool_rows,  tt_rows,  linear,
                                  interact,     sigmoid, pool_ids, stream_ids, count_ids};
  return kTable;
}

}  // namespace screc
