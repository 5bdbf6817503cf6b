// Counts of values in buckets whose bounds grow by a fixed factor: what a latency is read from when it is
// looked at, at the cost of one search when it is recorded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace screc {

struct Histogram {
  // Bounds first, first * ratio, ... up to the first that is at least `last`.
  Histogram(double first, double ratio, double last) {
    for (double bound = first;; bound *= ratio) {
      bounds.push_back(bound);
      if (bound >= last) break;
    }
    counts.assign(bounds.size() + 1, 0);
  }

  void add(double value) {
    ++counts[static_cast<size_t>(std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin())];
    sum += value;
  }

  std::vector<double> bounds;   // of bucket i, inclusive; the last bucket has none
  std::vector<int64_t> counts;  // of the values in bucket i alone
  double sum = 0;               // of all values
};

}  // namespace screc
