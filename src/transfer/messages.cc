#include "transfer/messages.h"

#include <random>

#include "kernels/op_table.h"

namespace causeway {
namespace {

// The longest body that a type can have.
int64_t LimitOf(MessageType type) {
  switch (type) {
    case MessageType::kHello:
      return 1 << 20;
    case MessageType::kRun:
      return kMaxRunBytes + kRunHeaderBytes + kRunTrailerBytes;
    case MessageType::kRunInMemory:
      return 5 << 20;
    case MessageType::kDone:
      return kMaxMetadata + 64;
    default:
      return kMaxStatusText + 64;
  }
}

bool Within(int64_t value, int64_t least, int64_t most) { return least <= value && value <= most; }

Status CheckEnd(MessageType type, StatusCode code, bool may_be_ok) {
  const auto raw = static_cast<int>(code);
  if (raw < 0 || raw > static_cast<int>(StatusCode::kInternal) || (raw == 0 && !may_be_ok)) {
    return InvalidArgument(Text("a ", NameOf(type), " message with the status code ", raw));
  }
  return Status();
}

Status CheckRun(MessageType type, const RunHeader& run) {
  if (run.first < 0 || run.first > (int64_t{1} << 40) || run.count < 1 || run.layer < 0) {
    return InvalidArgument(Text("a ", NameOf(type), " message of layer ", run.layer, ", ",
                                run.count, " tokens from ", run.first, " on"));
  }
  return Status();
}

}  // namespace

const char* NameOf(MessageType type) {
  switch (type) {
    case MessageType::kHello:
      return "HELLO";
    case MessageType::kBye:
      return "BYE";
    case MessageType::kOpen:
      return "OPEN";
    case MessageType::kAccepted:
      return "ACCEPTED";
    case MessageType::kRefused:
      return "REFUSED";
    case MessageType::kRun:
      return "RUN";
    case MessageType::kRunInMemory:
      return "RUN_IN_MEMORY";
    case MessageType::kDone:
      return "DONE";
    case MessageType::kAck:
      return "ACK";
    case MessageType::kReleased:
      return "RELEASED";
    case MessageType::kCancel:
      return "CANCEL";
    case MessageType::kPing:
      return "PING";
    case MessageType::kPong:
      return "PONG";
    case MessageType::kReport:
      return "REPORT";
  }
  return "unknown";
}

ServerId ServerId::Random() {
  std::random_device random;
  const auto word = [&random] { return (static_cast<uint64_t>(random()) << 32) | random(); };
  return {word(), word() | 1};  // never empty
}

void MessageWriter::Bytes(std::string& text, int64_t limit) {
  const auto count = static_cast<uint32_t>(std::min(static_cast<int64_t>(text.size()), limit));
  uint32_t written = count;
  Number(written);
  bytes_.append(text, 0, count);
}

void MessageReader::Bytes(std::string& text, int64_t limit) {
  uint32_t count = 0;
  Number(count);
  if (!good_ || count > limit || count > bytes_.size()) {
    good_ = false;
    return;
  }
  text.assign(bytes_.substr(0, count));
  bytes_.remove_prefix(count);
}

// What sizes are computed of must be sane before anybody multiplies it.
Status HelloMessage::Check() const {
  const KvShape& s = side.shape;
  const bool good =
      static_cast<int>(role) <= 2 && Within(layout.cp, 1, 1024) && Within(layout.dp, 1, 1024) &&
      Within(layout.tp, 1, 1024) && Within(layout.hosts, 1, 1024) &&
      Within(layout.world(), 1, 1024) && layout.world() % layout.hosts == 0 &&
      Within(host, 0, layout.hosts - 1) && Within(s.layers, 1, 10'000) &&
      Within(s.latent_dim, 1, 1 << 16) && Within(s.index_dim, 0, 1 << 16) &&
      (s.type == DType::kF32 || s.type == DType::kBf16) && (!s.int8_kv || s.type == DType::kBf16) &&
      s.index_bytes() % 4 == 0 && Within(side.page_tokens, 1, 1 << 16) &&
      Within(pages, 1, int64_t{1} << 30) && s.layers * pages <= int64_t{1} << 31;
  if (good) {
    if (static_cast<int>(backend) > static_cast<int>(TransferBackend::kUcx)) {
      return InvalidArgument(Text("a HELLO message with the backend ", static_cast<int>(backend)));
    }
    if (ucx.version != 0 && !Within(ucx.port, 1, 65535)) {
      return InvalidArgument(Text("a HELLO message with UCX at port ", ucx.port));
    }
    return Status();
  }
  return InvalidArgument(Text("a HELLO message with sizes that no server has: cp ", layout.cp,
                              ", dp ", layout.dp, ", tp ", layout.tp, ", host ", host, " of ",
                              layout.hosts, ", ", s.layers, " layers of ", s.latent_dim, " and ",
                              s.index_dim, " values, ", pages, " pages of ", side.page_tokens));
}

Status ByeMessage::Check() const { return CheckEnd(kType, code, false); }

Status OpenMessage::Check() const {
  if (prompt_tokens < 1 || prompt_tokens > (int64_t{1} << 40) || skip < 0 || skip > prompt_tokens) {
    return InvalidArgument(Text("an OPEN message of a prompt of ", prompt_tokens, " tokens, ", skip,
                                " of them there, for group ", dp));
  }
  if (backend == TransferBackend::kAuto ||
      static_cast<int>(backend) > static_cast<int>(TransferBackend::kUcx)) {
    return InvalidArgument(Text("an OPEN message with the backend ", static_cast<int>(backend)));
  }
  return Status();
}

template <MessageType type>
Status RoomEndMessage<type>::Check() const {
  return CheckEnd(type, code, false);
}
template struct RoomEndMessage<MessageType::kRefused>;
template struct RoomEndMessage<MessageType::kCancel>;

Status RunInMemoryMessage::Check() const {
  CAUSEWAY_RETURN_IF_ERROR(CheckRun(kType, run));
  const int64_t expected = (run.tokens().end - 1) / kPage - run.first / kPage + 1;
  if (static_cast<int64_t>(pages.size()) == expected) return Status();
  return InvalidArgument(Text("a RUN_IN_MEMORY message with ", pages.size(),
                              " pages where its tokens have ", expected));
}

Status ReportMessage::Check() const { return CheckEnd(kType, code, true); }

std::string EncodeHeader(MessageType type, int64_t length) {
  CHECK(length <= LimitOf(type), NameOf(type), " ", length);
  MessageWriter writer;
  uint32_t magic = kTransferMagic;
  uint16_t version = kTransferVersion;
  auto bytes = static_cast<uint32_t>(length);
  uint32_t zero = 0;
  writer.Number(magic);
  writer.Number(version);
  writer.Number(type);
  writer.Number(bytes);
  writer.Number(zero);
  return writer.Take();
}

StatusOr<FrameHeader> DecodeHeader(std::string_view bytes) {
  CHECK(static_cast<int64_t>(bytes.size()) == kFrameHeaderBytes, bytes.size());
  MessageReader reader(bytes);
  uint32_t magic = 0;
  uint16_t version = 0;
  uint16_t type = 0;
  uint32_t length = 0;
  uint32_t zero = 0;
  reader.Number(magic);
  reader.Number(version);
  reader.Number(type);
  reader.Number(length);
  reader.Number(zero);
  if (magic != kTransferMagic) {
    return InvalidArgument("this is no KV transfer of Causeway: another program speaks there");
  }
  if (version != kTransferVersion) {
    return InvalidArgument(Text("the other side speaks version ", version,
                                " of the KV transfer, this one ", kTransferVersion));
  }
  if (type < 1 || type >= kMessageTypes || zero != 0) {
    return InvalidArgument(
        Text("found a message of type ", type, "; expected 1 to ", kMessageTypes - 1));
  }
  const auto known = static_cast<MessageType>(type);
  if (length > LimitOf(known)) {
    return InvalidArgument(Text("found a ", NameOf(known), " message of ", length,
                                " bytes; expected at most ", LimitOf(known)));
  }
  return FrameHeader{known, length};
}

Status StatusOf(StatusCode code, const std::string& text) {
  return code == StatusCode::kOk ? Status() : Status(code, text);
}

}  // namespace causeway
