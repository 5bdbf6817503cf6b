#include "statistics/recency_filter.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/scored_ids.h"

namespace screc::bindings {
namespace {

nb::tuple insert(RecencyFilter& self, const AnyConstArray& ids, const AnyConstArray& scores, float threshold,
                 float kept) {
  const auto [id, score, n] = scored_ids(ids, scores);
  RecencyFilter::Leaving leaving;
  {
    nb::gil_scoped_release release;
    leaving = self.insert(id, score, n, threshold, kept);
  }
  return nb::make_tuple(adopt(std::move(leaving.ids)), adopt(std::move(leaving.scores)));
}

}  // namespace

void bind_recency_filter(nb::module_& module) {
  nb::class_<RecencyFilter>(module, "RecencyFilter",
                            "Ids that were seen lately and their scores (the LRU area of CAFE+).")
      .def(nb::init<std::int64_t>(), nb::arg("num_buckets"))
      .def("insert", insert, nb::arg("ids"), nb::arg("scores"), nb::arg("threshold"), nb::arg("kept"),
           "Adds float32 scores to ids, in order. Returns ids and scores of those that leave: at the "
           "threshold, or\ndisplaced with a score of `kept` at least.")
      .def(
          "state",
          [](const RecencyFilter& self) {
            const auto size = static_cast<std::size_t>(self.bytes());
            std::vector<std::uint8_t> copy(size + sizeof(std::uint64_t));
            const std::uint64_t clock = self.clock();
            std::memcpy(copy.data(), self.buckets(), size);
            std::memcpy(copy.data() + size, &clock, sizeof(clock));
            return adopt(std::move(copy));
          },
          "A copy of the buckets and the clock, uint8 [64 * num_buckets + 8].")
      .def(
          "restore",
          [](RecencyFilter& self, const AnyConstArray& state) {
            const auto* data = checked<std::uint8_t>(state, "state", 1);
            const auto size = static_cast<std::size_t>(self.bytes());
            if (state.shape(0) != size + sizeof(std::uint64_t)) {
              throw nb::value_error(("state: expected " + std::to_string(size + sizeof(std::uint64_t)) +
                                     " bytes, got " + std::to_string(state.shape(0)))
                                        .c_str());
            }
            std::vector<RecencyFilter::Bucket> buckets(static_cast<std::size_t>(self.num_buckets()));
            std::memcpy(buckets.data(), data, size);
            std::uint64_t clock = 0;
            std::memcpy(&clock, data + size, sizeof(clock));
            self.restore(buckets.data(), clock);
          },
          nb::arg("state"), "Takes over what state() gave.")
      .def_prop_ro("num_buckets", &RecencyFilter::num_buckets, "Buckets of four ids, 64 bytes each.");
}

}  // namespace screc::bindings
