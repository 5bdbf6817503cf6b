// Arguments that say which rows a band has.
#pragma once

#include <nanobind/stl/string.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "bindings/arrays.h"
#include "store/band.h"

namespace screc::bindings {

// None, ("order", slots), ("bitmap", bits, directory) or ("hash", keys, slots). The arrays are not copied.
inline BandIndex index_of(nb::handle index) {
  if (index.is_none()) return IdentityIndex{};
  constexpr const char* kForms =
      "index: expected None, ('order', slots), ('bitmap', bits, directory) or ('hash', keys, slots)";
  if (!nb::isinstance<nb::tuple>(index) || nb::len(index) < 2) throw nb::type_error(kForms);
  std::string form;
  AnyConstArray first, second;
  if (!nb::try_cast(index[0], form) || !nb::try_cast(index[1], first)) throw nb::type_error(kForms);
  if (form == "order") {
    if (nb::len(index) != 2) throw nb::type_error(kForms);
    const auto* slots = checked<std::uint32_t>(first, "index slots", 1);
    return OrderIndex{slots, static_cast<std::int64_t>(first.shape(0))};
  }
  if (nb::len(index) != 3 || !nb::try_cast(index[2], second)) throw nb::type_error(kForms);
  const auto lengths = [&] {
    return std::pair(static_cast<std::int64_t>(first.shape(0)), static_cast<std::int64_t>(second.shape(0)));
  };
  if (form == "bitmap") {
    const auto* bits = checked<std::uint64_t>(first, "index bits", 1);
    const auto* directory = checked<std::uint32_t>(second, "index directory", 1);
    return BitmapIndex{bits, directory, lengths().first, lengths().second};
  }
  if (form == "hash") {
    const auto* keys = checked<std::int64_t>(first, "index keys", 1);
    const auto* slots = checked<std::uint32_t>(second, "index slots", 1);
    if (lengths().first != lengths().second) {
      throw nb::value_error(("index slots: expected " + std::to_string(lengths().first) +
                             " entries as in keys, got " + std::to_string(lengths().second))
                                .c_str());
    }
    return HashIndex{keys, slots, lengths().first};
  }
  throw nb::value_error((std::string(kForms) + ", got '" + form + "'").c_str());
}

// None, or the written page groups as an index and the default row as the codec holds rows, uint8
// [row_bytes].
inline std::unique_ptr<WrittenPages> written_pages(nb::handle written, nb::handle default_row,
                                                   const RowCodec& codec) {
  if (written.is_none() != default_row.is_none()) {
    throw nb::value_error("written and default_row go together: give both or neither");
  }
  if (written.is_none()) return nullptr;
  AnyConstArray row;
  if (!nb::try_cast(default_row, row)) throw nb::type_error("default_row: expected an array or None");
  const auto* bytes = checked<std::uint8_t>(row, "default_row", 1);
  if (row.shape(0) != static_cast<std::size_t>(codec.row_bytes())) {
    throw nb::value_error(("default_row: expected the " + std::to_string(codec.row_bytes()) +
                           " bytes of a row, got " + std::to_string(row.shape(0)))
                              .c_str());
  }
  auto pages = std::make_unique<WrittenPages>();
  const BandIndex index = index_of(written);
  if (const auto* bitmap = std::get_if<BitmapIndex>(&index)) {
    pages->groups = *bitmap;
  } else if (const auto* hash = std::get_if<HashIndex>(&index)) {
    pages->groups = *hash;
  } else {
    throw nb::value_error("written: expected ('bitmap', bits, directory) or ('hash', keys, slots)");
  }
  pages->default_row = AlignedBuffer(row.shape(0));
  std::memcpy(pages->default_row.data(), bytes, row.shape(0));
  return pages;
}

}  // namespace screc::bindings
