#include "bindings/bindings.h"

namespace screc::bindings {

void bind_io(nb::module_&) {}

}  // namespace screc::bindings
