// What a host of a decode server does for the transfer of keys from prefill servers.
//
// Every host has a KvReceiver. Host 0's engine opens and closes rooms, here and, by a note to the
// other hosts, there (RankGroup::Note).
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/rank_group.h"
#include "engine/request.h"
#include "transfer/receiver.h"

namespace causeway {

class DecodeRooms {
 public:
  // Listens. `cache` must outlive this.
  static StatusOr<std::unique_ptr<DecodeRooms>> Make(const TransferOptions& options,
                                                     const KvCache& cache,
                                                     RowConversions conversions);
  // How host 0 tells the others, and how they hear of it.
  void Attach(RankGroup& ranks);
  // Who hears of rooms (KvReceiver::Make): host 0's engine, before its first room.
  void SetListener(std::function<void(const ReceiverEvent&)> listener);

  // On host 0, as with KvReceiver. The other hosts hear of it by SendNotes, which is to be called
  // between two steps, before pages of what was closed are used again. Not ok: a host is lost.
  void Open(RoomOpen open);
  void Close(const RoomClose& close);
  Status SendNotes();
  // A request ends before its room has been opened: the prefill server need not wait for it.
  void Decline(const Bootstrap& bootstrap, const Status& why);

  KvReceiver& receiver() { return *receiver_; }

 private:
  explicit DecodeRooms(const TransferOptions& options) : options_(options) {}
  // On another host than 0.
  Status OnNote(const std::string& note);
  void Tell(char kind, const std::string& bytes);

  const TransferOptions options_;
  RankGroup* ranks_ = nullptr;
  std::vector<std::string> notes_;  // for the other hosts
  std::mutex mutex_;
  std::function<void(const ReceiverEvent&)> listener_;  // guarded by mutex_
  std::unique_ptr<KvReceiver> receiver_;                // last: its thread calls the listener
};

}  // namespace causeway
