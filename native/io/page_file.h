// Files as they are read here: whole, a range, or 4 KiB pages past the page cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "io/io_error.h"

namespace screc {

inline constexpr std::int64_t kPageBytes = 4096;

// Owns a file descriptor.
class FileHandle {
 public:
  FileHandle() = default;
  explicit FileHandle(int fd) : fd_(fd) {}
  ~FileHandle();
  FileHandle(FileHandle&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileHandle& operator=(FileHandle&& other) noexcept;
  FileHandle(const FileHandle&) = delete;
  FileHandle& operator=(const FileHandle&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

// Opens for reading; `flags` are added to O_RDONLY | O_CLOEXEC. Throws IoError.
FileHandle open_file(const std::string& path, int flags = 0);

// Fills `out` from `offset` of the file. Throws IoError when the file ends before.
void read_into(const std::string& path, std::int64_t offset, void* out, std::size_t size);

// CRC32C of the whole file, its holes counting as zeros without being read. Throws IoError.
std::uint32_t crc32c_file(const std::string& path);

// A file of whole 4 KiB pages, opened with O_DIRECT where the file system takes it.
class PageFile {
 public:
  // Throws IoError when the file cannot be opened, or its size is not a multiple of 4096.
  explicit PageFile(const std::string& path);

  // Reads one page into 4096-aligned memory, waiting for it. Throws IoError naming file and page.
  void read_page(std::int64_t page, void* out) const;

  // The error of a read that ended with `code`.
  IoError read_error(std::int64_t page, int code) const;

  const std::string& path() const { return path_; }
  std::int64_t num_pages() const { return num_pages_; }
  int fd() const { return file_.fd(); }
  // False when the file system refused O_DIRECT and reads go through the page cache.
  bool direct() const { return direct_; }

 private:
  std::string path_;
  FileHandle file_;
  std::int64_t num_pages_ = 0;
  bool direct_ = true;
};

}  // namespace screc
