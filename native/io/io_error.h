// A file that cannot be read, or whose bytes are not what they should be. The text names the file.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>

namespace screc {

class IoError : public std::runtime_error {
 public:
  // `code` is the errno of the failed call, 0 when no call failed (a short or damaged file).
  explicit IoError(const std::string& text, int code = 0) : std::runtime_error(text), code_(code) {}
  // "cannot WHAT FILE: REASON"
  static IoError from_errno(const std::string& what, const std::string& path, int code) {
    return IoError("cannot " + what + " " + path + ": " + std::strerror(code), code);
  }
  int code() const { return code_; }

 private:
  int code_;
};

}  // namespace screc
