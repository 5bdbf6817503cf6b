#include "store/page_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace screc {
namespace {

std::string text(std::int64_t value) { return std::to_string(value); }

// The gains are sums of floats; smaller ones are noise that would be exchanged back and forth.
constexpr float kLeastGain = 1e-4F;

// Moves that are sorted at first: a 64th of all, but no fewer than these.
constexpr std::size_t kFirstPart = 64, kFewMoves = 64;

// A range of the order that is yet to be cut. Its rows are numbered by their places, its groups from 0.
struct Part {
  std::int64_t first = 0;             // place of its first row in the order
  std::vector<std::uint32_t> starts;  // [rows + 1]
  std::vector<std::uint32_t> groups;  // those of row i are [starts[i], starts[i + 1])
  std::uint32_t num_groups = 0;

  std::int64_t num_rows() const { return starts.empty() ? 0 : static_cast<std::int64_t>(starts.size()) - 1; }
};

// Rows of a group on each side while a part is cut.
struct Sides {
  std::uint32_t left = 0, right = 0;
};

// What moving a row to the other side would save.
struct Move {
  float gain;
  std::uint32_t place;

  bool operator<(const Move& other) const {
    return gain != other.gain ? gain > other.gain : place < other.place;
  }
};

// Cuts parts, one at a time; every thread has its own.
class Bisection {
 public:
  Bisection(std::int64_t rows_per_page, int iterations, std::uint32_t* order, const std::vector<float>& logs)
      : rows_per_page_(rows_per_page), iterations_(iterations), order_(order), logs_(logs) {}

  // Parts the rows in two halves of whole pages, exchanging rows between them until no exchange saves
  // anything. Returns the halves that have more than a page.
  std::pair<Part, Part> cut(const Part& part) {
    const std::int64_t pages = (part.num_rows() + rows_per_page_ - 1) / rows_per_page_;
    const std::int64_t middle = (pages + 1) / 2 * rows_per_page_;
    rows_.resize(static_cast<std::size_t>(part.num_rows()));
    std::iota(rows_.begin(), rows_.end(), 0u);
    sides_.assign(part.num_groups, Sides{});
    for (std::int64_t place = 0; place < part.num_rows(); ++place) {
      for_groups(part, place,
                 [&](std::uint32_t g) { ++(place < middle ? sides_[g].left : sides_[g].right); });
    }
    for (int iteration = 0; iteration < iterations_; ++iteration) {
      weigh(middle, part.num_rows() - middle);
      if (exchange(part, middle) == 0) break;
    }
    before_.assign(order_ + part.first, order_ + part.first + part.num_rows());
    for (std::size_t place = 0; place < rows_.size(); ++place) {
      order_[part.first + static_cast<std::int64_t>(place)] = before_[rows_[place]];
    }
    return {half(part, 0, middle, &Sides::left), half(part, middle, part.num_rows(), &Sides::right)};
  }

 private:
  template <typename Visit>
  void for_groups(const Part& part, std::int64_t place, const Visit& visit) {
    const std::uint32_t row = rows_[static_cast<std::size_t>(place)];
    for (std::uint32_t i = part.starts[row]; i < part.starts[row + 1]; ++i) visit(part.groups[i]);
  }

  // Cost of `count` rows of a group among 2^log_size rows: each gap to the next takes the logarithm of it.
  float cost(std::uint32_t count, float log_size) const {
    return static_cast<float>(count) * (log_size - logs_[count + 1]);
  }

  void weigh(std::int64_t num_left, std::int64_t num_right) {
    const float left_size = std::log2(static_cast<float>(num_left));
    const float right_size = std::log2(static_cast<float>(num_right));
    to_right_.resize(sides_.size());
    to_left_.resize(sides_.size());
    for (std::size_t group = 0; group < sides_.size(); ++group) {
      const auto [left, right] = sides_[group];
      const float now = cost(left, left_size) + cost(right, right_size);
      if (left > 0) to_right_[group] = now - cost(left - 1, left_size) - cost(right + 1, right_size);
      if (right > 0) to_left_[group] = now - cost(left + 1, left_size) - cost(right - 1, right_size);
    }
  }

