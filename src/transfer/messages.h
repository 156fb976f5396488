// The messages of a transfer, and their bytes. docs/disaggregation.md says who sends what when.
//
// A frame is a header of 16 bytes and `length` bytes of body; all numbers are little-endian:
//   u32 magic, u16 version, u16 type, u32 length, u32 zero
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/status.h"
#include "parallel/layout.h"
#include "transfer/rank_map.h"

namespace causeway {

inline constexpr uint32_t kTransferMagic = 0x564b5743;  // "CWKV"
inline constexpr uint16_t kTransferVersion = 2;
inline constexpr int64_t kFrameHeaderBytes = 16;
inline constexpr int64_t kMaxStatusText = 4096;
inline constexpr int64_t kMaxMetadata = int64_t{1} << 20;
inline constexpr int64_t kMaxRunBytes = int64_t{16} << 20;

enum class MessageType : uint16_t {
  kHello = 1,
  kBye,          // the connection ends, and why
  kOpen,         // decode -> prefill: send me this room
  kAccepted,     // prefill -> decode: it will be sent
  kRefused,      // prefill -> decode: it will not
  kRun,          // prefill -> decode: keys of some tokens of a layer, in the message
  kRunInMemory,  // the same, to be copied from the prefill cache by the decode host itself
  kDone,         // prefill -> decode: that was all from this host
  kAck,          // decode -> prefill: all of it is in place
  kReleased,     // prefill -> decode: and it was valid until then
  kCancel,       // both ways: the room is over, and why
  kPing,
  kPong,
  kReport,  // another host of a server -> its host 0: how its part of a room has ended
};
inline constexpr int kMessageTypes = 15;  // numbers below

const char* NameOf(MessageType type);

// How keys travel. auto: through shared memory where the decode host can map the prefill host's
// cache, else by UCX where both hosts have RDMA, else by TCP. Where one side insists on what the
// other can't do or does not want, rooms are refused.
enum class TransferBackend : uint8_t { kAuto, kTcp, kSharedMemory, kUcx };

// 128 random bits; two servers, or two lives of one, never have the same.
struct ServerId {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const ServerId&) const = default;
  bool empty() const { return high == 0 && low == 0; }
  static ServerId Random();
};

// A room as one decode server has opened it. `ticket` differs each time, so that what is still
// under way for an earlier opening can't be taken for the new one's.
struct RoomKey {
  uint64_t room = 0;
  uint64_t ticket = 0;
  bool operator==(const RoomKey&) const = default;
};

enum class TransferRole : uint8_t {
  kPrefill,   // who sends keys, and listens
  kDecode,    // who connects, and receives them
  kFollower,  // another host of the same server, which connects to host 0 to report
};

// Writes fields in the order in which they are visited.
class MessageWriter {
 public:
  template <typename T>
  void Number(T& value) {
    using Raw = std::make_unsigned_t<typename RawOf<T>::type>;
    const auto raw = static_cast<Raw>(value);
    for (size_t i = 0; i < sizeof(Raw); ++i) {
      bytes_.push_back(static_cast<char>(static_cast<uint64_t>(raw) >> (8 * i)));
    }
  }
  void Number(bool& value) { bytes_.push_back(value ? 1 : 0); }
  void Bytes(std::string& text, int64_t limit);  // cut at the limit
  template <typename Item, typename Visit>
  void List(std::vector<Item>& items, int64_t limit, const Visit& visit) {
    CHECK(static_cast<int64_t>(items.size()) <= limit, items.size(), " ", limit);
    auto count = static_cast<uint32_t>(items.size());
    Number(count);
    for (Item& item : items) visit(item);
  }
  template <typename T, bool = std::is_enum_v<T>>
  struct RawOf {
    using type = T;
  };
  template <typename T>
  struct RawOf<T, true> {
    using type = std::underlying_type_t<T>;
  };

  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads them again; whatever the bytes, it reads no others and makes no list longer than they are.
class MessageReader {
 public:
  explicit MessageReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  void Number(T& value) {
    using Raw = std::make_unsigned_t<typename MessageWriter::RawOf<T>::type>;
    uint64_t raw = 0;
    if (!good_ || bytes_.size() < sizeof(Raw)) {
      good_ = false;
      return;
    }
    for (size_t i = 0; i < sizeof(Raw); ++i) {
      raw |= static_cast<uint64_t>(static_cast<unsigned char>(bytes_[i])) << (8 * i);
    }
    bytes_.remove_prefix(sizeof(Raw));
    value = static_cast<T>(static_cast<Raw>(raw));
  }
  void Number(bool& value) {
    uint8_t raw = 0;
    Number(raw);
    good_ = good_ && raw <= 1;
    value = raw == 1;
  }
  void Bytes(std::string& text, int64_t limit);
  template <typename Item, typename Visit>
  void List(std::vector<Item>& items, int64_t limit, const Visit& visit) {
    uint32_t count = 0;
    Number(count);
    items.clear();
    if (!good_ || count > limit) {
      good_ = false;
      return;
    }
    for (uint32_t i = 0; i < count && good_; ++i) visit(items.emplace_back());
  }
  bool AllRead() const { return good_ && bytes_.empty(); }

