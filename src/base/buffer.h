// Buffer owns memory: aligned, move-only, zeroed unless said otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace causeway {

// Bytes aligned to 64 (to 2 MiB, with a hint for huge pages, from 4 MiB on) and set to zero.
// Throws StartError if the memory can't be had.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes);
  // The same, not set to anything: where the system gives out fresh pages, those that nobody writes
  // to take no memory.
  static Buffer Untouched(int64_t bytes);
  // As Buffer(bytes), on all NUMA nodes in turn (from 4 MiB on): for what all ranks of a host read.
  static Buffer Spread(int64_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  int64_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  // Takes every page now, so that none has to be fetched from the system inside a step.
  void Zero();

  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace causeway
