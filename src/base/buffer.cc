#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/numa.h"

namespace causeway {
namespace {
constexpr int64_t kHugePage = int64_t{2} << 20;

// From two huge pages on: rounding up to whole ones then costs at most half as much again.
int64_t AlignmentOf(int64_t bytes) { return bytes >= 2 * kHugePage ? kHugePage : 64; }
size_t Rounded(int64_t bytes) {
  const int64_t alignment = AlignmentOf(bytes);
  return static_cast<size_t>((bytes + alignment - 1) / alignment * alignment);
}

}  // namespace

Buffer Buffer::Untouched(int64_t bytes) {
  CHECK(bytes >= 0, bytes);
  Buffer out;
  if (bytes == 0) return out;
  out.data_ = std::aligned_alloc(static_cast<size_t>(AlignmentOf(bytes)), Rounded(bytes));
  if (out.data_ == nullptr) throw StartError(Text("out of memory: can't get ", bytes, " bytes"));
  out.bytes_ = bytes;
  // Only a hint: where huge pages are off, it fails and small ones serve.
  if (AlignmentOf(bytes) == kHugePage) madvise(out.data_, Rounded(bytes), MADV_HUGEPAGE);
  return out;
}

Buffer::Buffer(int64_t bytes) : Buffer(Untouched(bytes)) { Zero(); }

Buffer Buffer::Spread(int64_t bytes) {
  Buffer out = Untouched(bytes);
  if (AlignmentOf(bytes) == kHugePage)
    SpreadOverNodes(out.data_, static_cast<int64_t>(Rounded(bytes)));
  out.Zero();
  return out;
}

void Buffer::Zero() {
  if (bytes_ > 0) std::memset(data_, 0, Rounded(bytes_));
}

Buffer::~Buffer() { std::free(data_); }

}  // namespace causeway
