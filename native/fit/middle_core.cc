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
  const float* rows;   // [inner][lefts * size]: A[m][a][a'] for all a and a' of the block
};

// The parts of the work that are sums over products of the cores before: A[m] = left[m]^T left[m].
class Left {
 public:
  Left(const MiddleProblem& p)
      : block_(std::clamp<int64_t>(kMostUnknowns / p.rank, 1, p.inner)),
        transposed_(static_cast<size_t>(p.inner * p.lefts * p.before)) {
    const auto inner = static_cast<size_t>(p.inner), lefts = static_cast<size_t>(p.lefts);
    std::vector<float> gram(lefts * inner * inner);
    for (int64_t m = 0; m < p.lefts; ++m) {
      for (int64_t c = 0; c < p.before; ++c) {
        const float* row = p.left + (m * p.before + c) * p.inner;
        for (int64_t a = 0; a < p.inner; ++a) {
          transposed_[static_cast<size_t>((a * p.lefts + m) * p.before + c)] = row[a];
          float* to = gram.data() + (m * p.inner + a) * p.inner;
          for (int64_t b = 0; b < p.inner; ++b) to[b] += row[a] * row[b];
        }
      }
    }
    memory_.reserve(inner * lefts * inner + inner * static_cast<size_t>(block_ + 1) * lefts);
    for (int64_t first = 0; first < p.inner; first += block_) {
      Block block{first, std::min(block_, p.inner - first), nullptr, nullptr};
      const auto at = [&](int64_t m, int64_t a, int64_t b) {
        return gram[static_cast<size_t>((m * p.inner + a) * p.inner + b)];
      };
      block.pairs = memory_.data() + memory_.size();
      for (int64_t a = first; a < first + block.size; ++a) {
        for (int64_t b = first; b <= a; ++b) {
          for (int64_t m = 0; m < p.lefts; ++m) memory_.push_back(at(m, a, b));
        }
      }
      block.rows = memory_.data() + memory_.size();
      for (int64_t a = 0; a < p.inner; ++a) {
        for (int64_t m = 0; m < p.lefts; ++m) {
          for (int64_t b = first; b < first + block.size; ++b) memory_.push_back(at(m, a, b));
        }
      }
      blocks_.push_back(block);
    }
  }

  const std::vector<Block>& blocks() const { return blocks_; }
  int64_t largest_block() const { return block_; }
  const float* transposed() const { return transposed_.data(); }  // [inner][lefts * before]

 private:
  int64_t block_;
  std::vector<Block> blocks_;
  std::vector<float> memory_, transposed_;
};

// Where the numbers of one slice's work lie in its thread's memory, in floats; doubles come last.
struct Layout {
  Layout(const MiddleProblem& p, int64_t largest, const PanelProducts& products) {
    const int64_t padded = products.padded(p.rank), slice = p.own * p.rank;
    pairs = 0;
    squares = pairs + p.lefts * products.padded(num_pairs(p.rank));
    images = squares + p.lefts * p.rank * padded;
    change = images + p.own * p.lefts * p.inner * padded;
    product = change + p.own * p.lefts * largest * padded;
    right = product + std::max({p.lefts * p.inner * p.inner, num_pairs(largest) * num_pairs(p.rank),
                                p.lefts * p.before * slice, p.rank * p.rank});
    packed = right + p.lefts * p.before * products.padded(slice);
    x = packed + p.own * padded * products.padded(p.inner);
    gradient = x + p.own * p.inner * p.rank;
    step = gradient + p.own * p.inner * p.rank;
    doubles = (step + p.own * std::max(largest, p.inner) * p.rank + 15) / 16 * 16;
    unknowns = largest * p.rank;
    bytes = doubles * 4 + unknowns * (unknowns + p.own) * 8;
  }
  int64_t pairs, squares, images, change, product, right, packed, x, gradient, step, doubles, unknowns, bytes;
};

class SliceSolver {
 public:
  SliceSolver(const MiddleProblem& p, const Left& left, const PanelProducts& products,
              const FitKernels& kernels)
      : p_(p),
        left_(left),
        products_(products),
        kernels_(kernels),
        at_(p, left.largest_block(), products),
        memory_(static_cast<size_t>(at_.bytes)),
        floats_(memory_.as<float>()) {}

