// Look-ups in very small tables without fetching rows one by one, for any vector of vec_*.h.
//
// stream_ids: the table passes through registers column by column and one permutation answers a whole vector
// of look-ups. Limit: operations. A vector of look-ups takes, per column, one permutation for every register
// of the table's column (two registers at once with AVX-512) and, to turn columns into rows, as many shuffles
// as a transpose has; bytes are those of the table in L1 and of the output.
// count_ids: a bag is turned into how often it has each row, then multiplied with the table. Limit:
// operations. A bag of n look-ups takes n / lanes shifts and additions for each eight rows of the table, and
// one multiply-add per row and vector of columns, however long the bag.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/id_bags.h"
#include "kernels/vector_pool.h"

namespace screc {
namespace {

// Longest bags that are streamed: their indices are held for the columns to come.
constexpr int64_t kLongestStreamed = 128;

// V::kLanes bags of `length` look-ups each: index holds the k-th look-ups of all of them, [length][kLanes].
// kStep columns of V::kLanes bags of `length` look-ups each, as rows of sums at `to`. index holds the k-th
// look-ups of all bags, [length][kLanes]; kRows are summed side by side, as pool_ids does.
template <typename V, int kRegisters, int kRows, int kStep>
void stream_columns(const float* const (&column)[kStep], const int32_t* index, int64_t length, bool mean,
                    float* to) {
  using F = typename V::F;
  const auto pick = [&](int i, int64_t k) {
    return V::template pick<kRegisters>(column[i], V::load_index(index + k * V::kLanes));
  };
  if (length == 1) {
    for (int i = 0; i < kStep; ++i) V::store(to + i * V::kLanes, pick(i, 0));
    return;
  }
  F sum[kRows][kStep];
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kStep; ++i) sum[r][i] = V::zero();
  }
  int64_t k = 0;
  for (; k + kRows <= length; k += kRows) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < kStep; ++i) sum[r][i] = V::add(sum[r][i], pick(i, k + r));
    }
  }
  for (; k < length; ++k) {
    for (int i = 0; i < kStep; ++i) sum[0][i] = V::add(sum[0][i], pick(i, k));
  }
  for (int i = 0; i < kStep; ++i) {
    F total = sum[0][i];
    if constexpr (kRows == 2) total = V::add(total, sum[1][i]);
    if constexpr (kRows == 4) total = V::add(V::add(total, sum[1][i]), V::add(sum[2][i], sum[3][i]));
    if (mean) total = V::div(total, V::set1(static_cast<float>(length)));
    V::store(to + i * V::kLanes, total);
  }
}

template <typename V, int kRegisters>
void stream_group(const RowArray& table, const int32_t* index, int64_t length, bool mean, float* out,
                  int64_t out_stride) {
  constexpr int64_t kLanes = V::kLanes, kEntries = kRegisters * kLanes;
  constexpr int kStep = 4;
  const int64_t dim = table.codec.dim;
  alignas(64) float block[kLanes * kLanes];
  alignas(64) float rows[kLanes * kLanes];
  const int beside = rows_beside((dim + kLanes - 1) / kLanes);
  for (int64_t c = 0; c < dim; c += kLanes) {
    const int64_t width = std::min(kLanes, dim - c);
    for (int64_t j = 0; j < width; j += kStep) {
      // Past the last column the last one is taken again: the transpose leaves that out.
      const float* column[kStep];
      for (int64_t i = 0; i < kStep; ++i) column[i] = table.columns + std::min(c + j + i, dim - 1) * kEntries;
      float* to = block + j * kLanes;
      if (beside == 4) {
        stream_columns<V, kRegisters, 4, kStep>(column, index, length, mean, to);
      } else if (beside == 2) {
        stream_columns<V, kRegisters, 2, kStep>(column, index, length, mean, to);
      } else {
        stream_columns<V, kRegisters, 1, kStep>(column, index, length, mean, to);
      }
    }
    if (width == kLanes) {
      V::transpose(block, kLanes, kLanes, kLanes, out + c, out_stride);
    } else {
      V::transpose(block, kLanes, width, kLanes, rows, kLanes);
      for (int64_t b = 0; b < kLanes; ++b) {
        V::store_part(out + b * out_stride + c, V::load(rows + b * kLanes), width);
      }
    }
  }
}

