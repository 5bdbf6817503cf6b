// The reference: what every other instruction set must agree with, and what runs where there is none.
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/tables.h"

namespace screc {
namespace {

// Column c of a row in fp32, fp16 or bf16, or the code there, as a float.
float value_at(RowFormat format, const std::byte* values, int64_t c) {
  if (format == RowFormat::kInt8) return static_cast<float>(values[c]);
  if (format == RowFormat::kInt4) {
    const auto both = static_cast<unsigned>(values[c / 2]);
    return static_cast<float>(c % 2 == 0 ? both & 15 : both >> 4);
  }
  if (format == RowFormat::kFp32) {
    float value;
    std::memcpy(&value, values + 4 * c, sizeof(value));
    return value;
  }
  uint16_t half;
  std::memcpy(&half, values + 2 * c, sizeof(half));
  return format == RowFormat::kFp16 ? float_of_fp16(half) : float_of_bf16(half);
}

void decode_row(const RowCodec& codec, const std::byte* row, float* out) {
  const std::byte* values = row + codec.header_bytes();
  for (int64_t c = 0; c < codec.dim; ++c) out[c] = value_at(codec.format, values, c);
  if (!codec.quantised()) return;
  const RowScale scale = codec.own_scale ? row_scale(row) : codec.shared;
  for (int64_t c = 0; c < codec.dim; ++c) out[c] = std::fma(scale.scale, out[c], scale.bias);
}

void decode_rows(const RowCodec& codec, const void* const* rows, int64_t n, float* out, int64_t out_stride) {
  for (int64_t i = 0; i < n; ++i) {
    decode_row(codec, static_cast<const std::byte*>(rows[i]), out + i * out_stride);
  }
}

void pool_rows(const RowCodec& codec, const void* const* rows, const int64_t* offsets, int64_t num_bags,
               bool mean, float* out, int64_t out_stride) {
  const int64_t dim = codec.dim;
  const bool own_scale = codec.header_bytes() > 0;
  for (int64_t b = 0; b < num_bags; ++b) {
    float* sum = out + b * out_stride;
    const int64_t count = offsets[b + 1] - offsets[b];
    if (count == 1) {
      decode_row(codec, static_cast<const std::byte*>(rows[offsets[b]]), sum);
      continue;
    }
    float bias = 0.0f;
    for (int64_t c = 0; c < dim; ++c) sum[c] = 0.0f;
    for (int64_t k = offsets[b]; k < offsets[b + 1]; ++k) {
      const auto* row = static_cast<const std::byte*>(rows[k]);
      const std::byte* values = row + codec.header_bytes();
      const RowScale scale = own_scale ? row_scale(row) : RowScale{};
      bias += scale.bias;
      for (int64_t c = 0; c < dim; ++c) sum[c] += scale.scale * value_at(codec.format, values, c);
    }
    if (codec.quantised()) {
      const float scale = own_scale ? 1.0f : codec.shared.scale;
      if (!own_scale) bias = codec.shared.bias * static_cast<float>(count);
      for (int64_t c = 0; c < dim; ++c) sum[c] = std::fma(scale, sum[c], bias);
    }
    if (mean && count > 1) {
      for (int64_t c = 0; c < dim; ++c) sum[c] /= static_cast<float>(count);
    }
  }
}

// One bag at a time, through pointers to its rows.
void pool_ids(const RowArray& table, const IdBags& bags) {
  const int64_t row_bytes = table.codec.row_bytes();
  std::vector<const void*> rows;
  for (int64_t b = 0; b < bags.num_bags; ++b) {
    const int64_t offsets[2] = {0, bags.start(b + 1) - bags.start(b)};
    rows.clear();
    for (int64_t k = bags.start(b); k < bags.start(b + 1); ++k) {
      rows.push_back(table.rows + bags.ids[k] * row_bytes);
    }
    pool_rows(table.codec, rows.data(), offsets, 1, bags.mean, bags.out + b * bags.out_stride,
              bags.out_stride);
  }
}

// entry(b, c) of every bag and column; of means, the sum.
template <typename Entry>
void fill_bags(int64_t dim, const IdBags& bags, const Entry& entry) {
  for (int64_t b = 0; b < bags.num_bags; ++b) {
    const int64_t count = bags.start(b + 1) - bags.start(b);
    const float divisor = bags.mean && count > 1 ? static_cast<float>(count) : 1.0f;
    for (int64_t c = 0; c < dim; ++c) bags.out[b * bags.out_stride + c] = entry(b, c) / divisor;
  }
}

void stream_ids(const RowArray& table, const IdBags& bags) {
  const int64_t stride = RowArray::padded_rows(table.num_rows);
  fill_bags(table.codec.dim, bags, [&](int64_t b, int64_t c) {
    const float* column = table.columns + c * stride;
    if (bags.start(b + 1) - bags.start(b) == 1) return column[bags.ids[bags.start(b)]];
    float sum = 0.0f;
    for (int64_t k = bags.start(b); k < bags.start(b + 1); ++k) sum += column[bags.ids[k]];
    return sum;
  });
}

void count_ids(const RowArray& table, const IdBags& bags) {
  const int64_t dim = table.codec.dim;
  fill_bags(dim, bags, [&](int64_t b, int64_t c) {
    if (bags.start(b + 1) - bags.start(b) == 1) return table.fp32()[bags.ids[bags.start(b)] * dim + c];
    float counts[RowArray::kMaxCounted] = {};
    for (int64_t k = bags.start(b); k < bags.start(b + 1); ++k) counts[bags.ids[k]] += 1.0f;
    float sum = 0.0f;
    for (int64_t r = 0; r < table.num_rows; ++r) sum += counts[r] * table.fp32()[r * dim + c];
    return sum;
  });
}

void tt_rows(const TtCores& cores, const int64_t* slots, int64_t n, float* out) {
  float* scratch = thread_scratch(cores.scratch_floats());
  const int last = cores.num_cores() - 1;
  for (int64_t i = 0; i < n; ++i) {
    const auto slice = [&](int k) {
      const TtCores::Level& level = cores.level(k);
      return level.slices + slots[i] / level.digit_unit % level.rows * level.slice_floats;
    };
    const float* state = slice(0);
    for (int k = 1; k <= last; ++k) {
      const TtCores::Level& left = cores.level(k - 1);
      const TtCores::Level& level = cores.level(k);
      const int64_t width = level.next_rank * level.columns;
      const int64_t stride = k == last ? width : level.state_stride;
      const float* core = slice(k);
      float* next = k == last ? out + i * cores.embedding_dim() : scratch + level.state_offset;
      for (int64_t m = 0; m < left.left_columns; ++m) {
        for (int64_t c = 0; c < left.columns; ++c) {
          float* to = next + (m * left.columns + c) * stride;
          for (int64_t j = 0; j < width; ++j) to[j] = 0.0f;
          for (int64_t r = 0; r < level.rank; ++r) {
            const float x = state[m * left.state_stride + r * left.columns + c];
            for (int64_t j = 0; j < width; ++j) to[j] += x * core[r * width + j];
          }
        }
      }
      state = next;
    }
  }
}

float float_of_bf16(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

uint16_t bf16_of_float(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), high = bits >> 16;
  return static_cast<uint16_t>(std::isnan(x) ? high | 0x40 : (bits + 0x7fff + (high & 1)) >> 16);
}

void encode_one(float x, int64_t column, const ActivationFormat& format, void* out) {
  switch (format.precision) {
    case Precision::kFp32:
      static_cast<float*>(out)[column] = x;
      break;
    case Precision::kBf16:
      static_cast<uint16_t*>(out)[column] = bf16_of_float(x);
      break;
    case Precision::kInt8: {
      const float q = std::fma(x, format.inverse_scale[column], format.zero_point[column]);
      const float below = q < 255.0f ? q : 255.0f;
      static_cast<uint8_t*>(out)[column] = static_cast<uint8_t>(std::nearbyint(below > 0.0f ? below : 0.0f));
      break;
    }
  }
}

bool encode(const float* x, int64_t n, const ActivationFormat& format, void* out) {
  bool finite = true;
  for (int64_t c = 0; c < n; ++c) {
    finite &= std::isfinite(x[c]);
    encode_one(x[c], c, format, out);
  }
  return finite;
}

// `sum` gives output o of row i before the activation.
template <typename Sum>
void each_output(const LinearWeights& w, const LinearCall& call, const Sum& sum) {
  for (int64_t i = 0; i < call.m; ++i) {
    uint8_t* out =
        static_cast<uint8_t*>(call.out) + i * call.out_stride * element_bytes(call.output.precision);
    for (int64_t o = 0; o < w.out; ++o) {
      const float y = sum(i, o);
      encode_one(call.relu && y < 0.0f ? 0.0f : y, o, call.output, out);
    }
  }
}

// Panels of width 1 are rows.
void linear_fp32(const LinearWeights& w, const LinearCall& call) {
  each_output(w, call, [&](int64_t i, int64_t o) {
    const float* x = static_cast<const float*>(call.x) + i * call.x_stride;
    const float* row = static_cast<const float*>(w.words) + o * w.in;
    float sum = w.bias[o];
    for (int64_t k = 0; k < w.in; ++k) sum += x[k] * row[k];
    return sum;
  });
}

void linear_bf16(const LinearWeights& w, const LinearCall& call) {
  each_output(w, call, [&](int64_t i, int64_t o) {
    const uint16_t* x = static_cast<const uint16_t*>(call.x) + i * call.x_stride;
    const uint16_t* row = static_cast<const uint16_t*>(w.words) + o * w.steps * 2;
    float sum = w.bias[o];
    for (int64_t k = 0; k < w.in; ++k) sum += float_of_bf16(x[k]) * float_of_bf16(row[k]);
    return sum;
  });
}

void linear_int8(const LinearWeights& w, const LinearCall& call) {
  each_output(w, call, [&](int64_t i, int64_t o) {
    const uint8_t* x = static_cast<const uint8_t*>(call.x) + i * call.x_stride;
    const int8_t* row = static_cast<const int8_t*>(w.words) + o * w.steps * 4;
    int32_t sum = w.start[o];
    for (int64_t k = 0; k < w.in; ++k) sum += static_cast<int32_t>(x[k]) * row[k];
    return std::fma(static_cast<float>(sum), w.scale[o], w.bias[o]);
  });
}

void interact(const float* features, int64_t num_samples, int64_t num_features, int64_t dim,
              int64_t sample_stride, float* out, int64_t out_stride) {
  for (int64_t s = 0; s < num_samples; ++s) {
    const float* f = features + s * sample_stride;
    float* to = out + s * out_stride;
    for (int64_t i = 0; i < num_features; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        float sum = 0.0f;
        for (int64_t c = 0; c < dim; ++c) sum += f[i * dim + c] * f[j * dim + c];
        *to++ = sum;
      }
    }
  }
}

void sigmoid(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = 1.0f / (1.0f + std::exp(-x[i]));
}

}  // namespace

const Kernels& scalar_kernels() {
  static constexpr Kernels kTable{Isa::kScalar,
                                  1,
                                  {1, 1, 1},
                                  0,
                                  1,
                                  pool_rows,
                                  decode_rows,
                                  tt_rows,
                                  {linear_fp32, linear_bf16, linear_int8},
                                  encode,
                                  interact,
                                  nullptr,
                                  sigmoid,
                                  pool_ids,
                                  stream_ids,
                                  count_ids};
  return kTable;
}

}  // namespace screc