  // Improves slice i and writes what it adds to e_out and z_out, as floats.
  void solve(int64_t i, float* slice, float* e_out, float* z_out) {
    load(i, slice);
    const std::vector<Block>& blocks = left_.blocks();
    if (blocks.size() == 1) {
      solve_block(blocks[0], true);
      multiply_e(blocks[0], x(0), p_.inner, 0, images(blocks[0]));
    } else {
      solve_in_turn(blocks);
    }
    store(i, slice, e_out, z_out);
  }

 private:
  float* x(int64_t j) { return floats_ + at_.x + j * p_.inner * p_.rank; }  // [inner][rank]
  float* gradient(int64_t j) { return floats_ + at_.gradient + j * p_.inner * p_.rank; }
  float* step(const Block& block, int64_t j) { return floats_ + at_.step + j * block.size * p_.rank; }
  // X E of a block's rows: for every j a packed matrix [lefts * size] x [rank].
  float* images(const Block& block) {
    return floats_ + at_.images + p_.own * p_.lefts * block.first * products_.padded(p_.rank);
  }

  void solve_in_turn(const std::vector<Block>& blocks) {
    const int64_t all = p_.own * p_.inner * p_.rank;
    if (std::any_of(x(0), x(0) + all, [](float v) { return v != 0.0f; })) {
      for (const Block& block : blocks) {
        multiply_e(block, x(0), p_.inner, block.first, images(block));
        lower_gradient(block, images(block));
      }
    } else {
      std::fill(floats_ + at_.images, floats_ + at_.change, 0.0f);
    }
    float* change = floats_ + at_.change;
    for (const Block& block : blocks) {
      solve_block(block, false);
      multiply_e(block, step(block, 0), block.size, 0, change);
      kernels_.add(change, p_.own * p_.lefts * block.size * products_.padded(p_.rank), images(block));
      if (&block != &blocks.back()) lower_gradient(block, change);
    }
  }

  // The slice's E in two packed forms, its x by j, and the gradient at x = 0.
  void load(int64_t i, const float* slice) {
    const int64_t pairs = num_pairs(p_.rank), own = p_.own * p_.rank, padded = products_.padded(p_.rank);
    products_.pack(p_.e + i * pairs, p_.middles * pairs, p_.lefts, pairs, floats_ + at_.pairs);
    for (int64_t m = 0; m < p_.lefts; ++m) {
      float* full = floats_ + at_.product;
      unpack_symmetric(p_.e + (m * p_.middles + i) * pairs, p_.rank, full, p_.rank);
      products_.pack(full, p_.rank, p_.rank, p_.rank, floats_ + at_.squares + m * p_.rank * padded);
    }
    for (int64_t a = 0; a < p_.inner; ++a) {
      for (int64_t j = 0; j < p_.own; ++j) {
        std::copy_n(slice + (a * p_.own + j) * p_.rank, p_.rank, x(j) + a * p_.rank);
      }
    }
    float* rows = floats_ + at_.product;  // Z of this slice, [lefts * before][own * rank]
    copy_z(i, rows);
    float* packed = floats_ + at_.right;
    products_.pack(rows, own, p_.lefts * p_.before, own, packed);
    float* right = floats_ + at_.step;  // [inner][own * rank]
    products_.multiply(packed, p_.lefts * p_.before, own, left_.transposed(), p_.lefts * p_.before, p_.inner,
                       right, own);
    for (int64_t a = 0; a < p_.inner; ++a) {
      for (int64_t j = 0; j < p_.own; ++j) {
        std::copy_n(right + a * own + j * p_.rank, p_.rank, gradient(j) + a * p_.rank);
      }
    }
  }

  void copy_z(int64_t i, float* to) const {
    const int64_t size = p_.before * p_.own * p_.rank;
    for (int64_t m = 0; m < p_.lefts; ++m)
      std::copy_n(p_.z + (m * p_.middles + i) * size, size, to + m * size);
  }

