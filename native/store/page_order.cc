#include "store/page_order.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace screc {
namespace {

std::string text(std::int64_t value) { return std::to_string(value); }

// A group while one range is cut: its rows on each side, and what moving one of them over would save.
struct Sides {
  std::uint32_t left = 0, right = 0;
  float to_right = 0, to_left = 0;
};

struct Move {
  double gain;
  std::int64_t place;  // in the order

  bool operator<(const Move& other) const {
    return gain != other.gain ? gain > other.gain : place < other.place;
  }
};

struct Range {
  std::int64_t first, last;
};

// Cuts ranges of the order, one at a time; every thread has its own.
class Bisection {
 public:
  Bisection(const RowGroups& rows, int iterations, std::uint32_t* order, const std::vector<float>& logs)
      : rows_(rows),
        iterations_(iterations),
        order_(order),
        logs_(logs),
        sides_(static_cast<std::size_t>(rows.num_groups)) {}

  // Exchanges rows between [first, middle) and [middle, last) of the order until no exchange saves anything.
  void cut(Range range, std::int64_t middle) {
    touched_.clear();
    for (std::int64_t place = range.first; place < range.last; ++place) {
      for_groups(place, [&](std::uint32_t group) {
        Sides& sides = sides_[group];
        if (sides.left + sides.right == 0) touched_.push_back(group);
        ++(place < middle ? sides.left : sides.right);
      });
    }
    for (int iteration = 0; iteration < iterations_; ++iteration) {
      weigh(middle - range.first, range.last - middle);
      if (exchange(range, middle) == 0) break;
    }
    for (const std::uint32_t group : touched_) sides_[group] = Sides{};
  }

 private:
  template <typename Visit>
  void for_groups(std::int64_t place, const Visit& visit) const {
    const std::uint32_t row = order_[place];
    for (std::int64_t i = rows_.starts[row]; i < rows_.starts[row + 1]; ++i) visit(rows_.groups[i]);
  }

  // Cost of `count` rows of a group among 2^log_size rows: each gap to the next takes the logarithm of it.
  float cost(std::uint32_t count, float log_size) const {
    return static_cast<float>(count) * (log_size - logs_[count + 1]);
  }

  void weigh(std::int64_t num_left, std::int64_t num_right) {
    const float left_size = std::log2(static_cast<float>(num_left));
    const float right_size = std::log2(static_cast<float>(num_right));
    for (const std::uint32_t group : touched_) {
      Sides& sides = sides_[group];
      const float now = cost(sides.left, left_size) + cost(sides.right, right_size);
      if (sides.left > 0) {
        sides.to_right = now - cost(sides.left - 1, left_size) - cost(sides.right + 1, right_size);
      }
      if (sides.right > 0) {
        sides.to_left = now - cost(sides.left + 1, left_size) - cost(sides.right - 1, right_size);
      }
    }
  }

  std::int64_t exchange(Range range, std::int64_t middle) {
    rightward_.clear();
    leftward_.clear();
    for (std::int64_t place = range.first; place < range.last; ++place) {
      double gain = 0;
      const bool left = place < middle;
      for_groups(place, [&](std::uint32_t group) {
        gain += static_cast<double>(left ? sides_[group].to_right : sides_[group].to_left);
      });
      (left ? rightward_ : leftward_).push_back({gain, place});
    }
    std::sort(rightward_.begin(), rightward_.end());
    std::sort(leftward_.begin(), leftward_.end());
    const std::size_t most = std::min(rightward_.size(), leftward_.size());
    std::size_t done = 0;
    for (; done < most; ++done) {
      const auto [gain, from] = rightward_[done];
      const auto [other_gain, to] = leftward_[done];
      // The gains are sums of floats; smaller ones are noise that would be exchanged back and forth.
      if (gain + other_gain <= 1e-4) break;
      for_groups(from, [&](std::uint32_t group) { --sides_[group].left, ++sides_[group].right; });
      for_groups(to, [&](std::uint32_t group) { ++sides_[group].left, --sides_[group].right; });
      std::swap(order_[from], order_[to]);
    }
    return static_cast<std::int64_t>(done);
  }

