// The cores of one tensor-train band (TT-Rec, arXiv 2101.11714, section 3), laid out for rebuilding rows.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"

namespace screc {

// A core as files hold it: float32 [rank, rows, columns, next_rank], C-contiguous.
struct TtCoreView {
  const float* data;
  int64_t rank, rows, columns, next_rank;
};

// Owns a copy of the cores, of the same number of floats (plus less than 1 KiB of padding). Core k is kept
// slice by slice, [rows][rank][next_rank][columns], the last core [rows][rank][columns]: one slot reads whole
// slices.
class TtCores {
 public:
  // Throws std::invalid_argument naming the core whose shape does not fit its neighbours, when there are
  // fewer than 2 cores or more than kMaxCores, when the first or last rank is not 1, or when they address
  // more than 2^55 rows.
  explicit TtCores(const std::vector<TtCoreView>& cores);

  static constexpr int kMaxCores = 8;
  // Vector kernels read up to this many floats past the end of a slice or of a state, and throw them away.
  static constexpr int64_t kSlack = 16;

  struct Level {
    const float* slices;
    int64_t rank, rows, columns, next_rank;
    int64_t slice_floats;
    int64_t digit_unit;    // slot / digit_unit % rows chooses the slice
    uint64_t digit_magic;  // floor((2^64 - 1) / digit_unit) + 1, or 0: see quotient
    int64_t left_columns;  // product of the columns of the cores before this one
    int key_shift;         // of the digit's bits in the key, see key_of
    uint64_t key_mask;
    // The product of the cores up to this one is kept as [left_columns][next_rank][columns], each of the
    // left_columns parts padded to state_stride floats, at state_offset of the scratch memory.
    int64_t state_stride, state_offset;
  };

  // rest / level.digit_unit for rest in [0, num_rows()). A multiplication instead of a division where the
  // band has at most 2^32 rows; it is exact there (Lemire, Kaser and Kurz, arXiv 1902.01961, theorem 1).
  static int64_t quotient(const Level& level, int64_t rest) {
    if (level.digit_magic == 0) return level.digit_unit == 1 ? rest : rest / level.digit_unit;
    using Wide = unsigned __int128;
    return static_cast<int64_t>((static_cast<Wide>(level.digit_magic) * static_cast<uint64_t>(rest)) >> 64);
  }

  // A key per slot, in whose order rows are best rebuilt: slots that share all digits but the last follow
  // each other, and of three cores the middle one's digit comes first, so that its slices, the largest, are
  // used one after the other and stay in the first level of cache. The digits are packed into bits, the one
  // that comes first at the top.
  uint64_t key_of(int64_t slot) const {
    uint64_t key = 0;
    int64_t rest = slot;
    for (const Level& level : levels_) {
      const int64_t digit = quotient(level, rest);
      rest -= digit * level.digit_unit;
      key |= static_cast<uint64_t>(digit) << level.key_shift;
    }
    return key;
  }
  int64_t slot_of(uint64_t key) const {
    int64_t slot = 0;
    for (const Level& level : levels_) {
      slot += static_cast<int64_t>(key >> level.key_shift & level.key_mask) * level.digit_unit;
    }
    return slot;
  }
  // The digit that comes first in the key.
  uint64_t first_digit(uint64_t key) const { return key >> first_shift_; }

  int num_cores() const { return static_cast<int>(levels_.size()); }
  const Level& level(int core) const { return levels_[static_cast<size_t>(core)]; }
  // Rows the cores can address: slots are in [0, num_rows()).
  int64_t num_rows() const { return num_rows_; }
  int64_t embedding_dim() const { return embedding_dim_; }
  int64_t num_parameters() const { return num_parameters_; }
  // Floats of working memory that rebuilding needs.
  int64_t scratch_floats() const { return scratch_floats_; }

 private:
  void set_keys();

  AlignedBuffer buffer_;
  std::vector<Level> levels_;
  int64_t num_rows_ = 1, embedding_dim_ = 1, num_parameters_ = 0, scratch_floats_ = 0;
  int first_shift_ = 0;
};

}  // namespace screc
