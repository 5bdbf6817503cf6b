#include "engine/engine.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <utility>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "engine/replay.h"

namespace screc::bindings {
namespace {

using namespace nb::literals;
using LayerArrays =
    std::vector<std::tuple<AnyConstArray, AnyConstArray, std::string, std::optional<AnyConstArray>>>;

std::vector<DenseLayer> as_layers(const char* name, const LayerArrays& arrays) {
  std::vector<DenseLayer> layers;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto& [weight, bias, precision, range] = arrays[i];
    const std::string layer = std::string(name) + "." + std::to_string(i);
    const float* w = checked<float>(weight, (layer + ".weight").c_str(), 2);
    const float* b = checked<float>(bias, (layer + ".bias").c_str(), 1);
    if (bias.shape(0) != weight.shape(0)) {
      throw nb::value_error(
          (layer + ".bias: expected shape [" + std::to_string(weight.shape(0)) + "], got " + shape_text(bias))
              .c_str());
    }
    const float* span = nullptr;
    if (range) {
      span = checked<float>(*range, (layer + ".range").c_str(), 2);
      if (range->shape(0) != 2 || range->shape(1) != weight.shape(1)) {
        throw nb::value_error((layer + ".range: expected shape [2, " + std::to_string(weight.shape(1)) +
                               "], got " + shape_text(*range))
                                  .c_str());
      }
    }
    layers.push_back({w, b, static_cast<int64_t>(weight.shape(0)), static_cast<int64_t>(weight.shape(1)),
                      parse_precision(precision), span});
  }
  return layers;
}

void expect(const char* name, size_t actual, int64_t expected, const char* what) {
  if (static_cast<int64_t>(actual) == expected) return;
  throw nb::value_error((std::string(name) + ": expected " + std::to_string(expected) + " " + what +
                         ", got " + std::to_string(actual))
                            .c_str());
}

LookupRequest as_request(const Engine& engine, const AnyConstArray& dense, const AnyConstArray& ids,
                         const AnyConstArray& offsets) {
  checked<float>(dense, "dense", 2);
  const int64_t batch_size = static_cast<int64_t>(dense.shape(0));
  const LookupRequest request{checked<int64_t>(ids, "ids", 1), static_cast<int64_t>(ids.shape(0)),
                              checked<int64_t>(offsets, "offsets", 1), batch_size};
  expect("dense", dense.shape(1), engine.num_dense(), "columns");
  expect("offsets", offsets.shape(0), engine.num_tables() * batch_size + 1,
         "entries (tables * batch size + 1)");
  return request;
}

// The arrays of a batch, checked.
Prediction as_prediction(const Engine& engine, const AnyConstArray& dense, const AnyConstArray& ids,
                         const AnyConstArray& offsets, const AnyArray& out) {
  const LookupRequest request = as_request(engine, dense, ids, offsets);
  const float* dense_data = checked<float>(dense, "dense", 2);
  float* out_data = checked<float>(out, "out", 1);
  expect("out", out.shape(0), request.batch_size, "entries (the batch size)");
  return {dense_data, request, out_data};
}

void predict(Engine& engine, const AnyConstArray& dense, const AnyConstArray& ids,
             const AnyConstArray& offsets, const AnyArray& out) {
  const Prediction batch = as_prediction(engine, dense, ids, offsets, out);
  nb::gil_scoped_release nogil;
  engine.predict(batch.dense, batch.request, batch.out);
}

void layer_inputs(Engine& engine, const AnyConstArray& dense, const AnyConstArray& ids,
                  const AnyConstArray& offsets, int layer, const AnyArray& out) {
  const LookupRequest request = as_request(engine, dense, ids, offsets);
  const float* dense_data = checked<float>(dense, "dense", 2);
  float* out_data = checked<float>(out, "out", 2);
  expect("out", out.shape(0), request.batch_size, "rows (the batch size)");
  expect("out", out.shape(1), engine.layer_inputs(layer), "columns (the layer's inputs)");
  nb::gil_scoped_release nogil;
  engine.layer_inputs(dense_data, request, layer, out_data);
}

using BatchArrays = std::tuple<AnyConstArray, AnyConstArray, AnyConstArray>;

void replay_requests(Engine& engine, const std::vector<BatchArrays>& arrays, const AnyConstArray& arrivals,
                     int clients, const AnyArray& latencies) {
  std::vector<ReplayBatch> batches;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto& [dense, ids, offsets] = arrays[i];
    try {
      const LookupRequest request = as_request(engine, dense, ids, offsets);
      batches.push_back({checked<float>(dense, "dense", 2), request});
    } catch (const nb::builtin_exception& error) {
      throw nb::builtin_exception(error.type(),
                                  ("batches[" + std::to_string(i) + "]: " + error.what()).c_str());
    }
  }
  const double* const seconds = checked<double>(arrivals, "arrivals", 1);
  double* const out = checked<double>(latencies, "latencies", 1);
  expect("latencies", latencies.shape(0), static_cast<int64_t>(arrivals.shape(0)), "entries (the arrivals)");
  nb::gil_scoped_release nogil;
  replay(engine, batches, {seconds, seconds + arrivals.shape(0)}, clients, out);
}