  // to[j][(m, a)] = from[j][first + a] E[m] for the rows a of a block, from [own][rows][rank].
  void multiply_e(const Block& block, const float* from, int64_t rows, int64_t first, float* to) const {
    const int64_t padded = products_.padded(p_.rank), panel = products_.panel();
    for (int64_t j = 0; j < p_.own; ++j) {
      const float* row = from + (j * rows + first) * p_.rank;
      for (int64_t column = 0; column < p_.rank; column += panel) {
        for (int64_t m = 0; m < p_.lefts; ++m) {
          products_.multiply(floats_ + at_.squares + m * p_.rank * padded + column * p_.rank, p_.rank,
                             std::min(panel, p_.rank - column), row, p_.rank, block.size, to, panel);
          to += block.size * panel;
        }
      }
    }
  }

  // Takes A X E off the gradient, given X E of a block's rows.
  void lower_gradient(const Block& block, const float* image) {
    const int64_t depth = p_.lefts * block.size;
    float* product = floats_ + at_.packed;
    for (int64_t j = 0; j < p_.own; ++j) {
      products_.multiply(image + j * depth * products_.padded(p_.rank), depth, p_.rank, block.rows, depth,
                         p_.inner, product, p_.rank);
      float* to = gradient(j);
      for (int64_t k = 0; k < p_.inner * p_.rank; ++k) to[k] -= product[k];
    }
  }

