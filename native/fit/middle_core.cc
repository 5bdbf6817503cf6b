#include "fit/middle_core.h"

#include <algorithm>
#include <vector>

#include "base/aligned_buffer.h"
#include "fit/panel_products.h"
#include "fit/symmetric.h"
#include "kernels/fit_kernels.h"

namespace screc {
namespace {

constexpr int64_t kMostUnknowns = 256;
constexpr double kRidge = 1e-7;
constexpr int kRidges = 3;
// Slices whose sums wait to be added in their order.
constexpr int64_t kSlicesPerThread = 4;

// Unknowns a in [first, first + size), with every b.
struct Block {
  int64_t first, size;
  const float* pairs;  // [num_pairs(size)][lefts]: A[m][a][a'] of the block
};

// What depends on the cores before alone: A[m] = left[m]^T left[m], in the orders of the products to come.
class Left {
 public:
  Left(const float* left, const MiddleSolver::Shape& p)
      : block_size_(block_size(p)),
        transposed_(static_cast<size_t>(p.inner * p.lefts * p.before)),
        rows_(static_cast<size_t>(p.inner * p.lefts * p.inner)) {
    for (int64_t m = 0; m < p.lefts; ++m) {
      for (int64_t c = 0; c < p.before; ++c) {
        const float* row = left + (m * p.before + c) * p.inner;
        for (int64_t a = 0; a < p.inner; ++a) {
          transposed_[static_cast<size_t>((a * p.lefts + m) * p.before + c)] = row[a];
          float* to = rows_.data() + (a * p.lefts + m) * p.inner;
          for (int64_t b = 0; b < p.inner; ++b) to[b] += row[a] * row[b];
        }
      }
    }
    pairs_.reserve(static_cast<size_t>((p.inner / block_size_ + 1) * num_pairs(block_size_) * p.lefts));
    for (int64_t first = 0; first < p.inner; first += block_size_) {
      const int64_t size = std::min(block_size_, p.inner - first);
      blocks_.push_back({first, size, pairs_.data() + pairs_.size()});
      for (int64_t a = first; a < first + size; ++a) {
        for (int64_t b = first; b <= a; ++b) {
          for (int64_t m = 0; m < p.lefts; ++m) {
            pairs_.push_back(rows_[static_cast<size_t>((a * p.lefts + m) * p.inner + b)]);
          }
        }
      }
    }
  }

  static int64_t block_size(const MiddleSolver::Shape& p) {
    return std::clamp<int64_t>(kMostUnknowns / p.rank, 1, p.inner);
  }

  const std::vector<Block>& blocks() const { return blocks_; }
  const float* transposed() const { return transposed_.data(); }  // [inner][lefts * before]: left^T
  const float* rows() const { return rows_.data(); }              // [inner][lefts * inner]: A[m][a][a']

 private:
  int64_t block_size_;
  std::vector<Block> blocks_;
  std::vector<float> transposed_, rows_, pairs_;
};

// Where the numbers of one slice's work lie in its thread's memory, in floats; doubles come last.
struct Layout {
  Layout(const MiddleSolver::Shape& p, const PanelProducts& products) {
    const int64_t padded = products.padded(p.rank), slice = p.own * p.rank, size = Left::block_size(p);
    pairs = 0;
    squares = pairs + p.lefts * products.padded(num_pairs(p.rank));
    image = squares + p.lefts * p.rank * padded;
    product = image + p.own * p.lefts * p.inner * padded;
    right = product + std::max({p.lefts * p.inner * p.inner, num_pairs(size) * num_pairs(p.rank),
                                p.lefts * p.before * slice, p.rank * p.rank});
    packed = right + p.lefts * p.before * products.padded(slice);
    x = packed + p.own * padded * products.padded(p.inner);
    gradient = x + p.inner * slice;
    doubles = (gradient + p.inner * slice + 15) / 16 * 16;
    unknowns = size * p.rank;
    bytes = doubles * 4 + unknowns * (unknowns + p.own) * 8;
  }
  int64_t pairs, squares, image, product, right, packed, x, gradient, doubles, unknowns, bytes;
};

// Solves for one slice after the other, in memory of its own.
class SliceSolver {
 public:
  SliceSolver(const MiddleSolver::Shape& p, const Left& left, const PanelProducts& products,
              const FitKernels& kernels)
      : p_(p),
        left_(left),
        products_(products),
        kernels_(kernels),
        at_(p, products),
        memory_(static_cast<size_t>(at_.bytes)),
        floats_(memory_.as<float>()) {}

