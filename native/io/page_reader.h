// Reads many 4 KiB pages at once, in whatever order the drive finishes them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "io/page_file.h"

namespace screc {

struct PageRequest {
  const PageFile* file;
  std::int64_t page;
};

// Takes the pages as they arrive. `data` is a buffer of the reader, good during the call only.
class PageSink {
 public:
  virtual ~PageSink() = default;
  // Page of request `index`. May be called from several threads at once, for different requests; what it
  // throws ends the read and is rethrown by PageReader::read.
  virtual void page_read(std::int64_t index, const unsigned char* data) = 0;
};

class PageReader {
 public:
  virtual ~PageReader() = default;
  // Reads every requested page and hands it to the sink. Returns, or throws, only when no read is in flight.
  // Throws IoError naming file and page. Calls from several threads take turns. Requests must lie within
  // their files.
  virtual void read(const PageRequest* requests, std::int64_t count, PageSink& sink) = 0;
  // "io_uring" or "pread".
  virtual const char* backend() const = 0;
  virtual int queue_depth() const = 0;
};

inline constexpr int kMaxQueueDepth = 4096;

// Throws std::invalid_argument naming `io` or `queue_depth`.
void check_io(const std::string& io, int queue_depth);

// io: "auto" (io_uring where the system lets us use it, else pread), "io_uring" or "pread". Memory:
// queue_depth x 4 KiB. Throws std::invalid_argument for bad arguments, IoError when io_uring is asked for and
// refused.
std::unique_ptr<PageReader> make_page_reader(const std::string& io, int queue_depth);

}  // namespace screc
