#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <filesystem>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "base/crc32c.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "io/page_reader.h"

namespace screc::bindings {
namespace {

using Path = std::filesystem::path;

// OSError: with an errno Python picks the subclass (FileNotFoundError, PermissionError, ...).
void translate_io_error(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const IoError& error) {
    nb::object value = error.code() != 0 ? nb::object(nb::make_tuple(error.code(), error.what()))
                                         : nb::object(nb::str(error.what()));
    PyErr_SetObject(PyExc_OSError, value.ptr());
  }
}

class Bytes {
 public:
  explicit Bytes(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS) != 0) nb::raise_python_error();
  }
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  const void* data() const { return view_.buf; }
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_;
};

std::uint32_t checksum(nb::handle data, std::uint32_t seed) {
  const Bytes bytes(data);
  nb::gil_scoped_release release;
  return crc32c(bytes.data(), bytes.size(), seed);
}

// The reader of one file.
class FileReader {
 public:
  FileReader(const Path& path, const std::string& io, int queue_depth)
      : reader_(make_page_reader(io, queue_depth)), file_(path.string()) {}

  const char* backend() const { return reader_->backend(); }
  int queue_depth() const { return reader_->queue_depth(); }
  std::int64_t num_pages() const { return file_.num_pages(); }
  bool direct() const { return file_.direct(); }

  void read(const std::int64_t* pages, std::int64_t count, unsigned char* out) {
    struct CopyOut final : PageSink {
      explicit CopyOut(unsigned char* target) : target(target) {}
      void page_read(std::int64_t index, const unsigned char* data) override {
        std::copy(data, data + kPageBytes, target + index * kPageBytes);
      }
      unsigned char* target;
    } sink(out);
    std::vector<PageRequest> requests(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      if (pages[i] < 0 || pages[i] >= file_.num_pages()) {
        throw std::invalid_argument("pages[" + std::to_string(i) + "] is " + std::to_string(pages[i]) + ", " +
                                    file_.path() + " has " + std::to_string(file_.num_pages()) + " pages");
      }
      requests[static_cast<std::size_t>(i)] = {&file_, pages[i]};
    }
    std::lock_guard<std::mutex> turn(mutex_);
    reader_->start(requests.data(), count, sink);
    reader_->finish();
  }

 private:
  std::mutex mutex_;  // one read at a time
  std::unique_ptr<PageReader> reader_;
  PageFile file_;
};

void read_pages(FileReader& reader, const AnyConstArray& pages, const AnyArray& out) {
  const auto* numbers = checked<std::int64_t>(pages, "pages", 1);
  auto* target = checked<std::uint8_t>(out, "out", 2);
  if (out.shape(0) != pages.shape(0) || out.shape(1) != static_cast<std::size_t>(kPageBytes)) {
    throw nb::value_error(
        ("out: expected shape [" + std::to_string(pages.shape(0)) + ", 4096], got " + shape_text(out))
            .c_str());
  }
  nb::gil_scoped_release release;
  reader.read(numbers, static_cast<std::int64_t>(pages.shape(0)), target);
}

}  // namespace

void bind_io(nb::module_& module) {
  nb::register_exception_translator(translate_io_error);

  module.def("crc32c", checksum, nb::arg("data"), nb::arg("seed") = 0,
             "CRC32C (Castagnoli) of a C-contiguous buffer. seed: the checksum of the bytes before it.");
  module.def("crc32c_zeros", crc32c_zeros, nb::arg("count"), nb::arg("seed") = 0,
             "CRC32C (Castagnoli) of count bytes of zeros. seed: the checksum of the bytes before them.");
  module.def(
      "crc32c_file", [](const Path& path) { return crc32c_file(path.string()); }, nb::arg("path"),
      nb::call_guard<nb::gil_scoped_release>(),
      "CRC32C (Castagnoli) of a whole file; holes count as zeros and are not read. Raises OSError.");
  module.def(
      "read_into",
      [](const Path& path, std::int64_t offset, const AnyArray& out) {
        auto* target = checked<std::uint8_t>(out, "out", 1);
        if (offset < 0) {
          throw nb::value_error(("offset: must not be negative, got " + std::to_string(offset)).c_str());
        }
        nb::gil_scoped_release release;
        read_into(path.string(), offset, target, out.shape(0));
      },
      nb::arg("path"), nb::arg("offset"), nb::arg("out"),
      "Fills out (uint8 [n]) with the file's bytes from offset. Raises OSError when the file ends before.");

  nb::class_<FileReader>(
      module, "PageReader",
      "Reads 4 KiB pages of one file past the page cache, many at a time.\n\n"
      "io: 'auto' (io_uring where the system lets us use it, else pread), 'io_uring' or "
      "'pread'.\nqueue_depth: reads in flight; each holds a 4 KiB buffer.\n\n"
      "Raises OSError when the file is missing or not of whole pages, or io_uring is refused.")
      .def(nb::init<const Path&, const std::string&, int>(), nb::arg("path"), nb::arg("io") = "auto",
           nb::arg("queue_depth") = kDefaultQueueDepth)
      .def_prop_ro("backend", &FileReader::backend, "'io_uring' or 'pread'.")
      .def_prop_ro("queue_depth", &FileReader::queue_depth, "Reads in flight at most.")
      .def_prop_ro("num_pages", &FileReader::num_pages, "Pages of 4096 bytes in the file.")
      .def_prop_ro("direct", &FileReader::direct,
                   "False when the file system refused O_DIRECT: reads go through the page cache.")
      .def("read", read_pages, nb::arg("pages"), nb::arg("out"),
           "Reads pages (int64 [n]) into out (uint8 [n, 4096]). Raises OSError naming file and page.");
}

}  // namespace screc::bindings
