#include "io/page_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/aligned_buffer.h"
#include "base/crc32c.h"

namespace screc {
namespace {

// Reads until `size` bytes or the end of the file; returns the bytes read or -errno.
std::int64_t read_fully(int fd, char* out, std::int64_t size, std::int64_t offset) {
  // A call may return less than asked (at most 2 GiB); only 0 means the end.
  std::int64_t got = 0;
  while (got < size) {
    const ssize_t n = ::pread(fd, out + got, static_cast<std::size_t>(size - got), offset + got);
    if (n > 0) {
      got += n;
    } else if (n == 0) {
      break;
    } else if (errno != EINTR) {
      return -errno;
    }
  }
  return got;
}

std::int64_t file_size(int fd, const std::string& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) throw IoError::from_errno("read the size of", path, errno);
  if (!S_ISREG(status.st_mode)) throw IoError("cannot read " + path + ": it is not a regular file");
  return status.st_size;
}

// Where the next hole (SEEK_HOLE) or data (SEEK_DATA) of a file of `size` bytes begins, from `offset` on.
// Where the file system cannot tell, all is data.
std::int64_t next(int fd, std::int64_t offset, std::int64_t size, int whence) {
  const off_t found = ::lseek(fd, offset, whence);
  if (found >= 0) return std::min<std::int64_t>(found, size);
  return whence == SEEK_DATA && errno != ENXIO ? offset : size;
}

}  // namespace

FileHandle::~FileHandle() {
  if (fd_ >= 0) ::close(fd_);
}

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileHandle open_file(const std::string& path, int flags) {
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
    if (fd >= 0) return FileHandle(fd);
    if (errno != EINTR) throw IoError::from_errno("open", path, errno);
  }
}

void read_into(const std::string& path, std::int64_t offset, void* out, std::size_t size) {
  const FileHandle file = open_file(path);
  const auto wanted = static_cast<std::int64_t>(size);
  const std::int64_t got = read_fully(file.fd(), static_cast<char*>(out), wanted, offset);
  if (got < 0) throw IoError::from_errno("read", path, static_cast<int>(-got));
  if (got < wanted) {
    throw IoError("file " + path + " is truncated: it ends at byte " + std::to_string(offset + got) +
                  ", expected " + std::to_string(wanted) + " bytes from byte " + std::to_string(offset));
  }
}

std::uint32_t crc32c_file(const std::string& path) {
  const FileHandle file = open_file(path);
  const std::int64_t size = file_size(file.fd(), path);  // refuses directories
  ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_SEQUENTIAL);
  const AlignedBuffer buffer(std::size_t{1} << 20);
  std::uint32_t crc = 0;
  std::int64_t offset = 0;
  while (offset < size) {
    const std::int64_t data = next(file.fd(), offset, size, SEEK_DATA);
    crc = crc32c_zeros(static_cast<std::uint64_t>(data - offset), crc);
    const std::int64_t hole = next(file.fd(), data, size, SEEK_HOLE);
    for (offset = data; offset < hole;) {
      const auto wanted = std::min(hole - offset, static_cast<std::int64_t>(buffer.size()));
      const std::int64_t got = read_fully(file.fd(), buffer.as<char>(), wanted, offset);
      if (got < 0) throw IoError::from_errno("read", path, static_cast<int>(-got));
      if (got == 0) return crc;  // it was cut meanwhile
      crc = crc32c(buffer.data(), static_cast<std::size_t>(got), crc);
      offset += got;
    }
  }
  return crc;
}

PageFile::PageFile(const std::string& path) : path_(path) {
  try {
    file_ = open_file(path, O_DIRECT);
  } catch (const IoError& error) {
    if (error.code() != EINVAL) throw;
    direct_ = false;
    file_ = open_file(path);
  }
  const std::int64_t size = file_size(file_.fd(), path);
  if (size % kPageBytes != 0) {
    throw IoError("file " + path + " is truncated: its " + std::to_string(size) +
                  " bytes are not whole pages of 4096");
  }
  num_pages_ = size / kPageBytes;
  if (direct_ && num_pages_ > 0) {
    // Some file systems take the flag and refuse the reads (a larger alignment, an overlay).
    const AlignedBuffer probe(kPageBytes);
    if (read_fully(file_.fd(), probe.as<char>(), kPageBytes, 0) == -EINVAL) {
      direct_ = false;
      file_ = open_file(path);
    }
  }
}

IoError PageFile::read_error(std::int64_t page, int code) const {
  return IoError::from_errno("read page " + std::to_string(page) + " of", path_, code);
}

void PageFile::read_page(std::int64_t page, void* out) const {
  const std::int64_t got = read_fully(file_.fd(), static_cast<char*>(out), kPageBytes, page * kPageBytes);
  if (got < 0) throw read_error(page, static_cast<int>(-got));
  if (got < kPageBytes) {
    throw IoError("page " + std::to_string(page) + " of " + path_ + " is truncated: " + std::to_string(got) +
                  " of 4096 bytes");
  }
}

}  // namespace screc
