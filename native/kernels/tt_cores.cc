#include "kernels/tt_cores.h"

#include <bit>
#include <stdexcept>
#include <string>
#include <utility>

namespace screc {
namespace {

// So that the digits, each in whole bits, fit into a key of 64.
constexpr int64_t kMostRows = int64_t{1} << 55;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

std::string shape(const TtCoreView& core) {
  return "[" + std::to_string(core.rank) + ", " + std::to_string(core.rows) + ", " +
         std::to_string(core.columns) + ", " + std::to_string(core.next_rank) + "]";
}

void check(const std::vector<TtCoreView>& cores) {
  const size_t n = cores.size();
  if (n < 2 || n > TtCores::kMaxCores) {
    throw std::invalid_argument("cores: expected 2 to " + std::to_string(TtCores::kMaxCores) +
                                " cores, got " + std::to_string(n));
  }
  for (size_t k = 0; k < n; ++k) {
    const TtCoreView& core = cores[k];
    const std::string name = "cores[" + std::to_string(k) + "]";
    if (core.rank < 1 || core.rows < 1 || core.columns < 1 || core.next_rank < 1) {
      throw std::invalid_argument(name + ": shape " + shape(core) + " has an empty dimension");
    }
    const int64_t expected = k == 0 ? 1 : cores[k - 1].next_rank;
    if (core.rank != expected) {
      throw std::invalid_argument(name + ": shape " + shape(core) + " begins with TT rank " +
                                  std::to_string(core.rank) + ", expected " + std::to_string(expected));
    }
  }
  int64_t rows = 1;
  for (const TtCoreView& core : cores) {
    if (core.rows > kMostRows / rows) throw std::invalid_argument("cores: they address more than 2^55 rows");
    rows *= core.rows;
  }
  if (cores[n - 1].next_rank != 1) {
    throw std::invalid_argument("cores[" + std::to_string(n - 1) + "]: shape " + shape(cores[n - 1]) +
                                " must end with TT rank 1");
  }
}

}  // namespace

TtCores::TtCores(const std::vector<TtCoreView>& cores) {
  check(cores);
  std::vector<int64_t> starts;
  int64_t floats = 0;
  for (const TtCoreView& core : cores) {
    starts.push_back(floats);
    const int64_t size = core.rank * core.rows * core.columns * core.next_rank;
    num_parameters_ += size;
    floats = round_up(floats + size, kSlack);
  }
  buffer_ = AlignedBuffer(static_cast<size_t>(floats + kSlack) * sizeof(float));

  for (size_t k = 0; k < cores.size(); ++k) {
    const TtCoreView& core = cores[k];
    float* slices = buffer_.as<float>() + starts[k];
    const float* from = core.data;
    for (int64_t r = 0; r < core.rank; ++r) {
      for (int64_t i = 0; i < core.rows; ++i) {
        float* slice = slices + (i * core.rank + r) * core.columns * core.next_rank;
        for (int64_t c = 0; c < core.columns; ++c) {
          for (int64_t s = 0; s < core.next_rank; ++s) slice[s * core.columns + c] = *from++;
        }
      }
    }
    Level level{};
    level.slices = slices;
    level.rank = core.rank;
    level.rows = core.rows;
    level.columns = core.columns;
    level.next_rank = core.next_rank;
    level.slice_floats = core.rank * core.columns * core.next_rank;
    level.left_columns = embedding_dim_;
    level.state_stride = round_up(core.next_rank * core.columns, kSlack);
    level.state_offset = scratch_floats_;
    scratch_floats_ += level.left_columns * level.state_stride + kSlack;
    embedding_dim_ *= core.columns;
    levels_.push_back(level);
  }
  for (size_t k = levels_.size(); k-- > 0;) {
    levels_[k].digit_unit = num_rows_;
    num_rows_ *= levels_[k].rows;
  }
  set_keys();
  for (Level& level : levels_) {
    const bool small = num_rows_ <= int64_t{1} << 32 && level.digit_unit > 1;
    level.digit_magic = small ? ~uint64_t{0} / static_cast<uint64_t>(level.digit_unit) + 1 : 0;
  }
}

void TtCores::set_keys() {
  std::vector<size_t> order(levels_.size());  // of the digits, the last one at the bottom of the key
  for (size_t k = 0; k < order.size(); ++k) order[k] = k;
  if (order.size() == 3) std::swap(order[0], order[1]);
  for (size_t i = order.size(); i-- > 0;) {
    Level& level = levels_[order[i]];
    const int bits = std::bit_width(static_cast<uint64_t>(level.rows - 1));
    level.key_shift = first_shift_;
    level.key_mask = (uint64_t{1} << bits) - 1;
    if (i > 0) first_shift_ += bits;
  }
}

}  // namespace screc
