// RoomOpen and RoomClose as bytes, for the broadcast to a decode server's other hosts.
#include "transfer/messages.h"
#include "transfer/receiver.h"

namespace causeway {
namespace {

struct CloseFields {
  uint64_t room = 0;
  StatusCode code = StatusCode::kOk;
  std::string text;
  template <typename Visitor>
  void Visit(Visitor& v) {
    v.Number(room);
    VisitStatus(v, code, text);
  }
};

}  // namespace

template <typename Visitor>
void RoomOpen::Visit(Visitor& v) {
  v.Number(room);
  v.Bytes(host, 1024);
  v.Number(port);
  v.Number(dp);
  v.Number(prompt_tokens);
  v.Number(skip);
  v.List(pages, int64_t{1} << 31, [&](int32_t& page) { v.Number(page); });
}

std::string RoomOpen::Encode() const { return FieldsOf(*this); }

StatusOr<RoomOpen> RoomOpen::Decode(std::string_view bytes) {
  MessageReader reader(bytes);
  RoomOpen open;
  open.Visit(reader);
  if (reader.AllRead()) return open;
  return InvalidArgument(Text("malformed RoomOpen of ", bytes.size(), " bytes"));
}

std::string RoomClose::Encode() const {
  return FieldsOf(CloseFields{room, why.code(), why.message()});
}

StatusOr<RoomClose> RoomClose::Decode(std::string_view bytes) {
  MessageReader reader(bytes);
  CloseFields fields;
  fields.Visit(reader);
  const auto code = static_cast<int>(fields.code);
  if (!reader.AllRead() || code < 1 || code > static_cast<int>(StatusCode::kInternal)) {
    return InvalidArgument(Text("malformed RoomClose of ", bytes.size(), " bytes"));
  }
  return RoomClose{fields.room, Status(fields.code, fields.text)};
}

}  // namespace causeway
