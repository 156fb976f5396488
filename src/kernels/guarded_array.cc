// Arrays that end right before a page without access: a read or write past the end is a fault at
// once, in any build. Before the array lies a pattern, which intact() compares.
#include "kernels/guarded_array.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace causeway {
namespace {

int64_t PageBytes() { return sysconf(_SC_PAGESIZE); }

constexpr uint8_t kPattern = 0xa5;  // as f32 a small negative number, as bf16 too

}  // namespace

GuardedBytes::GuardedBytes(int64_t bytes) : bytes_(bytes) {
  const int64_t page = PageBytes();
  // At least one page, so that an empty array has an address as well.
  mapped_ = std::max<int64_t>(1, (bytes + page - 1) / page) * page;
  void* memory = mmap(nullptr, static_cast<size_t>(mapped_ + page), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED, bytes, " bytes");
  mapping_ = static_cast<uint8_t*>(memory);
  CHECK(mprotect(mapping_ + mapped_, static_cast<size_t>(page), PROT_NONE) == 0, "mprotect");
  // At the end of its pages: running off the end is the likelier mistake.
  data_ = mapping_ + mapped_ - bytes;
  std::memset(mapping_, kPattern, static_cast<size_t>(mapped_));
}

GuardedBytes::~GuardedBytes() {
  if (mapping_ != nullptr) munmap(mapping_, static_cast<size_t>(mapped_ + PageBytes()));
}

GuardedBytes::GuardedBytes(GuardedBytes&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_(other.mapped_),
      data_(other.data_),
      bytes_(other.bytes_) {}

bool GuardedBytes::intact() const {
  return std::all_of(mapping_, data_, [](uint8_t byte) { return byte == kPattern; });
}

}  // namespace causeway
