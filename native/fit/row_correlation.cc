#include "fit/row_correlation.h"

#include <algorithm>

#include "fit/symmetric.h"

namespace screc {
namespace {

// Prefixes whose sums are taken in fp32 before they are added in double.
constexpr int64_t kPiecePrefixes = 256;
// Rows of a tile, and tiles, that are weighted at once: they stay in the first level of cache.
constexpr int64_t kBlockRows = 8, kBlockTiles = 16;
constexpr int64_t kNormalSlices = 12;

// Adds to `own` numbers the sums of lanes that are kStep apart, or `step` where that is 0.
template <int kStep>
void fold(const float* lane, int64_t lanes, int64_t own, double* to, int64_t step = kStep) {
  float sums[16] = {};
  const int64_t width = kStep > 0 ? kStep : step;
  for (int64_t l = 0; l < lanes; l += width) {
    for (int64_t j = 0; j < width; ++j) sums[j] += lane[l + j];
  }
  for (int64_t j = 0; j < own; ++j) to[j] += sums[j];
}

}  // namespace

struct RowCorrelation::Piece {
  RowChunk chunk;
  int64_t first_left, first_middle, num_middles;
  int64_t first_prefix;  // of the piece, in the order of the chunk it was cut from
};

RowCorrelation::RowCorrelation(const Cores& cores, int64_t slices, int64_t columns, Isa isa, ThreadPool& pool)
    : kernels_(&fit_kernels(isa)),
      pool_(&pool),
      cores_(cores),
      slices_(slices),
      columns_(columns),
      left_columns_(cores.before * cores.own),
      tiles_(slices, left_columns_, columns, *kernels_),
      products_(kernels(isa), std::max(num_pairs(cores.rank), cores.own * cores.rank)),
      right_(static_cast<size_t>(slices * columns * cores.rank)),
      normal_(static_cast<size_t>(slices * num_pairs(cores.rank))) {
  const int64_t rank = cores.rank, pairs = num_pairs(rank), group = tiles_.group_prefixes();
  piece_prefixes_ = std::max<int64_t>(1, kPiecePrefixes / group) * group;
  const auto floats = [](int64_t n) { return AlignedBuffer(static_cast<size_t>(n) * sizeof(float)); };
  const int64_t packed = cores.inner * products_.padded(cores.own * rank);
  middle_ = floats(cores.middles * packed);
  for (int64_t i = 0; i < cores.middles; ++i) {
    const int64_t slice = cores.own * rank;
    products_.pack(cores.middle + i * slice, cores.middles * slice, cores.inner, slice,
                   middle_.as<float>() + i * packed);
  }
  // What stands beside the products in a last tile that is not full is multiplied with zeros.
  patterns_ = floats(piece_prefixes_ / group * tiles_.group_tiles() * rank * tiles_.left_columns_per_tile() +
                     kFitSlack);
  grams_ = floats(piece_prefixes_ * products_.padded(pairs));
  weights_ = floats(piece_prefixes_ * slices);
  const int64_t for_products =
      left_columns_ * rank * 2 + left_columns_ * products_.padded(rank) + rank * rank + pairs;
  const int64_t for_rows = kBlockRows * (kBlockTiles * tiles_.width() + rank * kernels_->lanes);
  for (int thread = 0; thread < pool.num_threads(); ++thread) {
    scratch_.push_back(floats(std::max({for_products, for_rows, kNormalSlices * pairs})));
  }
}

void RowCorrelation::add(const RowChunk& chunk, int64_t first_left, int64_t first_middle,
                         int64_t num_middles) {
  const auto share = [&](int64_t n, int64_t grain, auto body) {
    pool_->parallel_for(n, grain, [&](int64_t begin, int64_t end, int thread) {
      body(begin, end, scratch_[static_cast<size_t>(thread)].as<float>());
    });
  };
  // Pieces of nearly equal size, each but the last of whole groups.
  const int64_t pieces = (chunk.prefixes + piece_prefixes_ - 1) / piece_prefixes_;
  const int64_t group = tiles_.group_prefixes();
  const int64_t step = ((chunk.prefixes + pieces - 1) / pieces + group - 1) / group * group;
  for (int64_t first = 0; first < chunk.prefixes; first += step) {
    const Piece piece{{chunk.rows, chunk.numbers + first, chunk.weights + first * slices_,
                       std::min(step, chunk.prefixes - first)},
                      first_left,
                      first_middle,
                      num_middles,
                      first};
    share(piece.chunk.prefixes, 16,
          [&](int64_t begin, int64_t end, float* scratch) { multiply_out(piece, begin, end, scratch); });
    // A run of rows for each thread: what it reads next is known, and fetched ahead.
    const int64_t blocks = (tiles_.rows() + kBlockRows - 1) / kBlockRows, threads = pool_->num_threads();
    share(tiles_.rows(), (blocks + threads - 1) / threads * kBlockRows,
          [&](int64_t begin, int64_t end, float* scratch) { correlate(piece, begin, end, scratch); });
    share(slices_, kNormalSlices,
          [&](int64_t begin, int64_t end, float* scratch) { add_normal(piece, begin, end, scratch); });
  }
}

void RowCorrelation::multiply_out(const Piece& piece, int64_t begin, int64_t end, float* scratch) {
  const int64_t rank = cores_.rank, slice = cores_.own * rank, pairs = num_pairs(rank);
  const int64_t packed = cores_.inner * products_.padded(slice);
  const int64_t per_tile = tiles_.left_columns_per_tile(), prefixes = piece.chunk.prefixes;
  float* product = scratch;  // [left_columns][rank]
  float* transposed = product + left_columns_ * rank;
  float* as_panels = transposed + left_columns_ * rank;
  float* gram = as_panels + left_columns_ * products_.padded(rank);
  float* triangle = gram + rank * rank;
  for (int64_t x = begin; x < end; ++x) {
    const int64_t prefix = piece.first_prefix + x;
    const int64_t m = piece.first_left + prefix / piece.num_middles;
    const int64_t i = piece.first_middle + prefix % piece.num_middles;
    products_.multiply(middle_.as<float>() + i * packed, cores_.inner, slice,
                       cores_.left + m * cores_.before * cores_.inner, cores_.inner, cores_.before, product,
                       slice);
    kernels_->transpose(product, rank, left_columns_, rank, transposed, left_columns_);
    for (int64_t c = 0; c < left_columns_;) {  // runs of columns in one tile
      const int64_t left = x * left_columns_ + c, tile = left / per_tile, at = left % per_tile;
      const int64_t n = std::min(per_tile - at, left_columns_ - c);
      float* to = patterns_.as<float>() + tile * rank * per_tile + at;
      for (int64_t b = 0; b < rank; ++b)
        std::copy_n(transposed + b * left_columns_ + c, n, to + b * per_tile);
      c += n;
    }
    products_.pack(product, rank, left_columns_, rank, as_panels);
    products_.multiply(as_panels, left_columns_, rank, transposed, left_columns_, rank, gram, rank);
    pack_symmetric(gram, rank, triangle);
    float* to = grams_.as<float>() + x * products_.panel();
    for (int64_t first = 0; first < pairs; first += products_.panel(), to += prefixes * products_.panel()) {
      std::copy_n(triangle + first, std::min(products_.panel(), pairs - first), to);
    }
  }
  kernels_->transpose(piece.chunk.weights + begin * slices_, slices_, end - begin, slices_,
                      weights_.as<float>() + begin, prefixes);
}

void RowCorrelation::correlate(const Piece& piece, int64_t begin, int64_t end, float* scratch) {
  const int64_t rank = cores_.rank, lanes = kernels_->lanes, width = tiles_.width();
  const int64_t per_tile = tiles_.left_columns_per_tile();
  const int64_t num_tiles = (piece.chunk.prefixes * left_columns_ + per_tile - 1) / per_tile;
  float* const sums = scratch;  // [kBlockRows][rank][lanes]
  float* const block = scratch + kBlockRows * rank * lanes;
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t n = std::min(kBlockRows, end - row);
    std::fill_n(sums, n * rank * lanes, 0.0f);
    for (int64_t first = 0; first < num_tiles; first += kBlockTiles) {
      const int64_t tiles = std::min(kBlockTiles, num_tiles - first);
      const bool last = first + tiles == num_tiles;
      const float* ahead[kBlockTiles];
      for (int64_t t = 0; t < tiles; ++t) {
        tiles_.fill(piece.chunk, first + t, row, n, block + t * n * width);
        const int64_t next = last ? t : std::min(first + kBlockTiles + t, num_tiles - 1);
        ahead[t] = tiles_.rows_of(piece.chunk, next, last ? std::min(row + n, end - n) : row);
      }
      kernels_->correlate(block, n * width, tiles, n, patterns_.as<float>() + first * rank * per_tile,
                          tiles_.columns(), rank, ahead[0] == nullptr ? nullptr : ahead, tiles_.dim(), sums);
    }
    add_right(sums, row, n);
  }
}

