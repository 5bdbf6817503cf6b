#include "kernels/tt_cores.h"

#include <stdexcept>
#include <string>

namespace screc {

TtCores::TtCores(const std::vector<TtCoreView>& cores) : views_(cores) {
  if (cores.size() < 2) throw std::invalid_argument("cores: expected at least 2");
  int64_t rank = 1;
  for (size_t k = 0; k < cores.size(); ++k) {
    const TtCoreView& core = cores[k];
    const bool last = k + 1 == cores.size();
    if (core.rank != rank || (last && core.next_rank != 1) || core.rows < 1 || core.columns < 1 ||
        core.next_rank < 1) {
      throw std::invalid_argument("cores[" + std::to_string(k) + "]: its shape does not fit its neighbours");
    }
    rank = core.next_rank;
    num_rows_ *= core.rows;
    embedding_dim_ *= core.columns;
    num_parameters_ += core.rank * core.rows * core.columns * core.next_rank;
  }
  data_.reserve(static_cast<size_t>(num_parameters_));
  for (TtCoreView& core : views_) {
    const float* from = core.data;
    core.data = data_.data() + data_.size();
    data_.insert(data_.end(), from, from + core.rank * core.rows * core.columns * core.next_rank);
  }
}

}  // namespace screc
