#include "engine/query.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace screc {
namespace {

std::string text(int64_t number) { return std::to_string(number); }

// A flag for each of `number` things: whether the context has it.
std::vector<char> marked(const char* what, const std::vector<int>& chosen, int64_t number) {
  std::vector<char> marks(static_cast<size_t>(number), 0);
  for (const int one : chosen) {
    if (one < 0 || one >= number) {
      throw std::invalid_argument(std::string(what) + ": " + text(one) + " is out of range; the model has " +
                                  text(number));
    }
    if (marks[static_cast<size_t>(one)]++ != 0) {
      throw std::invalid_argument(std::string(what) + ": " + text(one) + " is given twice");
    }
  }
  return marks;
}

void check_finite(const std::string& name, const float* dense, int64_t samples, int64_t columns) {
  const int64_t n = samples * columns;
  // An exponent of ones carries into the sign bit: what a compiler makes vectors of.
  const auto carry = [&](int64_t i) { return (std::bit_cast<uint32_t>(dense[i]) & 0x7f800000) + 0x00800000; };
  uint32_t any = 0;
  for (int64_t i = 0; i < n; ++i) any |= carry(i);
  for (int64_t i = 0; any >> 31 != 0 && i < n; ++i) {
    if (carry(i) >> 31 == 0) continue;
    throw std::invalid_argument(name + "[" + text(i / columns) + ", " + text(i % columns) +
                                "] = " + std::to_string(dense[i]) + " is not finite");
  }
}

[[noreturn]] void refuse_id(const QueryForm& form, int table, const std::string& where, int64_t id) {
  throw std::invalid_argument(where + " = " + text(id) + " is out of range for table '" +
                              form.table_name(table) + "' with " + text(form.num_embeddings(table)) +
                              " rows");
}

void check_offsets(const std::string& prefix, const QueryPart& part, int64_t bags) {
  const int64_t* const offsets = part.offsets;
  if (offsets[0] != 0 || offsets[bags] != part.num_ids) {
    throw std::invalid_argument(prefix + "offsets: must run from 0 to the number of ids (" +
                                text(part.num_ids) + "), got " + text(offsets[0]) + " to " +
                                text(offsets[bags]));
  }
  for (int64_t i = 0; i < bags; ++i) {
    if (offsets[i + 1] >= offsets[i]) continue;
    throw std::invalid_argument(prefix + "offsets[" + text(i + 1) + "] = " + text(offsets[i + 1]) +
                                " is below offsets[" + text(i) + "] = " + text(offsets[i]) +
                                "; offsets must not decrease");
  }
}

void check_part(const Query& query, const QueryPart& part, bool context) {
  const QueryForm& form = *query.form;
  const std::string prefix = context ? "context_" : "";
  const int64_t samples = context ? 1 : query.batch_size;
  const int64_t columns = context ? form.context_columns() : form.num_dense() - form.context_columns();
  const int64_t tables = context ? form.context_tables() : form.num_tables() - form.context_tables();
  if (columns > 0) check_finite(prefix + "dense", part.dense, samples, columns);
  if (part.categorical == nullptr) check_offsets(prefix, part, tables * samples);
  for (int table = 0; table < form.num_tables(); ++table) {
    if (form.in_context(table) != context) continue;
    const int place = form.place(table);
    const auto rows = static_cast<uint64_t>(form.num_embeddings(table));  // a negative id is a large number
    if (part.categorical != nullptr) {
      for (int64_t i = 0; i < samples; ++i) {
        const int64_t id = part.categorical[i * tables + place];
        if (static_cast<uint64_t>(id) < rows) continue;
        refuse_id(form, table, prefix + "categorical[" + text(i) + ", " + text(place) + "]", id);
      }
      continue;
    }
    for (int64_t i = part.offsets[place * samples]; i < part.offsets[(place + 1) * samples]; ++i) {
      if (static_cast<uint64_t>(part.ids[i]) < rows) continue;
      refuse_id(form, table, prefix + "ids[" + text(i) + "]", part.ids[i]);
    }
  }
}

// At least so long; what grows is not copied.
template <typename T>
void make_room(std::vector<T>& array, int64_t length) {
  if (static_cast<int64_t>(array.size()) >= length) return;
  array.clear();
  array.resize(static_cast<size_t>(length + length / 2));
}

}  // namespace

QueryForm::QueryForm(std::vector<TableName> tables, int64_t num_dense, const std::vector<int>& context_tables,
                     const std::vector<int>& context_columns)
    : tables_(std::move(tables)),
      num_dense_(num_dense),
      context_tables_(static_cast<int>(context_tables.size())),
      context_column_numbers_(context_columns) {
  const std::vector<char> own_tables = marked("context tables", context_tables, num_tables());
  const std::vector<char> own_columns = marked("context columns", context_columns, num_dense);
  places_.resize(tables_.size());
  for (int i = 0; i < context_tables_; ++i) {
    places_[static_cast<size_t>(context_tables[static_cast<size_t>(i)])] = {true, i};
  }
  int candidates = 0;
  for (size_t t = 0; t < tables_.size(); ++t) {
    if (own_tables[t] == 0) places_[t] = {false, candidates++};
  }
  for (int column = 0; column < num_dense; ++column) {
    if (own_columns[static_cast<size_t>(column)] == 0) candidate_column_numbers_.push_back(column);
  }
}

