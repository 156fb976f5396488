#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace causeway {

// abort() and not exit(): nothing runs after it on a state that is broken.
void CheckFailed(const char* file, int line, const char* condition, const std::string& values) {
  std::fprintf(stderr, "%s:%d: check failed: %s %s\n", file, line, condition, values.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace causeway
