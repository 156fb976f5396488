// Memory for kernel tests: an array that ends exactly at an unreadable page.
#pragma once

#include <cstdint>

namespace causeway {

// `bytes` bytes whose end is the end of a readable page, so that reading or writing one byte too
// far ends the test, on every build and for inline assembly too. What lies before the array on its
// first page holds a pattern, and so does the array itself at first. An array whose size is no
// multiple of 64 is not aligned to 64.
class GuardedBytes {
 public:
  explicit GuardedBytes(int64_t bytes);
  ~GuardedBytes();
  GuardedBytes(GuardedBytes&& other) noexcept;
  GuardedBytes& operator=(GuardedBytes&& other) = delete;
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  // Whether nothing was written before the array.
  bool intact() const;

 private:
  uint8_t* mapping_ = nullptr;
  int64_t mapped_ = 0;  // without the unreadable page
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

template <typename T>
class GuardedArray {
 public:
  explicit GuardedArray(int64_t count) : bytes_(count * static_cast<int64_t>(sizeof(T))) {}

  T* data() const { return static_cast<T*>(bytes_.data()); }
  int64_t size() const { return bytes_.bytes() / static_cast<int64_t>(sizeof(T)); }
  T& operator[](int64_t i) const { return data()[i]; }
  T* begin() const { return data(); }
  T* end() const { return data() + size(); }
  bool intact() const { return bytes_.intact(); }

 private:
  GuardedBytes bytes_;
};

}  // namespace causeway