 private:
  std::string_view bytes_;
  bool good_ = true;
};

template <typename Visitor>
void VisitKey(Visitor& v, RoomKey& key) {
  v.Number(key.room);
  v.Number(key.ticket);
}
template <typename Visitor>
void VisitStatus(Visitor& v, StatusCode& code, std::string& text) {
  v.Number(code);
  v.Bytes(text, kMaxStatusText);
}

// Where the memory of a prefill host's cache can be found by processes of the same machine.
struct MemoryHandle {
  int64_t pid = 0;  // 0: there is none
  int32_t latents_fd = -1;
  int32_t index_keys_fd = -1;  // -1 without index keys
  int32_t proof_fd = -1;  // memory that holds `proof`, so that no other process is taken for it
  ServerId proof;
};

// Where a prefill host can be reached by UCX, at the address of its link.
struct UcxHandle {
  uint32_t version = 0;  // of the library, major << 16 | minor; 0: it can't
  bool rdma = false;     // the host has a device for it
  int32_t port = 0;
  template <typename Visitor>
  void Visit(Visitor& v) {
    v.Number(version);
    v.Number(rdma);
    v.Number(port);
  }
};

struct HelloMessage {
  static constexpr MessageType kType = MessageType::kHello;
  TransferRole role = TransferRole::kPrefill;
  ServerId server;
  int32_t host = 0;
  Layout layout;  // cp, dp, tp and hosts
  TransferSide side;
  int64_t pages = 0;
  bool checksum = false;
  std::vector<std::string> addresses = {};  // of host 0 of a prefill server: of all its hosts
  MemoryHandle memory = {};
  TransferBackend backend = TransferBackend::kAuto;  // what its flag says
  UcxHandle ucx = {};

