#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace causeway {
namespace {
constexpr int64_t kHugePage = int64_t{2} << 20;
}

Buffer::Buffer(int64_t bytes) : bytes_(bytes) {
  CHECK(bytes >= 0, bytes);
  if (bytes == 0) return;
  // From two huge pages on: rounding up to whole ones then costs at most half as much again.
  const int64_t alignment = bytes >= 2 * kHugePage ? kHugePage : 64;
  const int64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  data_ = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(rounded));
  if (data_ == nullptr) throw StartError(Text("out of memory: can't get ", bytes, " bytes"));
  // Only a hint: where huge pages are off, it fails and small ones serve.
  if (alignment == kHugePage) madvise(data_, static_cast<size_t>(rounded), MADV_HUGEPAGE);
  // Takes every page now, so that none has to be fetched from the system inside a step.
  std::memset(data_, 0, static_cast<size_t>(rounded));
}

Buffer::~Buffer() { std::free(data_); }

}  // namespace causeway