// A submitted batch as Python holds it: collected at the latest when it is let go, since the engine writes
// into its arrays until then.
class Submitted {
 public:
  Submitted(Engine& engine, const Prediction& batch) : engine_(engine), batch_(batch) {
    engine_.submit(batch_);
    open_ = true;
  }
  ~Submitted() {
    try {
      collect();
    } catch (...) {
      // Nobody asked for these predictions.
    }
  }
  Submitted(const Submitted&) = delete;
  Submitted& operator=(const Submitted&) = delete;

  void collect() {
    if (!std::exchange(open_, false)) return;
    engine_.collect(batch_);
  }

 private:
  Engine& engine_;
  Prediction batch_;
  bool open_ = false;
};

}  // namespace

void bind_engine(nb::module_& module) {
  nb::class_<Submitted>(module, "Submitted", "A batch that an Engine works on; see Engine.submit.")
      .def(
          "__init__",
          [](Submitted* self, Engine& engine, const AnyConstArray& dense, const AnyConstArray& ids,
             const AnyConstArray& offsets, const AnyArray& out) {
            const Prediction batch = as_prediction(engine, dense, ids, offsets, out);
            nb::gil_scoped_release nogil;
            new (self) Submitted(engine, batch);
          },
          "engine"_a, "dense"_a, "ids"_a, "offsets"_a, "out"_a, nb::keep_alive<1, 2>(),
          nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>(),
          "Begins the look-ups of a batch (arguments as Engine.predict takes them), which must not change "
          "until "
          "it is\ncollected.")
      .def("collect", &Submitted::collect, nb::call_guard<nb::gil_scoped_release>(),
           "Returns when the predictions are in out. Raises as Engine.predict does. A second call does "
           "nothing.");

  nb::class_<Engine>(module, "Engine",
                     "Runs a DLRM (arXiv 1906.00091) over the tables of a RowStore.\n\n"
                     "bottom and top are lists of (weight float32 [out, in], bias float32 [out], precision,\n"
                     "range float32 [2, in] or None), copied; see Linear for the last two. interaction is\n"
                     "'dot' or 'cat'. ValueError names the layer or table that does not fit.")
      .def(
          "__init__",
          [](Engine* self, RowStore& store, int64_t num_dense, int64_t embedding_dim,
             const LayerArrays& bottom, const LayerArrays& top, const std::string& interaction) {
            new (self) Engine(store, num_dense, embedding_dim, as_layers("bottom", bottom),
                              as_layers("top", top), interaction);
          },
          "store"_a, "num_dense"_a, "embedding_dim"_a, "bottom"_a, "top"_a, "interaction"_a,
          nb::keep_alive<1, 2>())
      .def("predict", &predict, "dense"_a, "ids"_a, "offsets"_a, "out"_a,
           "Writes the probability of each sample to out float32 [B].\n\n"
           "dense float32 [B, num_dense], ids int64 [nnz], offsets int64 [T * B + 1], table-major. "
           "ValueError for\n"
           "a dense value that is not finite, and for bad offsets and ids. Calls from several threads take "
           "turns.")
      .def("replay", &replay_requests, "batches"_a, "arrivals"_a, "clients"_a, "latencies"_a,
           "Writes the seconds that each of many requests took to latencies float64 [R]; see "
           "screc.serving.Engine.replay.\n\n"
           "batches is a list of (dense, ids, offsets) as predict takes them, arrivals float64 [R]. "
           "ValueError as in\npredict, and for arrivals and clients.")
      .def(
          "set_roles", [](Engine& self, int memory, int compute) { self.set_roles({memory, compute}); },
          "memory"_a, "compute"_a, nb::call_guard<nb::gil_scoped_release>(),
          "Threads that look up and threads that compute; 0 and 0: every thread does both. RuntimeError "
          "while "
          "batches\nare submitted and not collected.")
      .def_prop_ro(
          "roles", [](const Engine& self) { return std::pair(self.roles().memory, self.roles().compute); },
          "(memory, compute) threads; (0, 0) when every thread does both.")
      .def_prop_rw(
          "data_flow", [](const Engine& self) { return std::string(data_flow_name(self.data_flow())); },
          [](Engine& self, const std::string& name) {
            nb::gil_scoped_release nogil;
            self.set_data_flow(parse_data_flow(name));
          },
          "'symmetric', or 'asymmetric': each thread looks up what the store's mapping gives its core. "
          "RuntimeError\nwithout a mapping, and while batches are submitted and not collected.")
      .def("layer_inputs", &layer_inputs, "dense"_a, "ids"_a, "offsets"_a, "layer"_a, "out"_a,
           "Writes the inputs of one layer, bottom layers counted first, to out float32 [B, in].\n\n"
           "What calibration looks at. ValueError as in predict, and where a layer is not fp32.")
      .def_prop_ro(
          "isa", [](const Engine& self) { return std::string(isa_name(self.isa())); },
          "The instruction set in use.")
      .def_prop_ro("num_threads", &Engine::num_threads,
                   "Threads that work on one call, the caller included.");
}

}  // namespace screc::bindings
