// Ids with a score each, as the sketches of statistics/ take them.
#pragma once

#include <cstdint>
#include <string>

#include "bindings/arrays.h"

namespace screc::bindings {

struct ScoredIds {
  const std::int64_t* ids;
  const float* scores;
  std::int64_t n;
};

// Throws for arrays of different lengths, negative ids, and scores that are negative or not finite.
inline ScoredIds scored_ids(const AnyConstArray& ids, const AnyConstArray& scores) {
  const auto* id = checked<std::int64_t>(ids, "ids", 1);
  const auto* score = checked<float>(scores, "scores", 1);
  const auto n = static_cast<std::int64_t>(ids.shape(0));
  if (scores.shape(0) != ids.shape(0)) {
    throw nb::value_error(
        ("scores: expected " + std::to_string(n) + " as there are ids, got " + shape_text(scores)).c_str());
  }
  for (std::int64_t i = 0; i < n; ++i) {
    if (id[i] >= 0 && score[i] >= 0 && score[i] <= 3.0e38F) continue;
    throw nb::value_error(("ids and scores: entry " + std::to_string(i) + " is id " + std::to_string(id[i]) +
                           " with score " + std::to_string(score[i]) +
                           "; neither may be negative, and scores must be finite")
                              .c_str());
  }
  return {id, score, n};
}

}  // namespace screc::bindings
