#include "engine/decode_rooms.h"

#include <utility>

namespace causeway {
namespace {

// What a note is about, as its first byte.
constexpr char kOpen = 'o';
constexpr char kClose = 'c';

}  // namespace

StatusOr<std::unique_ptr<DecodeRooms>> DecodeRooms::Make(const TransferOptions& options,
                                                         const KvCache& cache,
                                                         RowConversions conversions) {
  std::unique_ptr<DecodeRooms> rooms(new DecodeRooms(options));
  CAUSEWAY_ASSIGN_OR_RETURN(rooms->receiver_,
                            KvReceiver::Make(options, cache, std::move(conversions),
                                             [out = rooms.get()](const ReceiverEvent& event) {
                                               const std::lock_guard lock(out->mutex_);
                                               if (out->listener_) out->listener_(event);
                                             }));
  return rooms;
}

void DecodeRooms::Attach(RankGroup& ranks) {
  ranks_ = &ranks;
  ranks.SetNoteHook([this](const std::string& note) { return OnNote(note); });
}

void DecodeRooms::SetListener(std::function<void(const ReceiverEvent&)> listener) {
  const std::lock_guard lock(mutex_);
  listener_ = std::move(listener);
}

void DecodeRooms::Tell(char kind, const std::string& bytes) {
  if (options_.layout.hosts > 1) notes_.push_back(kind + bytes);
}

Status DecodeRooms::SendNotes() {
  for (const std::string& note : std::exchange(notes_, {})) {
    CAUSEWAY_RETURN_IF_ERROR(ranks_->Note(note));
  }
  return Status();
}

void DecodeRooms::Open(RoomOpen open) {
  const std::string bytes = open.Encode();
  // Here first: reports of the others must find the room.
  receiver_->Open(std::move(open));
  Tell(kOpen, bytes);
}

void DecodeRooms::Decline(const Bootstrap& bootstrap, const Status& why) {
  receiver_->Decline(bootstrap.host, bootstrap.port, {static_cast<uint64_t>(bootstrap.room), why});
}

void DecodeRooms::Close(const RoomClose& close) {
  receiver_->Cancel(close);
  Tell(kClose, close.Encode());
}

Status DecodeRooms::OnNote(const std::string& note) {
  const std::string_view bytes = std::string_view(note).substr(note.empty() ? 0 : 1);
  if (note.starts_with(kOpen)) {
    CAUSEWAY_ASSIGN_OR_RETURN(RoomOpen open, RoomOpen::Decode(bytes));
    receiver_->Open(std::move(open));
    return Status();
  }
  if (note.starts_with(kClose)) {
    CAUSEWAY_ASSIGN_OR_RETURN(const RoomClose close, RoomClose::Decode(bytes));
    receiver_->Cancel(close);
    return Status();
  }
  return InternalError("a note of host 0 is not readable");
}

}  // namespace causeway