// Adds sums [n][rank][lanes] of rows of the tiles, lanes of the same column being added up.
void RowCorrelation::add_right(const float* sums, int64_t row, int64_t n) {
  const int64_t rank = cores_.rank, lanes = kernels_->lanes, step = tiles_.columns();
  for (int64_t end = row + n; row < end; ++row) {
    const int64_t slice = row / tiles_.parts(), first = row % tiles_.parts() * step;
    const int64_t own = std::min(step, columns_ - first);
    double* to = right_.data() + slice * rank * columns_ + first;
    for (int64_t b = 0; b < rank; ++b, sums += lanes, to += columns_) {
      if (step == 4) {  // the usual one, at a fixed length
        fold<4>(sums, lanes, own, to);
      } else {
        fold<0>(sums, lanes, own, to, step);
      }
    }
  }
}

void RowCorrelation::add_normal(const Piece& piece, int64_t begin, int64_t end, float* scratch) {
  const int64_t pairs = num_pairs(cores_.rank), prefixes = piece.chunk.prefixes;
  products_.multiply(grams_.as<float>(), prefixes, pairs, weights_.as<float>() + begin * prefixes, prefixes,
                     end - begin, scratch, pairs);
  kernels_->add_double(scratch, (end - begin) * pairs, normal_.data() + begin * pairs);
}

}  // namespace screc