template <typename V, int kRegisters>
void stream_with(const RowArray& table, const IdBags& bags) {
  constexpr int64_t kLanes = V::kLanes;
  alignas(64) int32_t index[kLongestStreamed * kLanes];
  for (int64_t first = 0; first < bags.num_bags; first += kLanes) {
    const IdBags group = bags.part(first, std::min(kLanes, bags.num_bags - first));
    const int64_t begin = group.start(0), length = group.start(1) - begin;
    bool even = group.num_bags == kLanes && length >= 1 && length <= kLongestStreamed;
    for (int64_t b = 2; even && b <= kLanes; ++b) even = group.start(b) == begin + b * length;
    if (!even) {  // what is left, and bags of unequal lengths: the answers are the same
      pool_ids<V>(table, group);
      continue;
    }
    const int64_t* ids = group.ids + begin;
    for (int64_t k = 0; k < length; ++k) {
      for (int64_t b = 0; b < kLanes; ++b) index[k * kLanes + b] = static_cast<int32_t>(ids[b * length + k]);
    }
    stream_group<V, kRegisters>(table, index, length, bags.mean, group.out, bags.out_stride);
  }
}

template <typename V>
void stream_ids(const RowArray& table, const IdBags& bags) {
  switch (RowArray::padded_rows(table.num_rows)) {
    case 16:
      return stream_with<V, 16 / V::kLanes>(table, bags);
    case 32:
      return stream_with<V, 32 / V::kLanes>(table, bags);
    default:
      return stream_with<V, 64 / V::kLanes>(table, bags);
  }
}

template <typename V, int kVectors>
void add_counted(const RowArray& table, const float* counts, int64_t column, int64_t width, float divisor,
                 float* out) {
  constexpr int64_t kLanes = V::kLanes;
  const int64_t last = width - (kVectors - 1) * kLanes;
  typename V::F sum[kVectors];
  for (int v = 0; v < kVectors; ++v) sum[v] = V::zero();
  const float* row = table.fp32() + column;
  for (int64_t r = 0; r < table.num_rows; ++r, row += table.codec.dim) {
    const typename V::F count = V::set1(counts[r]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors - 1; ++v) sum[v] = V::fma(count, V::load(row + v * kLanes), sum[v]);
    const float* tail = row + (kVectors - 1) * kLanes;
    sum[kVectors - 1] =
        V::fma(count, last == kLanes ? V::load(tail) : V::load_part(tail, last), sum[kVectors - 1]);
  }
  for (int v = 0; v < kVectors; ++v) {
    const typename V::F result = V::div(sum[v], V::set1(divisor));
    V::store_part(out + column + v * kLanes, result, v + 1 < kVectors ? kLanes : last);
  }
}

template <typename V>
void count_ids(const RowArray& table, const IdBags& bags) {
  constexpr int64_t kLanes = V::kLanes, kMost = 255;  // counts of a piece fit a byte
  const int64_t groups = (table.num_rows + 7) / 8;
  float counts[RowArray::kMaxCounted];
  for (int64_t b = 0; b < bags.num_bags; ++b) {
    const int64_t begin = bags.start(b), length = bags.start(b + 1) - begin;
    float* out = bags.out + b * bags.out_stride;
    if (length <= 1) {
      pool_ids<V>(table, bags.part(b, 1));
      continue;
    }
    std::fill_n(counts, 8 * groups, 0.0f);
    for (int64_t done = 0; done < length; done += kMost) {
      for (int64_t g = 0; g < groups; ++g) {
        const uint64_t eight = V::count8(bags.ids + begin + done, std::min(kMost, length - done), g);
        for (int64_t i = 0; i < 8; ++i) {
          counts[8 * g + i] += static_cast<float>(static_cast<uint8_t>(eight >> (8 * i)));
        }
      }
    }
    const float divisor = bags.mean ? static_cast<float>(length) : 1.0f;
    int64_t c = 0;
    for (; c + 4 * kLanes <= table.codec.dim; c += 4 * kLanes) {
      add_counted<V, 4>(table, counts, c, 4 * kLanes, divisor, out);
    }
    for (; c < table.codec.dim; c += kLanes) {
      add_counted<V, 1>(table, counts, c, std::min(kLanes, table.codec.dim - c), divisor, out);
    }
  }
}

}  // namespace
}  // namespace screc
