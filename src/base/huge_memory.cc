#include "base/huge_memory.h"

#include <utility>

#include "base/check.h"

namespace causeway {
namespace {
constexpr int64_t kBlock = int64_t{64} << 20;
}  // namespace

void* HugeMemory::Take(int64_t bytes) {
  CHECK(bytes >= 0, bytes);
  const int64_t rounded = (bytes + 63) / 64 * 64;
  const std::lock_guard lock(mutex_);
  // A large array has a block of its own, so that no end of a block is lost that small ones can
  // use.
  if (rounded > kBlock / 8) return blocks_.emplace_back(Buffer::Spread(rounded)).data();
  if (rounded > left_) {
    next_ = blocks_.emplace_back(Buffer::Spread(kBlock)).as<char>();
    left_ = kBlock;
  }
  left_ -= rounded;
  return std::exchange(next_, next_ + rounded);
}

}  // namespace causeway