  // Improves slice i of n and writes what it adds to e_out and z_out, as floats.
  void solve(const float* e, const float* z, int64_t i, int64_t n, float* slice, float* e_out, float* z_out) {
    load(e, z, i, n, slice);
    const std::vector<Block>& blocks = left_.blocks();
    const bool whole = blocks.size() == 1;
    const float* const known = floats_ + at_.x;
    if (std::all_of(known, known + p_.own * p_.inner * p_.rank, [](float v) { return v == 0.0f; })) {
      std::fill(floats_ + at_.image, floats_ + at_.product, 0.0f);
    } else if (!whole) {
      multiply_e(0, p_.inner);
    }
    for (const Block& block : blocks) {
      solve_block(block, whole);
      multiply_e(block.first, block.size);
    }
    store(z, i, n, slice, e_out, z_out);
  }

 private:
  float* x(int64_t j) { return floats_ + at_.x + j * p_.inner * p_.rank; }  // [inner][rank]
  // Left^T Z: minus half the gradient at x = 0.
  float* gradient(int64_t j) { return floats_ + at_.gradient + j * p_.inner * p_.rank; }
  // X[j] E[m] of all m, as a packed matrix [lefts * inner] x [rank], from the panel of a column on.
  float* image(int64_t j, int64_t column) {
    return floats_ + at_.image + (j * products_.padded(p_.rank) + column) * p_.lefts * p_.inner;
  }

  // The slice's E in two packed forms, its x by j, and the gradient at x = 0.
  void load(const float* e, const float* z, int64_t i, int64_t n, const float* slice) {
    const int64_t pairs = num_pairs(p_.rank), own = p_.own * p_.rank, padded = products_.padded(p_.rank);
    products_.pack(e + i * pairs, n * pairs, p_.lefts, pairs, floats_ + at_.pairs);
    for (int64_t m = 0; m < p_.lefts; ++m) {
      float* full = floats_ + at_.product;
      unpack_symmetric(e + (m * n + i) * pairs, p_.rank, full, p_.rank);
      products_.pack(full, p_.rank, p_.rank, p_.rank, floats_ + at_.squares + m * p_.rank * padded);
    }
    float* rows = floats_ + at_.product;  // Z of this slice, [lefts * before][own * rank]
    copy_z(z, i, n, rows);
    products_.pack(rows, own, p_.lefts * p_.before, own, floats_ + at_.right);
    products_.multiply(floats_ + at_.right, p_.lefts * p_.before, own, left_.transposed(),
                       p_.lefts * p_.before, p_.inner, rows, own);
    for (int64_t a = 0; a < p_.inner; ++a) {
      for (int64_t j = 0; j < p_.own; ++j) {
        std::copy_n(slice + (a * p_.own + j) * p_.rank, p_.rank, x(j) + a * p_.rank);
        std::copy_n(rows + (a * p_.own + j) * p_.rank, p_.rank, gradient(j) + a * p_.rank);
      }
    }
  }

  void copy_z(const float* z, int64_t i, int64_t n, float* to) const {
    const int64_t size = p_.before * p_.own * p_.rank;
    for (int64_t m = 0; m < p_.lefts; ++m) std::copy_n(z + (m * n + i) * size, size, to + m * size);
  }

  // Renews the image of rows a in [first, first + size).
  void multiply_e(int64_t first, int64_t size) {
    const int64_t padded = products_.padded(p_.rank), panel = products_.panel();
    for (int64_t j = 0; j < p_.own; ++j) {
      for (int64_t column = 0; column < p_.rank; column += panel) {
        for (int64_t m = 0; m < p_.lefts; ++m) {
          products_.multiply(floats_ + at_.squares + m * p_.rank * padded + column * p_.rank, p_.rank,
                             std::min(panel, p_.rank - column), x(j) + first * p_.rank, p_.rank, size,
                             image(j, column) + (m * p_.inner + first) * panel, panel);
        }
      }
    }
  }

