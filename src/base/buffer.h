// Buffer owns memory: aligned, move-only, zeroed unless said otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace causeway {

// Bytes aligned to 64 and set to zero; from 4 MiB on fresh from the system, aligned to 2 MiB and
// with a hint for huge pages. Throws StartError if the memory can't be had.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes);
  // The same, not set to anything. From 4 MiB on, each page lies on the NUMA node of the thread
  // that first writes to it, and takes no memory if none does.
  static Buffer Untouched(int64_t bytes);
  // As Buffer(bytes), on all NUMA nodes in turn (from 4 MiB on): for what all ranks of a host read.
  static Buffer Spread(int64_t bytes);
  // As Spread, in memory that other processes can map (ReadOnly) for as long as this object lives.
  // In huge pages from Linux 6.1 on.
  static Buffer Shared(int64_t bytes);
  // The first `bytes` bytes of the memory behind another process' shared_fd(), to be read only.
  // `fd` may be closed afterwards. kInvalidArgument where it is no such memory, or could shrink.
  static StatusOr<Buffer> ReadOnly(int fd, int64_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        mapped_bytes_(std::exchange(other.mapped_bytes_, 0)),
        shared_fd_(std::exchange(other.shared_fd_, -1)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_bytes_, other.mapped_bytes_);
    std::swap(shared_fd_, other.shared_fd_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  int64_t bytes() const { return bytes_; }
  // The descriptor of Shared memory; -1: of this process alone, or empty.
  int shared_fd() const { return shared_fd_; }
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  // Sets all to zero and takes every page now, so that none has to be fetched from the system
  // inside a step.
  void Zero();

  void* data_ = nullptr;
  int64_t bytes_ = 0;
  int64_t mapped_bytes_ = 0;  // of mmap; 0: from the heap
  int shared_fd_ = -1;
};

}  // namespace causeway
