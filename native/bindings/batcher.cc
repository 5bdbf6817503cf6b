#include "engine/batcher.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <utility>

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace screc::bindings {
namespace {

using namespace nb::literals;
using Array = std::optional<AnyConstArray>;

const char* text(Verdict verdict) {
  switch (verdict) {
    case Verdict::kAccepted:
      return "accepted";
    case Verdict::kQueueFull:
      return "queue full";
    case Verdict::kTooLate:
      return "too late";
    case Verdict::kDraining:
      return "draining";
  }
  return "";
}

const char* text(Outcome outcome) {
  switch (outcome) {
    case Outcome::kDone:
      return "done";
    case Outcome::kExpired:
      return "expired";
    case Outcome::kCancelled:
      return "cancelled";
    case Outcome::kFailed:
      return "failed";
  }
  return "";
}

void expect(const std::string& name, const AnyConstArray& array, size_t axis, int64_t expected,
            const char* what) {
  if (static_cast<int64_t>(array.shape(axis)) == expected) return;
  throw nb::value_error(
      (name + ": expected " + std::to_string(expected) + " " + what + ", got shape " + shape_text(array))
          .c_str());
}

QueryPart as_part(const std::string& prefix, int64_t samples, int64_t columns, int64_t tables,
                  const Array& dense, const Array& categorical, const Array& ids, const Array& offsets) {
  QueryPart part;
  if (dense) {
    const std::string name = prefix + "dense";
    part.dense = checked<float>(*dense, name.c_str(), 2);
    expect(name, *dense, 0, samples, "rows");
    expect(name, *dense, 1, columns, "columns");
  } else if (columns > 0) {
    throw nb::value_error((prefix + "dense: is missing").c_str());
  }
  if (categorical) {
    const std::string name = prefix + "categorical";
    part.categorical = checked<int64_t>(*categorical, name.c_str(), 2);
    expect(name, *categorical, 0, samples, "rows");
    expect(name, *categorical, 1, tables, "columns (tables)");
    return part;
  }
  if (tables == 0 && !ids && !offsets) {  // no bags at all
    static const int64_t begin[1] = {0};
    part.offsets = begin;
    return part;
  }
  if (!ids || !offsets) {
    throw nb::value_error(
        (prefix + "ids and " + prefix + "offsets, or " + prefix + "categorical, are missing").c_str());
  }
  part.ids = checked<int64_t>(*ids, (prefix + "ids").c_str(), 1);
  part.num_ids = static_cast<int64_t>(ids->shape(0));
  part.offsets = checked<int64_t>(*offsets, (prefix + "offsets").c_str(), 1);
  expect(prefix + "offsets", *offsets, 0, tables * samples + 1, "entries (tables * samples + 1)");
  return part;
}

Admission submit(Batcher& batcher, const QueryForm& form, const AnyArray& out, double timeout,
                 const Array& dense, const Array& categorical, const Array& ids, const Array& offsets,
                 const Array& context_dense, const Array& context_categorical, const Array& context_ids,
                 const Array& context_offsets) {
  float* const probabilities = checked<float>(out, "out", 1);
  Query query{&form, static_cast<int64_t>(out.shape(0)), {}, {}};
  const int64_t columns = form.context_columns();
  const int tables = form.context_tables();
  query.candidates = as_part("", query.batch_size, form.num_dense() - columns, form.num_tables() - tables,
                             dense, categorical, ids, offsets);
  if (!form.plain()) {
    query.context = as_part("context_", 1, columns, tables, context_dense, context_categorical, context_ids,
                            context_offsets);
  }
  nb::gil_scoped_release nogil;
  return batcher.submit(query, probabilities, timeout);
}

std::vector<QueryForm::TableName> as_tables(const std::vector<std::pair<std::string, int64_t>>& tables) {
  std::vector<QueryForm::TableName> named;
  for (const auto& [name, rows] : tables) named.push_back({name, rows});
  return named;
}

}  // namespace

void bind_batcher(nb::module_& module) {
  nb::class_<Histogram>(module, "Histogram", "Counts of values in buckets.")
      .def_ro("bounds", &Histogram::bounds, "The greatest value of each bucket; the last has no bound.")
      .def_ro("counts", &Histogram::counts, "Values in each bucket alone: one count more than bounds.")
      .def_ro("sum", &Histogram::sum, "Of all values.");

  nb::class_<QueryForm>(module, "QueryForm",
                        "Which tables and dense columns a query gives once, for all of its samples.")
      .def(
          "__init__",
          [](QueryForm* self, const std::vector<std::pair<std::string, int64_t>>& tables, int64_t num_dense,
             const std::vector<int>& context_tables, const std::vector<int>& context_columns) {
            new (self) QueryForm(as_tables(tables), num_dense, context_tables, context_columns);
          },
          "tables"_a, "num_dense"_a, "context_tables"_a = std::vector<int>(),
          "context_columns"_a = std::vector<int>(),
          "tables are (name, rows). ValueError names a table or column that is out of range or given twice.");

  nb::class_<Admission>(module, "Admission", "What a Batcher said to a query.")
      .def_prop_ro(
          "verdict", [](const Admission& self) { return text(self.verdict); },
          "'accepted', 'queue full', 'too late' or 'draining'.")
      .def_ro("ticket", &Admission::ticket, "Of an accepted query.")
      .def_ro("predicted_wait", &Admission::predicted_wait, "Seconds until the query's turn.");

  nb::class_<Completion>(module, "Completion", "The end of a query.")
      .def_ro("ticket", &Completion::ticket)
      .def_prop_ro(
          "outcome", [](const Completion& self) { return text(self.outcome); },
          "'done', 'expired', 'cancelled' or 'failed'.")
      .def_ro("queue_seconds", &Completion::queue_seconds, "Until its first sample was taken up.")
      .def_ro("request_seconds", &Completion::request_seconds, "Until the end.")
      .def_ro("error", &Completion::error, "Of a query that failed.");

  nb::class_<BatcherStats>(module, "BatcherStats",
                           "What a Batcher has done since it was made.\n\n"
                           "accepted == done + failed + expired + cancelled + those still in it.")
      .def_ro("accepted", &BatcherStats::accepted, "Queries.")
      .def_ro("accepted_samples", &BatcherStats::accepted_samples)
      .def_ro("done", &BatcherStats::done)
      .def_ro("failed", &BatcherStats::failed)
      .def_ro("expired", &BatcherStats::expired)
      .def_ro("cancelled", &BatcherStats::cancelled)
      .def_ro("refused_queue_full", &BatcherStats::refused_queue_full)
      .def_ro("refused_too_late", &BatcherStats::refused_too_late)
      .def_ro("refused_draining", &BatcherStats::refused_draining)
      .def_ro("batches", &BatcherStats::batches)
      .def_ro("batched_samples", &BatcherStats::batched_samples)
      .def_ro("joined_batches", &BatcherStats::joined_batches, "Batches of several queries.")
      .def_ro("queued", &BatcherStats::queued, "Queries that wait now.")
      .def_ro("queued_samples", &BatcherStats::queued_samples)
      .def_ro("running_samples", &BatcherStats::running_samples)
      .def_ro("seconds_per_sample", &BatcherStats::seconds_per_sample, "Of one worker, lately.")
      .def_ro("queue_seconds", &BatcherStats::queue_seconds, "Of queries that were done.")
      .def_ro("compute_seconds", &BatcherStats::compute_seconds, "Of batches.")
      .def_ro("request_seconds", &BatcherStats::request_seconds, "Of queries that were done.")
      .def_ro("batch_samples", &BatcherStats::batch_samples);

  nb::class_<Batcher>(module, "Batcher",
                      "Queries of many requests on their way through one Engine: joined, split, refused when "
                      "there are too many.")
      .def(
          "__init__",
          [](Batcher* self, Engine& engine, int64_t max_batch, int64_t split, double queue_delay,
             int64_t max_queued, int workers) {
            new (self) Batcher(engine, {.max_batch = max_batch,
                                        .split = split,
                                        .queue_delay = queue_delay,
                                        .max_queued = max_queued,
                                        .workers = workers});
          },
          "engine"_a, "max_batch"_a = BatcherOptions{}.max_batch, "split"_a = BatcherOptions{}.split,
          "queue_delay"_a = BatcherOptions{}.queue_delay, "max_queued"_a = BatcherOptions{}.max_queued,
          "workers"_a = BatcherOptions{}.workers, nb::keep_alive<1, 2>(),
          "max_batch, split and max_queued are samples, queue_delay seconds; workers 0 is one per thread of "
          "the\nengine. ValueError names the option.")
      .def("submit", &submit, "form"_a, "out"_a, "timeout"_a, nb::kw_only(), "dense"_a = nb::none(),
           "categorical"_a = nb::none(), "ids"_a = nb::none(), "offsets"_a = nb::none(),
           "context_dense"_a = nb::none(), "context_categorical"_a = nb::none(), "context_ids"_a = nb::none(),
           "context_offsets"_a = nb::none(),
           "Takes in a query whose probabilities go to out float32 [B]. The arrays and the form must stay "
           "until its\ncompletion is taken. timeout: seconds in the queue, 0 for no end.\n\n"
           "dense float32 [B, columns]; categorical int64 [B, tables], one id each, or ids int64 [nnz] and "
           "offsets\nint64 [tables * B + 1], table-major; the same of the context, for B = 1. ValueError "
           "names the tensor,\nthe place and the value.")
      .def("cancel", &Batcher::cancel, "ticket"_a, nb::call_guard<nb::gil_scoped_release>(),
           "Drops a query, as far as it does not run; it completes all the same. False where it has.")
      .def_prop_ro("descriptor", &Batcher::descriptor, "Readable when there are completions.")
      .def(
          "take",
          [](Batcher& self) {
            std::vector<Completion> completions;
            self.take(completions);
            return completions;
          },
          "The completions since the last call.")
      .def("drain", &Batcher::drain, "seconds"_a, nb::call_guard<nb::gil_scoped_release>(),
           "Refuses new queries from now on, and waits until nothing is left, or so many seconds; whether "
           "nothing is.")
      .def("stop", &Batcher::stop, nb::call_guard<nb::gil_scoped_release>(),
           "Drops what waits, and returns when nothing runs; queries are refused from now on.")
      .def_prop_rw(
          "split", [](const Batcher& self) { return self.options().split; }, &Batcher::set_split,
          "Most samples of a batch made of a part of one query.")
      .def_prop_ro("max_batch", [](const Batcher& self) { return self.options().max_batch; })
      .def_prop_ro("max_queued", [](const Batcher& self) { return self.options().max_queued; })
      .def_prop_ro("queue_delay", [](const Batcher& self) { return self.options().queue_delay; })
      .def_prop_ro("workers", [](const Batcher& self) { return self.options().workers; })
      .def("stats", &Batcher::stats, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace screc::bindings
