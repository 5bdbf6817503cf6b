#include "bindings/bindings.h"

namespace screc::bindings {

void bind_store(nb::module_&) {}

}  // namespace screc::bindings