  template <typename Visitor>
  void Visit(Visitor& v) {
    v.Number(role);
    v.Number(server.high);
    v.Number(server.low);
    v.Number(host);
    v.Number(layout.cp);
    v.Number(layout.dp);
    v.Number(layout.tp);
    v.Number(layout.hosts);
    v.Number(side.shape.layers);
    v.Number(side.shape.latent_dim);
    v.Number(side.shape.index_dim);
    v.Number(side.shape.type);
    v.Number(side.shape.int8_index);
    v.Number(side.shape.int8_kv);
    v.Number(side.page_tokens);
    v.Bytes(side.model, 4096);
    v.Number(pages);
    v.Number(checksum);
    v.List(addresses, 1024, [&](std::string& each) { v.Bytes(each, 512); });
    v.Number(memory.pid);
    v.Number(memory.latents_fd);
    v.Number(memory.index_keys_fd);
    v.Number(memory.proof_fd);
    v.Number(memory.proof.high);
    v.Number(memory.proof.low);
    v.Number(backend);
    ucx.Visit(v);
  }
  Status Check() const;
};

struct ByeMessage {
  static constexpr MessageType kType = MessageType::kBye;
  StatusCode code = StatusCode::kUnavailable;
  std::string text;
  template <typename Visitor>
  void Visit(Visitor& v) {
    VisitStatus(v, code, text);
  }
  Status Check() const;
};

struct OpenMessage {
  static constexpr MessageType kType = MessageType::kOpen;
  RoomKey key;
  int64_t prompt_tokens = 0;
  int64_t skip =
      0;           // tokens [0, skip) are there already; all of them: nothing but the end is wanted
  int32_t dp = 0;  // the decode server's group
  // How the keys are to come: but for kTcp as kRunInMemory. Not kAuto.
  TransferBackend backend = TransferBackend::kTcp;
  template <typename Visitor>
  void Visit(Visitor& v) {
    VisitKey(v, key);
    v.Number(prompt_tokens);
    v.Number(skip);
    v.Number(dp);
    v.Number(backend);
  }
  Status Check() const;
};

struct AcceptedMessage {
  static constexpr MessageType kType = MessageType::kAccepted;
  RoomKey key;
  int32_t dp = 0;  // the prefill server's group
  template <typename Visitor>
  void Visit(Visitor& v) {
    VisitKey(v, key);
    v.Number(dp);
  }
  Status Check() const { return Status(); }
};

// Of kRefused and kCancel.
template <MessageType type>
struct RoomEndMessage {
  static constexpr MessageType kType = type;
  RoomKey key;
  StatusCode code = StatusCode::kCancelled;
  std::string text;
  template <typename Visitor>
  void Visit(Visitor& v) {
    VisitKey(v, key);
    VisitStatus(v, code, text);
  }
  Status Check() const;
};
using RefusedMessage = RoomEndMessage<MessageType::kRefused>;
using CancelMessage = RoomEndMessage<MessageType::kCancel>;

// Tokens [first, first + count) of a layer.
struct RunHeader {
  RoomKey key;
  int64_t first = 0;
  int32_t count = 0;
  int32_t layer = 0;
  template <typename Visitor>
  void Visit(Visitor& v) {
    VisitKey(v, key);
    v.Number(first);
    v.Number(count);
    v.Number(layer);
  }
  Range tokens() const { return {first, first + count}; }
};
inline constexpr int64_t kRunHeaderBytes = 32;

// A kRun is a RunHeader, `count` latent rows, `count` index keys, and this. It comes last so that a
// run can still be taken back when a part of it has been sent.
struct RunTrailer {
  uint64_t checksum = 0;
  bool valid = true;
  template <typename Visitor>
  void Visit(Visitor& v) {
    v.Number(checksum);
    v.Number(valid);
  }
};
inline constexpr int64_t kRunTrailerBytes = 9;

struct RunInMemoryMessage {
  static constexpr MessageType kType = MessageType::kRunInMemory;
  RunHeader run;
  uint64_t checksum = 0;
  std::vector<int32_t> pages;  // of the prefill cache: [first / 64, (first + count - 1) / 64]
  template <typename Visitor>
  void Visit(Visitor& v) {
    run.Visit(v);
    v.Number(checksum);
    v.List(pages, 1 << 20, [&](int32_t& page) { v.Number(page); });
  }
  Status Check() const;
};

struct DoneMessage {
  static constexpr MessageType kType = MessageType::kDone;
  RoomKey key;
  int64_t token_layers = 0;  // sent by this host: tokens, counted once a layer
  std::string metadata;      // of the prefill engine for the decode engine; host 0's counts
  template <typename Visitor>
  void Visit(Visitor& v) {
    VisitKey(v, key);
    v.Number(token_layers);
    v.Bytes(metadata, kMaxMetadata);
  }
  Status Check() const { return Status(); }
};

// Of kAck and kReleased.
template <MessageType type>
struct RoomMessage {
  static constexpr MessageType kType = type;
  RoomKey key;
  template <typename Visitor>
  void Visit(Visitor& v) {
    VisitKey(v, key);
  }
  Status Check() const { return Status(); }
};
using AckMessage = RoomMessage<MessageType::kAck>;
using ReleasedMessage = RoomMessage<MessageType::kReleased>;

// Of kPing and kPong.
template <MessageType type>
struct BeatMessage {
  static constexpr MessageType kType = type;
  uint64_t stamp = 0;
  template <typename Visitor>
  void Visit(Visitor& v) {
    v.Number(stamp);
  }
  Status Check() const { return Status(); }
};
using PingMessage = BeatMessage<MessageType::kPing>;
using PongMessage = BeatMessage<MessageType::kPong>;

struct ReportMessage {
  static constexpr MessageType kType = MessageType::kReport;
  uint64_t room = 0;
  int64_t bytes = 0;
  StatusCode code = StatusCode::kOk;
  std::string text;
  template <typename Visitor>
  void Visit(Visitor& v) {
    v.Number(room);
    v.Number(bytes);
    VisitStatus(v, code, text);
  }
  Status Check() const;
};

// The bytes of anything with Visit.
template <typename T>
std::string FieldsOf(T value) {
  MessageWriter writer;
  value.Visit(writer);
  return writer.Take();
}

struct FrameHeader {
  MessageType type = MessageType::kPing;
  int64_t length = 0;
};
std::string EncodeHeader(MessageType type, int64_t length);
// `bytes`: kFrameHeaderBytes. An error names what was found where another program, another version
// or nonsense speaks, and where the length is more than the type can have.
StatusOr<FrameHeader> DecodeHeader(std::string_view bytes);

// A whole frame.
template <typename Message>
std::string Encode(const Message& message) {
  const std::string body = FieldsOf(message);
  return EncodeHeader(Message::kType, static_cast<int64_t>(body.size())) + body;
}

// The body of a frame: kInvalidArgument unless every byte is as it must be.
template <typename Message>
StatusOr<Message> Decode(std::string_view body) {
  MessageReader reader(body);
  Message message;
  message.Visit(reader);
  if (!reader.AllRead()) {
    return InvalidArgument(
        Text("a malformed ", NameOf(Message::kType), " message of ", body.size(), " bytes"));
  }
  CAUSEWAY_RETURN_IF_ERROR(message.Check());
  return message;
}

// Of codes that came over the wire.
Status StatusOf(StatusCode code, const std::string& text);

}  // namespace causeway
