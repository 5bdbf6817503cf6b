#include "statistics/hot_sketch.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/scored_ids.h"

namespace screc::bindings {
namespace {

nb::tuple arrays_of(HotSketch::Moves&& moves) {
  return nb::make_tuple(adopt(std::move(moves.ids)), adopt(std::move(moves.rows)));
}

HotSketch::Moves insert(HotSketch& self, const AnyConstArray& ids, const AnyConstArray& scores,
                        ThreadPool* pool) {
  const auto [id, score, n] = scored_ids(ids, scores);
  nb::gil_scoped_release release;
  return self.insert(id, score, n, pool);
}

}  // namespace

void bind_hot_sketch(nb::module_& module) {
  nb::class_<HotSketch>(module, "HotSketch",
                        "Finds the hot ids of a stream of scored ids and lends each a row (CAFE, section 3).")
      .def(nb::init<std::int64_t, std::int32_t, float>(), nb::arg("num_buckets"), nb::arg("num_rows"),
           nb::arg("threshold"))
      .def(
          "query",
          [](const HotSketch& self, const AnyConstArray& ids, const AnyArray& rows, ThreadPool* pool) {
            const auto* id = checked<std::int64_t>(ids, "ids", 1);
            auto* row = checked<std::int32_t>(rows, "rows", 1);
            if (rows.shape(0) != ids.shape(0))
              throw nb::value_error("rows: expected as many as there are ids");
            nb::gil_scoped_release release;
            self.query(id, static_cast<std::int64_t>(ids.shape(0)), row, pool);
          },
          nb::arg("ids"), nb::arg("rows"), nb::arg("pool").none() = nb::none(),
          "Writes the row lent to each id, or -1, into rows, int32 [n].")
      .def(
          "scores",
          [](const HotSketch& self, const AnyConstArray& ids, const AnyArray& scores, ThreadPool* pool) {
            const auto* id = checked<std::int64_t>(ids, "ids", 1);
            auto* score = checked<float>(scores, "scores", 1);
            if (scores.shape(0) != ids.shape(0)) {
              throw nb::value_error("scores: expected as many as there are ids");
            }
            nb::gil_scoped_release release;
            self.scores(id, static_cast<std::int64_t>(ids.shape(0)), score, pool);
          },
          nb::arg("ids"), nb::arg("scores"), nb::arg("pool").none() = nb::none(),
          "Writes the score of each id, or -1 where the sketch does not hold it, into scores, float32 [n].")
      .def(
          "insert",
          [](HotSketch& self, const AnyConstArray& ids, const AnyConstArray& scores, ThreadPool* pool) {
            return arrays_of(insert(self, ids, scores, pool));
          },
          nb::arg("ids"), nb::arg("scores"), nb::arg("pool").none() = nb::none(),
          "Adds float32 scores to ids, in order. Returns ids and rows, int32, of those that were lent one.")
      .def(
          "decay", [](HotSketch& self, float factor) { return arrays_of(self.decay(factor)); },
          nb::arg("factor"),
          "Multiplies all scores. Returns ids and rows of those that fell below the threshold.")
      .def(
          "retune", [](HotSketch& self) { return arrays_of(self.retune()); },
          "Raises the threshold to the score of the last id that there is a row for, where more than 1.05 "
          "times "
          "as\nmany have reached it. Returns ids and rows of those that fell below it.")
      .def(
          "state",
          [](const HotSketch& self) {
            auto* copy = new std::vector<std::uint8_t>(static_cast<std::size_t>(self.bytes()));
            std::memcpy(copy->data(), self.buckets(), copy->size());
            nb::capsule owner(copy,
                              [](void* p) noexcept { delete static_cast<std::vector<std::uint8_t>*>(p); });
            return nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>(copy->data(), {copy->size()}, owner);
          },
          "A copy of the buckets, uint8 [64 * num_buckets].")
      .def(
          "restore",
          [](HotSketch& self, const AnyConstArray& state, float threshold) {
            const auto* data = checked<std::uint8_t>(state, "state", 1);
            if (static_cast<std::int64_t>(state.shape(0)) != self.bytes()) {
              throw nb::value_error(("state: expected " + std::to_string(self.bytes()) + " bytes, got " +
                                     std::to_string(state.shape(0)))
                                        .c_str());
            }
            std::vector<HotSketch::Bucket> buckets(static_cast<std::size_t>(self.num_buckets()));
            std::memcpy(buckets.data(), data, static_cast<std::size_t>(self.bytes()));
            self.restore(buckets.data(), threshold);
          },
          nb::arg("state"), nb::arg("threshold"), "Takes over what state() gave.")
      .def_prop_ro("threshold", &HotSketch::threshold, "Score from which on an id is lent a row.")
      .def_prop_ro("num_lent", &HotSketch::num_lent, "Rows that are lent.")
      .def_prop_ro("num_buckets", &HotSketch::num_buckets, "Buckets of four ids, 64 bytes each.")
      .def_prop_ro("num_rows", &HotSketch::num_rows, "Rows of the pool.");
}

}  // namespace screc::bindings
