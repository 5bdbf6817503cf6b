#include "bindings/bindings.h"

namespace nb = nanobind;

NB_MODULE(_native, module) {
  module.doc() = "SCRec's compiled core: kernels, direct reads, the row store and the engine.";
  screc::bindings::bind_kernels(module);
  screc::bindings::bind_row_format(module);
  screc::bindings::bind_io(module);
  screc::bindings::bind_store(module);
  screc::bindings::bind_page_order(module);
  screc::bindings::bind_fit(module);
  screc::bindings::bind_engine(module);
  screc::bindings::bind_batcher(module);
  screc::bindings::bind_statistics(module);
  screc::bindings::bind_hot_sketch(module);
}
