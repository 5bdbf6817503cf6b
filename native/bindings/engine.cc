#include "bindings/bindings.h"

namespace screc::bindings {

void bind_engine(nb::module_&) {}

}  // namespace screc::bindings