  // Solves for a block's unknowns: `whole` for x from the gradient at x = 0, else for the step from x as it
  // is.
  void solve_block(const Block& block, bool whole) {
    const int64_t n = block.size * p_.rank, pairs = num_pairs(block.size);
    float* sums = floats_ + at_.product;
    double* matrix = reinterpret_cast<double*>(floats_ + at_.doubles);
    double* right = matrix + n * n;
    const auto start_of = [&](int64_t j) { return gradient(j) + block.first * p_.rank; };
    if (!whole) {
      for (int64_t j = 0; j < p_.own; ++j) {
        products_.multiply(image(j, 0), p_.lefts * p_.inner, p_.rank,
                           left_.rows() + block.first * p_.lefts * p_.inner, p_.lefts * p_.inner, block.size,
                           sums, p_.rank);
        for (int64_t k = 0; k < n; ++k) start_of(j)[k] -= sums[k];
      }
    }
    products_.multiply(floats_ + at_.pairs, p_.lefts, num_pairs(p_.rank), block.pairs, p_.lefts, pairs, sums,
                       num_pairs(p_.rank));
    const double trace = spread(block, sums, matrix);
    bool solved = false;
    double ridge = kRidge * trace;
    for (int attempt = 0; trace > 0.0 && !solved && attempt < kRidges; ++attempt, ridge *= 100) {
      if (attempt > 0) spread(block, sums, matrix);
      for (int64_t k = 0; k < n; ++k) matrix[k * n + k] += ridge;
      for (int64_t j = 0; j < p_.own; ++j) {
        const float* old = x(j) + block.first * p_.rank;
        for (int64_t k = 0; k < n; ++k) right[j * n + k] = start_of(j)[k] + (whole ? ridge * old[k] : 0.0);
      }
      solved = kernels_.solve(matrix, n, right, p_.own);
    }
    if (trace > 0.0 && !solved) return;  // it stays as it was
    for (int64_t j = 0; j < p_.own; ++j) {
      float* to = x(j) + block.first * p_.rank;
      for (int64_t k = 0; k < n; ++k) {
        to[k] = !solved ? 0.0f : static_cast<float>(right[j * n + k] + (whole ? 0.0 : to[k]));
      }
    }
  }

  // The upper triangle of a block's matrix from the sums of its pairs; returns the trace.
  double spread(const Block& block, const float* sums, double* matrix) const {
    const int64_t n = block.size * p_.rank;
    double trace = 0.0;
    for (int64_t a = 0; a < block.size; ++a) {
      for (int64_t b = 0; b <= a; ++b, sums += num_pairs(p_.rank)) {
        double* to = matrix + b * p_.rank * n + a * p_.rank;
        unpack_symmetric(sums, p_.rank, to, n);
        if (a == b) {
          for (int64_t k = 0; k < p_.rank; ++k) trace += to[k * n + k];
        }
      }
    }
    return trace;
  }

  void store(const float* z, int64_t i, int64_t n, float* slice, float* e_out, float* z_out) {
    const int64_t own = p_.own * p_.rank, panel = products_.panel(), squares = p_.lefts * p_.inner * p_.inner;
    for (int64_t a = 0; a < p_.inner; ++a) {
      for (int64_t j = 0; j < p_.own; ++j) {
        std::copy_n(x(j) + a * p_.rank, p_.rank, slice + (a * p_.own + j) * p_.rank);
      }
    }
    float* rows = floats_ + at_.product;
    copy_z(z, i, n, rows);
    float* transposed = floats_ + at_.packed;  // x of all j, [own * rank] x [inner], packed
    for (int64_t j = 0; j < p_.own; ++j) transpose_x(j, 0, p_.rank, own, transposed + j * p_.rank * panel);
    products_.multiply(transposed, own, p_.inner, rows, own, p_.lefts * p_.before, z_out, p_.inner);
    std::fill_n(e_out, squares, 0.0f);
    for (int64_t j = 0; j < p_.own; ++j) {
      for (int64_t column = 0; column < p_.rank; column += panel) {
        const int64_t depth = std::min(panel, p_.rank - column);
        transpose_x(j, column, depth, depth, transposed);
        products_.multiply(transposed, depth, p_.inner, image(j, column), panel, p_.lefts * p_.inner, rows,
                           p_.inner);
        kernels_.add(rows, squares, e_out);
      }
    }
  }

