// What the kernels that look rows up by their ids in one array take: the table, and the bags.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/row_format.h"

namespace screc {

struct RowArray {
  const std::byte* rows;  // [num_rows, codec.row_bytes()]
  int64_t num_rows;
  RowCodec codec;
  // The transpose of rows of fp32, [dim, padded_rows], for stream_ids; null elsewhere.
  const float* columns = nullptr;
  // Where these are some columns of longer rows, the columns of those: a bag is then added up in the order in
  // which the whole rows would be. 0: these are the whole rows.
  int64_t whole_dim = 0;

  int64_t bytes() const { return num_rows * codec.row_bytes(); }
  const float* fp32() const { return reinterpret_cast<const float*>(rows); }

  // Most rows that stream_ids and count_ids take.
  static constexpr int64_t kMaxStreamed = 64;
  static constexpr int64_t kMaxCounted = 32;

  // Entries of a column: 16, 32 or 64, a power of two of the longest vector.
  static int64_t padded_rows(int64_t num_rows) { return num_rows <= 16 ? 16 : num_rows <= 32 ? 32 : 64; }
};

struct IdBags {
  const int64_t* ids;      // all within the table
  const int64_t* offsets;  // [num_bags + 1] into ids; null: one id in each bag
  int64_t num_bags;
  bool mean;
  float* out;  // bag b goes to out + b * out_stride
  int64_t out_stride;

  IdBags part(int64_t first, int64_t count) const {
    IdBags bags = *this;
    if (offsets == nullptr) {
      bags.ids += first;
    } else {
      bags.offsets += first;
    }
    bags.num_bags = count;
    bags.out += first * out_stride;
    return bags;
  }

  int64_t start(int64_t bag) const { return offsets == nullptr ? bag : offsets[bag]; }
};

}  // namespace screc
