// What hosts tell each other beside tensors, as bytes: numbers and lists in order, and back.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace causeway {

// Bytes are in the machine's order: the hosts of one server are of one kind.
class WireWriter {
 public:
  void Put(int64_t value) { Append(&value, sizeof(value)); }
  void Put(const std::string& text) {
    Put(static_cast<int64_t>(text.size()));
    Append(text.data(), text.size());
  }
  template <typename T>
  void Put(const std::vector<T>& values) {
    static_assert(std::is_arithmetic_v<T>);
    Put(static_cast<int64_t>(values.size()));
    Append(values.data(), values.size() * sizeof(T));
  }
  std::string& bytes() { return bytes_; }

 private:
  void Append(const void* from, size_t count) {
    if (count > 0) bytes_.append(static_cast<const char*>(from), count);
  }
  std::string bytes_;
};

// Reads in the order of Put; false at the end of the bytes, which may hold anything.
class WireReader {
 public:
  // `bytes` must outlive this.
  explicit WireReader(const std::string& bytes) : bytes_(bytes) {}

  bool Get(int64_t& value) { return Take(&value, sizeof(value)); }
  bool Get(std::string& text) {
    size_t count = 0;
    if (!GetCount(1, count)) return false;
    text.resize(count);
    return Take(text.data(), count);
  }
  template <typename T>
  bool Get(std::vector<T>& values) {
    static_assert(std::is_arithmetic_v<T>);
    size_t count = 0;
    if (!GetCount(sizeof(T), count)) return false;
    values.resize(count);
    return Take(values.data(), count * sizeof(T));
  }
  // How many items follow, of at least `item_bytes` bytes each, so that no more are made than came.
  bool GetCount(size_t item_bytes, size_t& count) {
    int64_t value = 0;
    if (!Get(value) || value < 0) return false;
    count = static_cast<size_t>(value);
    return count <= (bytes_.size() - at_) / item_bytes;
  }
  bool AtEnd() const { return at_ == bytes_.size(); }

 private:
  bool Take(void* to, size_t count) {
    if (bytes_.size() - at_ < count) return false;
    if (count > 0) std::memcpy(to, bytes_.data() + at_, count);
    at_ += count;
    return true;
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

}  // namespace causeway