  // Columns [first, first + n) of x[j], transposed, as rows of a packed matrix [depth] x [inner].
  void transpose_x(int64_t j, int64_t first, int64_t n, int64_t depth, float* to) {
    const int64_t panel = products_.panel();
    for (int64_t a = 0; a < p_.inner; ++a) {
      const float* from = x(j) + a * p_.rank + first;
      float* column = to + a / panel * depth * panel + a % panel;
      for (int64_t b = 0; b < n; ++b) column[b * panel] = from[b];
    }
  }

  const MiddleSolver::Shape& p_;
  const Left& left_;
  const PanelProducts& products_;
  const FitKernels& kernels_;
  Layout at_;
  AlignedBuffer memory_;
  float* floats_;
};

}  // namespace

struct MiddleSolver::Work {
  Work(const float* left_product, const Shape& p, Isa isa, ThreadPool& threads)
      : shape(p),
        kernels(&fit_kernels(isa)),
        pool(&threads),
        products(screc::kernels(isa), widest(p)),
        left(left_product, p),
        batch(kSlicesPerThread * threads.num_threads()),
        waiting(static_cast<size_t>(batch * p.lefts * p.inner * (p.inner + p.before)) * sizeof(float)) {
    for (int thread = 0; thread < pool->num_threads(); ++thread) {
      solvers.emplace_back(shape, left, products, *kernels);
    }
  }

  static int64_t widest(const Shape& p) { return std::max({num_pairs(p.rank), p.own * p.rank, p.inner}); }

  void add_up(const float* parts, int64_t size, int64_t n, double* out) const {
    pool->parallel_for(size, 4096, [&](int64_t begin, int64_t end, int) {
      for (int64_t k = 0; k < n; ++k) {
        kernels->add_double(parts + k * size + begin, end - begin, out + begin);
      }
    });
  }

  Shape shape;
  const FitKernels* kernels;
  ThreadPool* pool;
  PanelProducts products;
  Left left;
  std::vector<SliceSolver> solvers;  // of each thread
  int64_t batch;
  AlignedBuffer waiting;  // sums of a batch of slices, to be added in their order
};

MiddleSolver::MiddleSolver(const float* left, const Shape& shape, Isa isa, ThreadPool& pool)
    : work_(std::make_unique<Work>(left, shape, isa, pool)) {}
MiddleSolver::~MiddleSolver() = default;
MiddleSolver::MiddleSolver(MiddleSolver&&) noexcept = default;

const MiddleSolver::Shape& MiddleSolver::shape() const { return work_->shape; }

void MiddleSolver::solve(const float* e, const float* z, int64_t n, float* slices, double* e_out,
                         double* z_out) {
  const Shape& p = work_->shape;
  const int64_t squares = p.lefts * p.inner * p.inner, rows = p.lefts * p.before * p.inner;
  const int64_t slice = p.inner * p.own * p.rank;
  float* const e_parts = work_->waiting.as<float>();
  float* const z_parts = e_parts + work_->batch * squares;
  for (int64_t first = 0; first < n; first += work_->batch) {
    const int64_t some = std::min(work_->batch, n - first);
    work_->pool->parallel_for(some, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t k = begin; k < end; ++k) {
        work_->solvers[static_cast<size_t>(thread)].solve(e, z, first + k, n, slices + (first + k) * slice,
                                                          e_parts + k * squares, z_parts + k * rows);
      }
    });
    work_->add_up(e_parts, squares, some, e_out);
    work_->add_up(z_parts, rows, some, z_out);
  }
}

int64_t MiddleSolver::bytes(const Shape& p, Isa isa, int num_threads) {
  const PanelProducts products(screc::kernels(isa), 1);
  const int64_t per_thread =
      Layout(p, products).bytes + kSlicesPerThread * p.lefts * p.inner * (p.inner + p.before) * 4;
  return num_threads * per_thread + p.lefts * p.inner * (2 * p.inner + p.before) * 4;
}

}  // namespace screc