  void moves(const Part& part, std::int64_t begin, std::int64_t end, const std::vector<float>& gains,
             std::vector<Move>* found) {
    found->clear();
    for (std::int64_t place = begin; place < end; ++place) {
      float gain = 0;
      for_groups(part, place, [&](std::uint32_t group) { gain += gains[group]; });
      found->push_back({gain, static_cast<std::uint32_t>(place)});
    }
  }

  std::int64_t exchange(const Part& part, std::int64_t middle) {
    moves(part, 0, middle, to_right_, &rightward_);
    moves(part, middle, part.num_rows(), to_left_, &leftward_);
    const std::size_t most = std::min(rightward_.size(), leftward_.size());
    std::size_t done = 0, sorted = 0;
    for (; done < most; ++done) {
      if (done == sorted) {
        // Few of the moves are made, fewer in each iteration: only so many are put in order.
        sorted = std::min(most, std::max(kFewMoves, sorted == 0 ? most / kFirstPart : 4 * sorted));
        sort_until(&rightward_, done, sorted);
        sort_until(&leftward_, done, sorted);
      }
      const auto [gain, from] = rightward_[done];
      const auto [other_gain, to] = leftward_[done];
      if (gain + other_gain <= kLeastGain) break;
      for_groups(part, from, [&](std::uint32_t g) { --sides_[g].left, ++sides_[g].right; });
      for_groups(part, to, [&](std::uint32_t g) { ++sides_[g].left, --sides_[g].right; });
      std::swap(rows_[from], rows_[to]);
    }
    return static_cast<std::int64_t>(done);
  }

  // The moves before `begin` are sorted and the best; sorts on until `end`.
  static void sort_until(std::vector<Move>* moves, std::size_t begin, std::size_t end) {
    const auto at = [&](std::size_t i) { return moves->begin() + static_cast<std::ptrdiff_t>(i); };
    if (end < moves->size()) std::nth_element(at(begin), at(end), moves->end());
    std::sort(at(begin), at(end));
  }

  // The rows at places [begin, end) with the groups that have several of them.
  Part half(const Part& part, std::int64_t begin, std::int64_t end, std::uint32_t Sides::* count) {
    Part made;
    if (end - begin <= rows_per_page_) return made;
    made.first = part.first + begin;
    numbers_.assign(part.num_groups, 0);  // plus one; 0 = forgotten
    std::size_t pairs = 0;
    for (std::size_t group = 0; group < sides_.size(); ++group) {
      if (sides_[group].*count < 2) continue;
      numbers_[group] = ++made.num_groups;
      pairs += sides_[group].*count;
    }
    made.groups.reserve(pairs);
    made.starts.reserve(static_cast<std::size_t>(end - begin) + 1);
    made.starts.push_back(0);
    for (std::int64_t place = begin; place < end; ++place) {
      const std::uint32_t row = rows_[static_cast<std::size_t>(place)];
      for (std::uint32_t i = part.starts[row]; i < part.starts[row + 1]; ++i) {
        const std::uint32_t number = numbers_[part.groups[i]];
        if (number > 0) made.groups.push_back(number - 1);
      }
      made.starts.push_back(static_cast<std::uint32_t>(made.groups.size()));
    }
    return made;
  }

