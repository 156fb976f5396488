// How much memory this process may use.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace causeway {

struct MemoryLimit {
  int64_t bytes = 0;
  std::string source;  // "MemTotal of /proc/meminfo", or the file of the cgroup that says it
};

// The machine's memory, or less if a cgroup of the process, v1 or v2, or one around it says so.
// `root` stands before all paths: tests have trees of their own.
StatusOr<MemoryLimit> FindMemoryLimit(const std::string& root = "");

}  // namespace causeway
