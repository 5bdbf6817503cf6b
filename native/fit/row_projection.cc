#include "fit/row_projection.h"

#include <algorithm>

#include "fit/symmetric.h"

namespace screc {
namespace {

constexpr int64_t kBlockRows = 48;  // rows of a tile, and patterns, that stay in the first level of cache
constexpr int64_t kGramPrefixes = 48;

}  // namespace

RowProjection::RowProjection(const float* core, int64_t rank, int64_t slices, int64_t columns,
                             int64_t left_columns, Isa isa, ThreadPool& pool)
    : kernels_(&fit_kernels(isa)),
      pool_(&pool),
      rank_(rank),
      slices_(slices),
      columns_(columns),
      left_columns_(left_columns),
      tiles_(slices, left_columns, columns, *kernels_),
      products_(kernels(isa), num_pairs(rank)),
      period_(tiles_.columns() <= 4 ? 4 : kernels_->lanes),
      patterns_(static_cast<size_t>(tiles_.rows() * rank * period_) * sizeof(float)),
      grams_(static_cast<size_t>(slices * products_.padded(num_pairs(rank))) * sizeof(float)) {
  float* pattern = patterns_.as<float>();
  for (int64_t row = 0; row < tiles_.rows(); ++row) {
    const int64_t slice = row / tiles_.parts(), first = row % tiles_.parts() * tiles_.columns();
    for (int64_t b = 0; b < rank; ++b) {
      for (int64_t l = 0; l < period_; ++l) {
        const int64_t j = first + l % tiles_.columns();
        *pattern++ = j < columns ? core[(b * slices + slice) * columns + j] : 0.0f;
      }
    }
  }
  std::vector<float> gram;
  for (int64_t i = 0; i < slices; ++i) {
    for (int64_t a = 0; a < rank; ++a) {
      for (int64_t b = 0; b <= a; ++b) {
        float sum = 0.0f;
        for (int64_t j = 0; j < columns; ++j) {
          sum += core[(a * slices + i) * columns + j] * core[(b * slices + i) * columns + j];
        }
        gram.push_back(sum);
      }
    }
  }
  products_.pack(gram.data(), num_pairs(rank), slices, num_pairs(rank), grams_.as<float>());
  for (int thread = 0; thread < pool.num_threads(); ++thread) {
    scratch_.emplace_back(static_cast<size_t>((kBlockRows + rank) * tiles_.width()) * sizeof(float));
  }
}

double RowProjection::add(const RowChunk& chunk, float* z, float* e) {
  const int64_t groups = (chunk.prefixes + tiles_.group_prefixes() - 1) / tiles_.group_prefixes();
  std::vector<double> energies(static_cast<size_t>(groups));
  pool_->parallel_for(groups, 4, [&](int64_t begin, int64_t end, int thread) {
    float* scratch = scratch_[static_cast<size_t>(thread)].as<float>();
    for (int64_t g = begin; g < end; ++g) {
      energies[static_cast<size_t>(g)] = project_group(chunk, g, scratch, z);
    }
  });
  const int64_t pairs = num_pairs(rank_);
  pool_->parallel_for(chunk.prefixes, kGramPrefixes, [&](int64_t begin, int64_t end, int) {
    products_.multiply(grams_.as<float>(), slices_, pairs, chunk.weights + begin * slices_, slices_,
                       end - begin, e + begin * pairs, pairs);
  });
  double energy = 0.0;
  for (double one : energies) energy += one;
  return energy;
}

double RowProjection::project_group(const RowChunk& chunk, int64_t group, float* scratch, float* z) const {
  const int64_t width = tiles_.width(), columns = tiles_.columns(), per_tile = tiles_.left_columns_per_tile();
  float* block = scratch;
  float* sums = scratch + kBlockRows * width;
  double energy = 0.0;
  for (int64_t tile = group * tiles_.group_tiles(); tile < (group + 1) * tiles_.group_tiles(); ++tile) {
    std::fill_n(sums, rank_ * width, 0.0f);
    for (int64_t first = 0; first < tiles_.rows(); first += kBlockRows) {
      const int64_t n = std::min(kBlockRows, tiles_.rows() - first);
      energy += tiles_.fill(chunk, tile, first, n, block);
      const bool last = first + n == tiles_.rows();
      const float* ahead = tiles_.rows_of(chunk, tile + last, last ? 0 : first + n);
      kernels_->project(block, n, patterns_.as<float>() + first * rank_ * period_, period_, rank_, ahead,
                        tiles_.dim(), sums);
    }
    const int64_t last = std::min((tile + 1) * per_tile, chunk.prefixes * left_columns_);
    for (int64_t left = tile * per_tile; left < last; ++left) {
      const float* from = sums + (left - tile * per_tile) * columns;
      for (int64_t b = 0; b < rank_; ++b) {
        float sum = from[b * width];
        for (int64_t j = 1; j < columns; ++j) sum += from[b * width + j];
        z[left * rank_ + b] = sum;
      }
    }
  }
  return energy;
}

}  // namespace screc
