#include "app/out_of_memory.h"

#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <new>
#include <string_view>

namespace causeway {
namespace {

// Allocates nothing.
[[noreturn]] void OnTerminate() {
  try {
    if (std::current_exception() != nullptr) std::rethrow_exception(std::current_exception());
  } catch (const std::bad_alloc&) {
    constexpr std::string_view kMessage =
        "causeway: error: out of memory; the system or a limit (ulimit -v, a container's) gives no "
        "more\n";
    // If stderr takes nothing there is nobody to tell.
    const ssize_t written = write(STDERR_FILENO, kMessage.data(), kMessage.size());
    _exit(written < 0 ? 2 : 1);
  } catch (...) {
  }
  std::abort();
}

}  // namespace

void EndInOrderWhenOutOfMemory() { std::set_terminate(&OnTerminate); }

}  // namespace causeway
