// The bytes between StoreClient and StoreServer, private to them.
//
//   frame:    length (4 bytes), then that many bytes
//   first:    kStoreHello, then the token
//   request:  operation (1 byte), length of the key (4), key, then what the operation needs:
//             'S' the value; 'G' how long to wait in ms (8); 'A' what to add (8)
//   answer:   StoreAnswer (1 byte), then the value, the sum (8) or what is wrong
//
// Numbers are in the order of bytes of the machine: the hosts of one server are of one kind.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace causeway {

inline constexpr std::string_view kStoreHello = "causeway store 1\n";
inline constexpr int64_t kStoreTokenBytes = 1024;

enum class StoreAnswer : uint8_t { kOk = 0, kNotThere = 1, kWrong = 2, kRefused = 3 };

template <typename Number>
void AppendNumber(std::string& out, Number value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Takes a number off the front; false where there are too few bytes.
template <typename Number>
bool TakeNumber(std::string_view& in, Number& value) {
  if (in.size() < sizeof value) return false;
  std::memcpy(&value, in.data(), sizeof value);
  in.remove_prefix(sizeof value);
  return true;
}

inline std::string Frame(std::string_view body) {
  std::string frame;
  AppendNumber(frame, static_cast<uint32_t>(body.size()));
  frame += body;
  return frame;
}

}  // namespace causeway