  // Solves for a block's unknowns and notes the step to them. `whole`: the gradient is that at x = 0.
  void solve_block(const Block& block, bool whole) {
    const int64_t n = block.size * p_.rank, pairs = num_pairs(block.size);
    float* sums = floats_ + at_.product;  // [pairs][num_pairs(rank)]
    products_.multiply(floats_ + at_.pairs, p_.lefts, num_pairs(p_.rank), block.pairs, p_.lefts, pairs, sums,
                       num_pairs(p_.rank));
    double* matrix = reinterpret_cast<double*>(floats_ + at_.doubles);
    double* right = matrix + n * n;
    double trace = spread(block, sums, matrix);
    bool solved = false;
    double ridge = kRidge * trace;
    for (int attempt = 0; trace > 0.0 && !solved && attempt < kRidges; ++attempt, ridge *= 100) {
      if (attempt > 0) spread(block, sums, matrix);
      for (int64_t k = 0; k < n; ++k) matrix[k * n + k] += ridge;
      for (int64_t j = 0; j < p_.own; ++j) {
        const float* from = gradient(j) + block.first * p_.rank;
        const float* old = x(j) + block.first * p_.rank;
        for (int64_t k = 0; k < n; ++k) right[j * n + k] = whole ? from[k] + ridge * old[k] : from[k];
      }
      solved = kernels_.solve(matrix, n, right, p_.own);
    }
    for (int64_t j = 0; j < p_.own; ++j) {
      float* old = x(j) + block.first * p_.rank;
      float* by = step(block, j);
      for (int64_t k = 0; k < n; ++k) {
        const float found = static_cast<float>(right[j * n + k]);
        by[k] = solved ? (whole ? found - old[k] : found) : trace > 0.0 ? 0.0f : -old[k];
        old[k] += by[k];
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

  void store(int64_t i, float* slice, float* e_out, float* z_out) {
    const int64_t own = p_.own * p_.rank, panel = products_.panel(), padded = products_.padded(p_.rank);
    for (int64_t a = 0; a < p_.inner; ++a) {
      for (int64_t j = 0; j < p_.own; ++j) {
        std::copy_n(x(j) + a * p_.rank, p_.rank, slice + (a * p_.own + j) * p_.rank);
      }
    }
    float* transposed = floats_ + at_.packed;  // x of all j, [own * rank] x [inner], packed
    for (int64_t j = 0; j < p_.own; ++j) {
      for (int64_t b = 0; b < p_.rank; ++b) {
        for (int64_t a = 0; a < p_.inner; ++a) {
          transposed[a / panel * own * panel + (j * p_.rank + b) * panel + a % panel] = x(j)[a * p_.rank + b];
        }
      }
    }
    float* rows = floats_ + at_.product;
    copy_z(i, rows);
    products_.multiply(transposed, own, p_.inner, rows, own, p_.lefts * p_.before, z_out, p_.inner);
    std::fill_n(e_out, p_.lefts * p_.inner * p_.inner, 0.0f);
    for (int64_t j = 0; j < p_.own; ++j) {
      for (int64_t column = 0; column < p_.rank; column += panel) {
        const int64_t depth = std::min(panel, p_.rank - column);
        for (int64_t b = 0; b < depth; ++b) {
          for (int64_t a = 0; a < p_.inner; ++a) {
            transposed[a / panel * depth * panel + b * panel + a % panel] = x(j)[a * p_.rank + column + b];
          }
        }
        for (const Block& block : left_.blocks()) {
          const int64_t size = block.size * p_.inner;
          const float* image = images(block) + (j * padded + column) * p_.lefts * block.size;
          products_.multiply(transposed, depth, p_.inner, image, panel, p_.lefts * block.size, rows,
                             p_.inner);
          for (int64_t m = 0; m < p_.lefts; ++m) {
            kernels_.add(rows + m * size, size, e_out + (m * p_.inner + block.first) * p_.inner);
          }
        }
      }
    }
  }

  const MiddleProblem& p_;
  const Left& left_;
  const PanelProducts& products_;
  const FitKernels& kernels_;
  Layout at_;
  AlignedBuffer memory_;
  float* floats_;
};

}  // namespace

void solve_middle(const MiddleProblem& p, float* slices, double* e_out, double* z_out, Isa isa,
                  ThreadPool& pool) {
  const PanelProducts products(kernels(isa), std::max({num_pairs(p.rank), p.own * p.rank, p.inner}));
  const Left left(p);
  const FitKernels& by = fit_kernels(isa);
  std::vector<SliceSolver> solvers;
  for (int thread = 0; thread < pool.num_threads(); ++thread) {
    solvers.emplace_back(p, left, products, by);
  }
  const int64_t squares = p.lefts * p.inner * p.inner, rows = p.lefts * p.before * p.inner;
  const int64_t slice = p.inner * p.own * p.rank;
  const int64_t batch = std::min<int64_t>(p.middles, kSlicesPerThread * pool.num_threads());
  const AlignedBuffer waiting(static_cast<size_t>(batch * (squares + rows)) * sizeof(float));
  float* const e_parts = waiting.as<float>();
  float* const z_parts = e_parts + batch * squares;
  const auto add_up = [&](const float* parts, int64_t size, int64_t n, double* out) {
    pool.parallel_for(size, 4096, [&](int64_t begin, int64_t end, int) {
      for (int64_t k = 0; k < n; ++k) by.add_double(parts + k * size + begin, end - begin, out + begin);
    });
  };
  for (int64_t first = 0; first < p.middles; first += batch) {
    const int64_t n = std::min(batch, p.middles - first);
    pool.parallel_for(n, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t k = begin; k < end; ++k) {
        solvers[static_cast<size_t>(thread)].solve(first + k, slices + (first + k) * slice,
                                                   e_parts + k * squares, z_parts + k * rows);
      }
    });
    add_up(e_parts, squares, n, e_out);
    add_up(z_parts, rows, n, z_out);
  }
}

int64_t solve_middle_bytes(int64_t lefts, int64_t before, int64_t inner, int64_t own, int64_t rank, Isa isa,
                           int num_threads) {
  const MiddleProblem p{nullptr, nullptr, nullptr, lefts, 1, before, inner, own, rank};
  const PanelProducts products(kernels(isa), 1);
  const int64_t block = std::clamp<int64_t>(kMostUnknowns / rank, 1, inner);
  const int64_t per_thread =
      Layout(p, block, products).bytes + kSlicesPerThread * lefts * inner * (inner + before) * 4;
  // A, twice, and the half of it that is kept by pairs; the transpose of left.
  const int64_t shared = lefts * inner * (inner * 3 + before) * 4;
  return num_threads * per_thread + shared;
}

}  // namespace screc
