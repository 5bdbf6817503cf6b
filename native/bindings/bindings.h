// One bind_* function per concept; module.cc calls them all.
#pragma once

#include <nanobind/nanobind.h>

namespace screc::bindings {

namespace nb = nanobind;

void bind_kernels(nb::module_& module);
void bind_row_format(nb::module_& module);
void bind_io(nb::module_& module);
void bind_store(nb::module_& module);
void bind_page_order(nb::module_& module);
void bind_fit(nb::module_& module);
void bind_engine(nb::module_& module);
void bind_batcher(nb::module_& module);
void bind_statistics(nb::module_& module);
void bind_hot_sketch(nb::module_& module);

}  // namespace screc::bindings