  const std::int64_t rows_per_page_;
  const int iterations_;
  std::uint32_t* order_;
  const std::vector<float>& logs_;
  std::vector<Sides> sides_;
  std::vector<float> to_right_, to_left_;  // by group: what moving one of its rows over saves
  std::vector<std::uint32_t> rows_;        // the row at each place
  std::vector<std::uint32_t> before_, numbers_;
  std::vector<Move> rightward_, leftward_;
};

// All rows as one part, and the size of its largest group. Refuses input that is not as the header says.
Part whole(const RowGroups& pairs, const std::uint32_t* order, std::uint32_t* largest) {
  constexpr std::int64_t kMost = std::int64_t{1} << 32;
  if (pairs.num_rows > kMost || pairs.num_groups >= kMost || pairs.num_pairs >= kMost) {
    throw std::invalid_argument("rows: " + text(pairs.num_rows) + " rows and " + text(pairs.num_groups) +
                                " groups in " + text(pairs.num_pairs) +
                                " pairs; below 2^32 of each can be ordered");
  }
  std::vector<std::uint32_t> places(static_cast<std::size_t>(pairs.num_rows));
  std::vector<bool> seen(static_cast<std::size_t>(pairs.num_rows), false);
  for (std::int64_t place = 0; place < pairs.num_rows; ++place) {
    const std::uint32_t row = order[place];
    if (row >= pairs.num_rows || seen[row]) {
      throw std::invalid_argument("order[" + text(place) + "] is " + text(row) + "; every row from 0 to " +
                                  text(pairs.num_rows - 1) + " must stand in it once");
    }
    seen[row] = true;
    places[row] = static_cast<std::uint32_t>(place);
  }
  Part part;
  part.num_groups = static_cast<std::uint32_t>(pairs.num_groups);
  part.starts.assign(static_cast<std::size_t>(pairs.num_rows) + 1, 0);
  std::vector<std::uint32_t> sizes(static_cast<std::size_t>(pairs.num_groups), 0);
  for (std::int64_t i = 0; i < pairs.num_pairs; ++i) {
    if (pairs.rows[i] >= pairs.num_rows) {
      throw std::invalid_argument("rows[" + text(i) + "] is " + text(pairs.rows[i]) + ", there are " +
                                  text(pairs.num_rows) + " rows");
    }
    if (pairs.groups[i] >= pairs.num_groups) {
      throw std::invalid_argument("groups[" + text(i) + "] is " + text(pairs.groups[i]) + ", there are " +
                                  text(pairs.num_groups) + " groups");
    }
    ++part.starts[places[pairs.rows[i]]];
    ++sizes[pairs.groups[i]];
  }
  std::uint32_t total = 0;
  for (std::uint32_t& start : part.starts) total += std::exchange(start, total);
  part.groups.resize(static_cast<std::size_t>(pairs.num_pairs));
  for (std::int64_t i = 0; i < pairs.num_pairs; ++i) {
    part.groups[part.starts[places[pairs.rows[i]]]++] = pairs.groups[i];
  }
  // Each start has moved to the next one's place.
  for (std::size_t i = part.starts.size(); i-- > 1;) part.starts[i] = part.starts[i - 1];
  part.starts[0] = 0;
  *largest = sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end());
  return part;
}

}  // namespace

void order_by_co_access(const RowGroups& pairs, std::int64_t rows_per_page, int iterations, ThreadPool* pool,
                        std::uint32_t* order) {
  if (rows_per_page < 1) {
    throw std::invalid_argument("rows_per_page: must be at least 1, got " + text(rows_per_page));
  }
  if (iterations < 0) {
    throw std::invalid_argument("iterations: must not be negative, got " + text(iterations));
  }
  std::uint32_t largest = 0;
  std::vector<Part> level;
  level.push_back(whole(pairs, order, &largest));
  if (level[0].num_rows() <= rows_per_page) return;
  std::vector<float> logs(std::size_t{largest} + 3);
  for (std::size_t n = 1; n < logs.size(); ++n) logs[n] = std::log2(static_cast<float>(n));

  std::vector<Bisection> cutters;
  for (int thread = 0; thread < (pool == nullptr ? 1 : pool->num_threads()); ++thread) {
    cutters.emplace_back(rows_per_page, iterations, order, logs);
  }
  // Parts of one level do not touch each other: each is cut by one thread.
  while (!level.empty()) {
    std::vector<Part> next(2 * level.size());
    const auto body = [&](std::int64_t begin, std::int64_t end, int thread) {
      for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
        std::tie(next[2 * i], next[2 * i + 1]) = cutters[static_cast<std::size_t>(thread)].cut(level[i]);
        level[i] = Part{};  // frees its memory
      }
    };
    const auto size = static_cast<std::int64_t>(level.size());
    if (pool == nullptr) {
      body(0, size, 0);
    } else {
      pool->parallel_for(size, 1, body);
    }
    std::erase_if(next, [](const Part& part) { return part.num_rows() == 0; });
    level = std::move(next);
  }
}

}  // namespace screc
