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
  // Page of request `index`. Called between start() and finish(): by io_uring on the thread that starts,
  // polls or finishes, by the pread pool on any thread and on several at once, for different requests. What
  // it throws ends the read and is rethrown by PageReader::finish.
  virtual void page_read(std::int64_t index, const unsigned char* data) = 0;
};

// One read, of many pages, at a time; its calls may come from different threads, but not at once.
class PageReader {
 public:
  virtual ~PageReader() = default;  // waits for reads in flight

  // Puts as many reads in flight as the queue depth takes and returns without waiting for them. Requests must
  // lie within their files; they and the sink must stay until finish() or abandon(), one of which must
  // follow. Throws IoError when the reader cannot read any more; nothing is started then.
  virtual void start(const PageRequest* requests, std::int64_t count, PageSink& sink) = 0;
  // Takes what has arrived and puts more reads in flight, without waiting. True when finish() will not wait.
  virtual bool poll() = 0;
  // Waits until every page has been handed to the sink. Returns, or throws, only when no read is in flight.
  // Throws IoError naming file and page, or the first error of the sink.
  virtual void finish() = 0;
  // Starts no more reads, waits for those in flight and forgets the rest and any error. Nothing to do after
  // finish().
  virtual void abandon() noexcept = 0;

  // "io_uring" or "pread".
  virtual const char* backend() const = 0;
  virtual int queue_depth() const = 0;
};

inline constexpr int kMaxQueueDepth = 4096;
inline constexpr int kDefaultQueueDepth = 256;

// Throws std::invalid_argument naming `io` or `queue_depth`.
void check_io(const std::string& io, int queue_depth);

// io: "auto" (io_uring where the system lets us use it, else pread), "io_uring" or "pread". Memory:
// queue_depth x 4 KiB. Throws std::invalid_argument for bad arguments, IoError when io_uring is asked for and
// refused.
std::unique_ptr<PageReader> make_page_reader(const std::string& io, int queue_depth);

}  // namespace screc
