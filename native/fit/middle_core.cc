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
    scratch = squares + p.lefts * p.rank * padded;
    packed_z = scratch + std::max({size * slice * p.lefts, num_pairs(size) * num_pairs(p.rank),
                                   p.lefts * p.before * slice, p.rank * p.rank, p.inner * slice});
    packed_x = packed_z + p.lefts * p.before * products.padded(slice);
    gradient = packed_x + std::max(p.own * p.inner * padded, slice * products.padded(p.inner));
    doubles = (gradient + p.inner * slice + size * slice + 15) / 16 * 16;
    unknowns = size * p.rank;
    bytes = doubles * 4 + unknowns * (unknowns + p.own) * 8;
  }
  int64_t pairs, squares, scratch, packed_z, packed_x, gradient, doubles, unknowns, bytes;
};

// Solves for one slice after the other, in memory of its own. Its sums over m are products of long matrices.
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
        pairs_(memory_.as<float>() + at_.pairs),
        squares_(memory_.as<float>() + at_.squares),
        scratch_(memory_.as<float>() + at_.scratch),
        packed_z_(memory_.as<float>() + at_.packed_z),
        packed_x_(memory_.as<float>() + at_.packed_x),
        gradient_(memory_.as<float>() + at_.gradient),
        matrix_(reinterpret_cast<double*>(memory_.as<float>() + at_.doubles)) {}

  // Improves slice i of n, x [inner][own][rank], and writes what it adds to e_out and z_out, as floats.
  void solve(const float* e, const float* z, int64_t i, int64_t n, float* x, float* e_out, float* z_out) {
    load(e, z, i, n);
    const std::vector<Block>& blocks = left_.blocks();
    for (const Block& block : blocks) solve_block(block, blocks.size() == 1, x);
    contract(z, i, n, x, e_out, z_out);
  }

 private:
  int64_t slice() const { return p_.own * p_.rank; }

  // The slice's E in two packed forms, and Left^T Z: minus half the gradient at x = 0.
  void load(const float* e, const float* z, int64_t i, int64_t n) {
    const int64_t pairs = num_pairs(p_.rank), rows = p_.lefts * p_.before;
    products_.pack(e + i * pairs, n * pairs, p_.lefts, pairs, pairs_);
    for (int64_t m = 0; m < p_.lefts; ++m) {
      unpack_symmetric(e + (m * n + i) * pairs, p_.rank, scratch_, p_.rank);
      for (int64_t column = 0; column < p_.rank; column += products_.panel()) {
        products_.pack(scratch_ + column, p_.rank, p_.rank, std::min(products_.panel(), p_.rank - column),
                       squares_ + (column * p_.lefts + m * products_.panel()) * p_.rank);
      }
    }
    copy_z(z, i, n);
    products_.pack(scratch_, slice(), rows, slice(), packed_z_);
    products_.multiply(packed_z_, rows, slice(), left_.transposed(), rows, p_.inner, gradient_, slice());
  }

  // Z of the slice, [lefts * before][own * rank], into scratch memory.
  void copy_z(const float* z, int64_t i, int64_t n) {
    const int64_t size = p_.before * slice();
    for (int64_t m = 0; m < p_.lefts; ++m) std::copy_n(z + (m * n + i) * size, size, scratch_ + m * size);
  }

  // Takes off the gradient of a block's rows what x adds to it: the sum over m of A[m] x E[m].
  void lower_gradient(const Block& block, const float* x) {
    const int64_t depth = p_.lefts * p_.rank, packed = p_.inner * products_.padded(p_.rank);
    for (int64_t j = 0; j < p_.own; ++j) {
      products_.pack(x + j * p_.rank, slice(), p_.inner, p_.rank, packed_x_ + j * packed);
    }
    float* row = scratch_;  // A x as [size][own][lefts][rank]
    for (int64_t a = block.first; a < block.first + block.size; ++a) {
      for (int64_t j = 0; j < p_.own; ++j, row += depth) {
        products_.multiply(packed_x_ + j * packed, p_.inner, p_.rank, left_.rows() + a * p_.lefts * p_.inner,
                           p_.inner, p_.lefts, row, p_.rank);
      }
    }
    float* sums = gradient_ + p_.inner * slice();
    products_.multiply(squares_, depth, p_.rank, scratch_, depth, block.size * p_.own, sums, p_.rank);
    float* to = gradient_ + block.first * slice();
    for (int64_t k = 0; k < block.size * slice(); ++k) to[k] -= sums[k];
  }

  // Solves for a block's unknowns: `whole` for x from the gradient at x = 0, else for the step from x as it
  // is.
  void solve_block(const Block& block, bool whole, float* x) {
    const int64_t n = block.size * p_.rank, pairs = num_pairs(p_.rank);
    if (!whole) lower_gradient(block, x);
    products_.multiply(pairs_, p_.lefts, pairs, block.pairs, p_.lefts, num_pairs(block.size), scratch_,
                       pairs);
    const double trace = spread(block);
    double* const right = matrix_ + n * n;  // [own][n]
    bool solved = false;
    double ridge = kRidge * trace;
    for (int attempt = 0; trace > 0.0 && !solved && attempt < kRidges; ++attempt, ridge *= 100) {
      if (attempt > 0) spread(block);
      for (int64_t k = 0; k < n; ++k) matrix_[k * n + k] += ridge;
      each_unknown(block, [&](int64_t number, int64_t place) {
        right[number] = gradient_[place] + (whole ? ridge * x[place] : 0.0);
      });
      solved = kernels_.solve(matrix_, n, right, p_.own);
    }
    if (trace > 0.0 && !solved) return;  // it stays as it was
    each_unknown(block, [&](int64_t number, int64_t place) {
      x[place] = solved ? static_cast<float>(right[number] + (whole ? 0.0 : x[place])) : 0.0f;
    });
  }

  // body(where an unknown of the block is among [own][size * rank], where in x).
  template <typename Body>
  void each_unknown(const Block& block, const Body& body) const {
    const int64_t n = block.size * p_.rank;
    for (int64_t a = 0; a < block.size; ++a) {
      for (int64_t j = 0; j < p_.own; ++j) {
        for (int64_t b = 0; b < p_.rank; ++b) {
          body(j * n + a * p_.rank + b, ((block.first + a) * p_.own + j) * p_.rank + b);
        }
      }
    }
  }

  // The upper triangle of a block's matrix from the sums of its pairs in scratch memory; returns the trace.
  double spread(const Block& block) {
    const int64_t n = block.size * p_.rank;
    const float* sums = scratch_;
    double trace = 0.0;
    for (int64_t a = 0; a < block.size; ++a) {
      for (int64_t b = 0; b <= a; ++b, sums += num_pairs(p_.rank)) {
        double* to = matrix_ + b * p_.rank * n + a * p_.rank;
        unpack_symmetric(sums, p_.rank, to, n);
        if (a == b) {
          for (int64_t k = 0; k < p_.rank; ++k) trace += to[k * n + k];
        }
      }
    }
    return trace;
  }

  // e_out[m] = sum over j of x[j] E[m] x[j]^T, and z_out = sum over j of Z[j] x[j]^T.
  void contract(const float* z, int64_t i, int64_t n, const float* x, float* e_out, float* z_out) {
    const int64_t panel = products_.panel();
    for (int64_t a = 0; a < p_.inner; ++a) {  // x transposed, [own * rank] x [inner], packed
      float* column = packed_x_ + a / panel * slice() * panel + a % panel;
      for (int64_t k = 0; k < slice(); ++k) column[k * panel] = x[a * slice() + k];
    }
    copy_z(z, i, n);
    products_.multiply(packed_x_, slice(), p_.inner, scratch_, slice(), p_.lefts * p_.before, z_out,
                       p_.inner);
    for (int64_t m = 0; m < p_.lefts; ++m, e_out += p_.inner * p_.inner) {
      for (int64_t column = 0; column < p_.rank; column += panel) {
        const float* square = squares_ + (column * p_.lefts + m * panel) * p_.rank;
        for (int64_t j = 0; j < p_.own; ++j) {
          products_.multiply(square, p_.rank, std::min(panel, p_.rank - column), x + j * p_.rank, slice(),
                             p_.inner, scratch_ + j * p_.rank + column, slice());
        }
      }
      products_.multiply(packed_x_, slice(), p_.inner, scratch_, slice(), p_.inner, e_out, p_.inner);
    }
  }

  const MiddleSolver::Shape& p_;
  const Left& left_;
  const PanelProducts& products_;
  const FitKernels& kernels_;
  Layout at_;
  AlignedBuffer memory_;
  float* pairs_;    // [lefts] x [num_pairs(rank)], packed
  float* squares_;  // [lefts * rank] x [rank], packed
  float *scratch_, *packed_z_, *packed_x_;
  float* gradient_;  // [inner][own][rank], and behind it sums of a block
  double* matrix_;
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