void check(const Query& query) {
  check_part(query, query.candidates, false);
  if (!query.form->plain()) check_part(query, query.context, true);
}

void JoinedBatch::join(const std::vector<QueryRange>& ranges) {
  int64_t samples = 0;
  for (const QueryRange& range : ranges) samples += range.count;
  const QueryRange& only = ranges.front();
  const Query& query = *only.query;
  const bool in_place = ranges.size() == 1 && query.form->plain();
  if (in_place) {
    dense_ = query.candidates.dense + only.first * query.form->num_dense();
  } else {
    join_dense(ranges, samples);
  }
  if (in_place && query.candidates.categorical == nullptr && only.count == query.batch_size) {
    const QueryPart& part = query.candidates;
    request_ = {part.ids, part.num_ids, part.offsets, query.batch_size};
  } else {
    join_ids(ranges, samples);
  }
}

void JoinedBatch::join_dense(const std::vector<QueryRange>& ranges, int64_t samples) {
  const int64_t width = ranges.front().query->form->num_dense();
  make_room(own_dense_, samples * width);
  dense_ = own_dense_.data();
  float* out = own_dense_.data();
  for (const auto& [query, first, count] : ranges) {
    const QueryForm& form = *query->form;
    if (form.plain()) {
      std::copy_n(query->candidates.dense + first * width, count * width, out);
      out += count * width;
      continue;
    }
    const std::vector<int>& shared = form.context_column_numbers();
    const std::vector<int>& own = form.candidate_column_numbers();
    const float* from = query->candidates.dense + first * static_cast<int64_t>(own.size());
    for (int64_t i = 0; i < count; ++i, out += width) {
      for (size_t c = 0; c < shared.size(); ++c) out[shared[c]] = query->context.dense[c];
      for (const int column : own) out[column] = *from++;
    }
  }
}

void JoinedBatch::join_ids(const std::vector<QueryRange>& ranges, int64_t samples) {
  const int num_tables = ranges.front().query->form->num_tables();
  // The bag of a table that the samples of a range share, or begin with.
  struct Bags {
    const int64_t* ids;
    const int64_t* offsets;  // of the first sample's bag; null: one id each
    int64_t stride;          // of the ids, where each bag has one
    bool shared;
  };
  const auto bags_of = [](const QueryRange& range, int table) {
    const Query& query = *range.query;
    const QueryForm& form = *query.form;
    const bool shared = form.in_context(table);
    const QueryPart& part = shared ? query.context : query.candidates;
    const int64_t place = form.place(table), first = shared ? 0 : range.first;
    if (part.categorical != nullptr) {
      const int64_t stride = shared ? 0 : form.num_tables() - form.context_tables();
      return Bags{part.categorical + first * stride + place, nullptr, stride, shared};
    }
    return Bags{part.ids, part.offsets + place * (shared ? 1 : query.batch_size) + first, 0, shared};
  };

  int64_t num_ids = 0;
  for (int table = 0; table < num_tables; ++table) {
    for (const QueryRange& range : ranges) {
      const Bags bags = bags_of(range, table);
      if (bags.offsets == nullptr) {
        num_ids += range.count;
      } else if (bags.shared) {
        num_ids += range.count * (bags.offsets[1] - bags.offsets[0]);
      } else {
        num_ids += bags.offsets[range.count] - bags.offsets[0];
      }
    }
  }
  make_room(own_ids_, num_ids);
  make_room(own_offsets_, num_tables * samples + 1);
  int64_t* out = own_ids_.data();
  int64_t* end = own_offsets_.data();
  *end++ = 0;
  for (int table = 0; table < num_tables; ++table) {
    for (const QueryRange& range : ranges) {
      const Bags bags = bags_of(range, table);
      if (bags.offsets == nullptr) {
        for (int64_t i = 0; i < range.count; ++i) *out++ = bags.ids[i * bags.stride];
        for (int64_t i = 0; i < range.count; ++i, ++end) *end = end[-1] + 1;
      } else if (bags.shared) {
        const int64_t length = bags.offsets[1] - bags.offsets[0];
        for (int64_t i = 0; i < range.count; ++i, ++end) {
          out = std::copy_n(bags.ids + bags.offsets[0], length, out);
          *end = end[-1] + length;
        }
      } else {
        out = std::copy(bags.ids + bags.offsets[0], bags.ids + bags.offsets[range.count], out);
        const int64_t shift = end[-1] - bags.offsets[0];
        for (int64_t i = 1; i <= range.count; ++i) *end++ = bags.offsets[i] + shift;
      }
    }
  }
  request_ = {own_ids_.data(), num_ids, own_offsets_.data(), samples};
}

}  // namespace screc
