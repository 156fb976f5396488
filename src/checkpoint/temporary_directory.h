// A directory for one test or command, removed with all it holds at the end.
#pragma once

#include <stdlib.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/check.h"

namespace causeway {

class TemporaryDirectory {
 public:
  // Throws StartError if it can't be made.
  TemporaryDirectory() {
    std::string pattern = std::filesystem::temp_directory_path() / "causeway.XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) {
      throw StartError(Text("can't make the directory ", pattern, ": ", std::strerror(errno)));
    }
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  // Writes a file with these bytes and returns its path.
  std::string Put(const std::string& name, const std::string& bytes) const {
    std::ofstream(File(name), std::ios::binary) << bytes;
    return File(name);
  }

 private:
  std::string path_;
};

}  // namespace causeway
