#include "io/page_reader.h"

#include <stdexcept>

#include "io/pread_reader.h"
#include "io/uring_reader.h"

namespace screc {

void check_io(const std::string& io, int queue_depth) {
  if (io != "auto" && io != "io_uring" && io != "pread") {
    throw std::invalid_argument("io: '" + io + "' is unknown; use 'auto', 'io_uring' or 'pread'");
  }
  if (queue_depth < 1 || queue_depth > kMaxQueueDepth) {
    throw std::invalid_argument("queue_depth: must be from 1 to " + std::to_string(kMaxQueueDepth) +
                                ", got " + std::to_string(queue_depth));
  }
}

std::unique_ptr<PageReader> make_page_reader(const std::string& io, int queue_depth) {
  check_io(io, queue_depth);
  if (io == "pread") return std::make_unique<PreadReader>(queue_depth);
  try {
    return std::make_unique<UringReader>(queue_depth);
  } catch (const IoError&) {
    if (io == "io_uring") throw;
  }
  return std::make_unique<PreadReader>(queue_depth);
}

}  // namespace screc
