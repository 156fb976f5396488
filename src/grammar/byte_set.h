// A set of bytes.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>

namespace causeway {

class ByteSet {
 public:
  ByteSet() = default;
  static ByteSet Range(int first, int last) {
    ByteSet out;
    for (int byte = first; byte <= last; ++byte) out.Add(byte);
    return out;
  }

  void Add(int byte) { words_[static_cast<size_t>(byte >> 6)] |= uint64_t{1} << (byte & 63); }
  bool Has(int byte) const {
    return (words_[static_cast<size_t>(byte >> 6)] >> (byte & 63) & 1) != 0;
  }
  void Unite(const ByteSet& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  }
  auto operator<=>(const ByteSet&) const = default;

 private:
  std::array<uint64_t, 4> words_{};
};

}  // namespace causeway
