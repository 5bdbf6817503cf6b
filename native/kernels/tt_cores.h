// The cores of one tensor-train band (TT-Rec, arXiv 2101.11714, section 3).
#pragma once

#include <cstdint>
#include <vector>

namespace screc {

// A core as files hold it: float32 [rank, rows, columns, next_rank], C-contiguous.
struct TtCoreView {
  const float* data;
  int64_t rank, rows, columns, next_rank;
};

// Owns a copy of the cores.
class TtCores {
 public:
  // Throws std::invalid_argument naming the core whose shape does not fit its neighbours.
  explicit TtCores(const std::vector<TtCoreView>& cores);

  int64_t num_rows() const { return num_rows_; }
  int64_t embedding_dim() const { return embedding_dim_; }
  int64_t num_parameters() const { return num_parameters_; }
  const std::vector<TtCoreView>& views() const { return views_; }

 private:
  std::vector<float> data_;
  std::vector<TtCoreView> views_;
  int64_t num_rows_ = 1, embedding_dim_ = 1, num_parameters_ = 0;
};

}  // namespace screc
