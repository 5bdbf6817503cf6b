#include "bindings/bindings.h"

namespace screc::bindings {

void bind_kernels(nb::module_&) {}

}  // namespace screc::bindings
