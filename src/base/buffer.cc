#include "base/buffer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/numa.h"

namespace causeway {
namespace {
constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int kMadviseCollapse = 25;  // MADV_COLLAPSE, Linux 6.1; older ones refuse it

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

Buffer Buffer::Shared(int64_t bytes) {
  CHECK(bytes >= 0, bytes);
  Buffer out;
  if (bytes == 0) return out;
  const size_t rounded = Rounded(bytes);
  const auto fail = [&] {
    return StartError(Text("can't get ", bytes, " bytes of shared memory: ", std::strerror(errno)));
  };
  out.shared_fd_ = memfd_create("causeway", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  // Sealed against shrinking: who maps it can't be made to touch pages that are gone.
  if (out.shared_fd_ < 0 || ftruncate(out.shared_fd_, static_cast<off_t>(rounded)) != 0 ||
      fcntl(out.shared_fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    throw fail();
  }
  // mmap aligns to small pages only: a larger range is reserved and its ends given back.
  const size_t alignment = static_cast<size_t>(AlignmentOf(bytes));
  const size_t slack = alignment > 64 ? alignment : 0;
  void* const range = mmap(nullptr, rounded + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (range == MAP_FAILED) throw fail();
  const auto begin = reinterpret_cast<uintptr_t>(range);
  const uintptr_t aligned = slack == 0 ? begin : (begin + slack - 1) / slack * slack;
  if (aligned > begin) munmap(range, aligned - begin);
  if (aligned - begin < slack) {
    munmap(reinterpret_cast<void*>(aligned + rounded), slack - (aligned - begin));
  }
  out.data_ = mmap(reinterpret_cast<void*>(aligned), rounded, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_FIXED, out.shared_fd_, 0);
  if (out.data_ == MAP_FAILED) {
    out.data_ = nullptr;
    throw fail();
  }
  out.mapped_bytes_ = static_cast<int64_t>(rounded);
  out.bytes_ = bytes;
  if (slack > 0) {
    madvise(out.data_, rounded, MADV_HUGEPAGE);
    SpreadOverNodes(out.data_, out.mapped_bytes_);
    // By default Linux gives shared memory small pages whatever was advised (shmem_enabled). Those
    // that exist it collapses on demand: one in each huge page is enough.
    for (size_t i = 0; i < rounded; i += slack) out.as<char>()[i] = 0;
    madvise(out.data_, rounded, kMadviseCollapse);
  }
  out.Zero();
  return out;
}

StatusOr<Buffer> Buffer::ReadOnly(int fd, int64_t bytes) {
  CHECK(bytes > 0, bytes);
  struct stat file {};
  if (fstat(fd, &file) != 0) {
    return InvalidArgument(Text("can't look at shared memory: ", std::strerror(errno)));
  }
  if (file.st_size < bytes) {
    return InvalidArgument(
        Text("shared memory has ", file.st_size, " bytes; expected at least ", bytes));
  }
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return InvalidArgument("shared memory is not sealed against shrinking");
  }
  Buffer out;
  void* const data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    return Unavailable(Text("can't map shared memory: ", std::strerror(errno)));
  }
  out.data_ = data;
  out.bytes_ = bytes;
  out.mapped_bytes_ = bytes;
  return out;
}

void Buffer::Zero() {
  if (bytes_ > 0) std::memset(data_, 0, Rounded(bytes_));
}

Buffer::~Buffer() {
  if (mapped_bytes_ > 0) {
    munmap(data_, static_cast<size_t>(mapped_bytes_));
  } else {
    std::free(data_);
  }
  if (shared_fd_ >= 0) close(shared_fd_);
}

}  // namespace causeway
