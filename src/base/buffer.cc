#include "base/buffer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/numa.h"

namespace causeway {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kMadviseCollapse = 25;  // MADV_COLLAPSE, Linux 6.1; older ones refuse it

// From two huge pages on: rounding up to whole ones then costs at most half as much again.
int64_t AlignmentOf(int64_t bytes) {
  constexpr auto kHuge = static_cast<int64_t>(kHugePage);
  return bytes >= 2 * kHuge ? kHuge : 64;
}
size_t Rounded(int64_t bytes) {
  const int64_t alignment = AlignmentOf(bytes);
  return static_cast<size_t>((bytes + alignment - 1) / alignment * alignment);
}
size_t SmallPage() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// Maps `bytes`, whole huge pages, to a border of huge pages; null, with errno, if it can't be had.
void* MapHuge(size_t bytes, int flags, int fd) {
  // mmap aligns to small pages only: a larger range is reserved and its ends given back.
  void* const range = mmap(nullptr, bytes + kHugePage, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(range);
  const uintptr_t end = begin + bytes + kHugePage;
  // The upper end of the range: Linux places ranges downwards, so the next one lies right below,
  // and the kernel, which allows a process 65530 mappings, makes them one.
  const uintptr_t aligned = begin / kHugePage * kHugePage + kHugePage;
  munmap(range, aligned - begin);
  if (aligned + bytes < end) {
    munmap(reinterpret_cast<void*>(aligned + bytes), end - aligned - bytes);
  }
  void* const data = mmap(reinterpret_cast<void*>(aligned), bytes, PROT_READ | PROT_WRITE,
                          flags | MAP_FIXED, fd, 0);
  if (data != MAP_FAILED) return data;
  const int error = errno;
  munmap(reinterpret_cast<void*>(aligned), bytes);
  errno = error;
  return nullptr;
}

// Makes huge pages of shared memory that is spread over nodes and has no pages yet.
void CollapseShared(char* data, size_t bytes) {
  // By default Linux gives shared memory small pages whatever was advised (shmem_enabled). Those
  // that exist it collapses on demand: one in each huge page is enough, and the huge page lies on
  // the node of that one. Small pages take turns among the nodes, and huge pages shall too: in huge
  // page h it is a small page whose number leaves the remainder h. With 3 nodes and 512 small
  // pages in a huge one: pages 0, 512 + 2, 1024 + 1, 1536 + 0, ...
  const size_t nodes = std::max<size_t>(1, MemoryNodes().size());
  const size_t pages = kHugePage / SmallPage();
  for (size_t h = 0; h * kHugePage < bytes; ++h) {
    const size_t turn = (h + nodes - h * pages % nodes) % nodes;
    data[h * kHugePage + turn % pages * SmallPage()] = 0;
  }
  madvise(data, bytes, kMadviseCollapse);
}

}  // namespace

Buffer Buffer::Untouched(int64_t bytes) {
  CHECK(bytes >= 0, bytes);
  Buffer out;
  if (bytes == 0) return out;
  const size_t rounded = Rounded(bytes);
  const bool huge = AlignmentOf(bytes) == kHugePage;
  // Never large memory from the heap: malloc gives out pages again that lie where somebody else
  // wrote them first, and free would leave the policy of spread memory on pages for others.
  out.data_ = huge ? MapHuge(rounded, MAP_PRIVATE | MAP_ANONYMOUS, -1)
                   : std::aligned_alloc(static_cast<size_t>(AlignmentOf(bytes)), rounded);
  if (out.data_ == nullptr) throw StartError(Text("out of memory: can't get ", bytes, " bytes"));
  out.bytes_ = bytes;
  if (huge) {
    out.mapped_bytes_ = static_cast<int64_t>(rounded);
    // Only a hint: where huge pages are off, it fails and small ones serve.
    madvise(out.data_, rounded, MADV_HUGEPAGE);
  }
  return out;
}

Buffer::Buffer(int64_t bytes) : Buffer(Untouched(bytes)) { Zero(); }

Buffer Buffer::Spread(int64_t bytes) {
  Buffer out = Untouched(bytes);
  SpreadOverNodes(out.data_, out.mapped_bytes_);
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
  const bool huge = AlignmentOf(bytes) == kHugePage;
  void* const data =
      huge ? MapHuge(rounded, MAP_SHARED, out.shared_fd_)
           : mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_SHARED, out.shared_fd_, 0);
  if (data == nullptr || data == MAP_FAILED) throw fail();
  out.data_ = data;
  out.mapped_bytes_ = static_cast<int64_t>(rounded);
  out.bytes_ = bytes;
  if (huge) {
    madvise(out.data_, rounded, MADV_HUGEPAGE);
    SpreadOverNodes(out.data_, out.mapped_bytes_);
    CollapseShared(out.as<char>(), rounded);
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
  if (mapped_bytes_ > 0) {
    // Zero already: to be written once is enough.
    volatile char* const data = as<char>();
    for (size_t at = 0; at < Rounded(bytes_); at += SmallPage()) data[at] = 0;
  } else if (bytes_ > 0) {
    std::memset(data_, 0, Rounded(bytes_));
  }
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