  const RowGroups& rows_;
  const int iterations_;
  std::uint32_t* order_;
  const std::vector<float>& logs_;
  std::vector<Sides> sides_;
  std::vector<std::uint32_t> touched_;
  std::vector<Move> rightward_, leftward_;
};

// Largest group, once the input is known to be as described in the header.
std::uint32_t checked_largest(const RowGroups& rows, const std::uint32_t* order) {
  if (rows.num_rows > std::int64_t{1} << 32 || rows.num_groups > std::int64_t{1} << 32) {
    throw std::invalid_argument("starts: " + text(rows.num_rows) + " rows in " + text(rows.num_groups) +
                                " groups; at most 2^32 of either can be ordered");
  }
  std::vector<std::uint32_t> sizes(static_cast<std::size_t>(rows.num_groups), 0);
  std::vector<bool> seen(static_cast<std::size_t>(rows.num_rows), false);
  for (std::int64_t row = 0; row < rows.num_rows; ++row) {
    if (rows.starts[row + 1] < rows.starts[row]) {
      throw std::invalid_argument("starts[" + text(row + 1) + "] is " + text(rows.starts[row + 1]) +
                                  ", below the " + text(rows.starts[row]) + " before it");
    }
  }
  for (std::int64_t row = 0; row < rows.num_rows; ++row) {
    for (std::int64_t i = rows.starts[row]; i < rows.starts[row + 1]; ++i) {
      if (rows.groups[i] >= rows.num_groups) {
        throw std::invalid_argument("groups[" + text(i) + "] is " + text(rows.groups[i]) + ", there are " +
                                    text(rows.num_groups) + " groups");
      }
      ++sizes[rows.groups[i]];
    }
    if (order[row] >= rows.num_rows || seen[order[row]]) {
      throw std::invalid_argument("order[" + text(row) + "] is " + text(order[row]) +
                                  "; every row from 0 to " + text(rows.num_rows - 1) +
                                  " must stand in it once");
    }
    seen[order[row]] = true;
  }
  return sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end());
}

}  // namespace

void order_by_co_access(const RowGroups& rows, std::int64_t rows_per_page, int iterations, ThreadPool* pool,
                        std::uint32_t* order) {
  if (rows_per_page < 1) {
    throw std::invalid_argument("rows_per_page: must be at least 1, got " + text(rows_per_page));
  }
  if (iterations < 0) {
    throw std::invalid_argument("iterations: must not be negative, got " + text(iterations));
  }
  std::vector<float> logs(std::size_t{checked_largest(rows, order)} + 3);
  for (std::size_t n = 1; n < logs.size(); ++n) logs[n] = std::log2(static_cast<float>(n));

  std::vector<Bisection> cutters;
  for (int thread = 0; thread < (pool == nullptr ? 1 : pool->num_threads()); ++thread) {
    cutters.emplace_back(rows, iterations, order, logs);
  }
  // Ranges of one level do not touch each other: each is cut by one thread.
  std::vector<Range> level{{0, rows.num_rows}};
  while (!level.empty()) {
    std::erase_if(level, [&](Range range) { return range.last - range.first <= rows_per_page; });
    const auto middle = [&](Range range) {
      const std::int64_t pages = (range.last - range.first + rows_per_page - 1) / rows_per_page;
      return range.first + (pages + 1) / 2 * rows_per_page;
    };
    const auto body = [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Range range = level[static_cast<std::size_t>(i)];
        cutters[static_cast<std::size_t>(thread)].cut(range, middle(range));
      }
    };
    const auto size = static_cast<std::int64_t>(level.size());
    if (pool == nullptr) {
      body(0, size, 0);
    } else {
      pool->parallel_for(size, 1, body);
    }
    std::vector<Range> next;
    for (const Range range : level) {
      next.push_back({range.first, middle(range)});
      next.push_back({middle(range), range.last});
    }
    level = std::move(next);
  }
}

}  // namespace screc
