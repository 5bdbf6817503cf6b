// Arrays cross without copies; a wrong one is refused by the name of its argument.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>
#include <utility>
#include <vector>

namespace screc::bindings {

namespace nb = nanobind;

using AnyArray = nb::ndarray<nb::device::cpu>;
using AnyConstArray = nb::ndarray<nb::ro, nb::device::cpu>;

// The array takes the vector's place.
template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> adopt(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return {kept->data(), {kept->size()}, owner};
}

inline std::string shape_text(const auto& array) {
  std::string text = "[";
  for (size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + "]";
}

template <typename T>
const char* dtype_text();
template <>
inline const char* dtype_text<float>() {
  return "float32";
}
template <>
inline const char* dtype_text<double>() {
  return "float64";
}
template <>
inline const char* dtype_text<int64_t>() {
  return "int64";
}
template <>
inline const char* dtype_text<int32_t>() {
  return "int32";
}
template <>
inline const char* dtype_text<uint64_t>() {
  return "uint64";
}
template <>
inline const char* dtype_text<uint32_t>() {
  return "uint32";
}
template <>
inline const char* dtype_text<uint16_t>() {
  return "uint16";
}
template <>
inline const char* dtype_text<uint8_t>() {
  return "uint8";
}

// The array's data as T*, once its dtype is T, it has `ndim` dimensions and is C-contiguous.
template <typename T, typename Array>
auto checked(const Array& array, const char* name, size_t ndim) {
  if (array.dtype() != nb::dtype<T>()) {
    throw nb::type_error((std::string(name) + ": expected dtype " + dtype_text<T>() +
                          "; convert it with .astype before the call")
                             .c_str());
  }
  if (array.ndim() != ndim) {
    throw nb::value_error((std::string(name) + ": expected " + std::to_string(ndim) +
                           " dimension(s), got shape " + shape_text(array))
                              .c_str());
  }
  int64_t stride = 1;
  for (size_t i = array.size() > 0 ? ndim : 0; i-- > 0;) {  // an empty array's strides mean nothing
    if (array.shape(i) > 1 && array.stride(i) != stride) {
      throw nb::value_error(
          (std::string(name) + ": must be C-contiguous; use numpy.ascontiguousarray").c_str());
    }
    stride *= static_cast<int64_t>(array.shape(i));
  }
  if constexpr (std::is_same_v<Array, AnyConstArray>) {
    return static_cast<const T*>(array.data());
  } else {
    return static_cast<T*>(array.data());
  }
}

// Runs without the GIL: what is called may be busy with another thread's call.
template <typename Body>
auto released(const Body& body) {
  nb::gil_scoped_release release;
  return body();
}

}  // namespace screc::bindings
