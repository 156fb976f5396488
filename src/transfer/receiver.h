// KvReceiver: a decode host's side of the transfer of keys from prefill servers.
//
// The engine on host 0 opens a room and gets kAccepted or kRefused, then kCompleted or kFailed. The
// server's other hosts are told the same RoomOpen and RoomClose (with the step broadcast, after
// host 0 has called Open) and report to host 0 by themselves; kCompleted on host 0 means all hosts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cache/kv_cache.h"
#include "transfer/options.h"
#include "transfer/rows.h"

namespace causeway {

// What every decode host is told to begin a transfer.
struct RoomOpen {
  uint64_t room = 0;
  std::string host;  // of the prefill server's host 0: a name or an address
  int32_t port = 0;
  int32_t dp = 0;  // the decode server's group that the keys are for
  int64_t prompt_tokens = 0;
  int64_t skip = 0;  // tokens [0, skip) are in the cache already
  // Of this server's cache, of tokens [64 i, 64 i + 64); those of [skip, prompt_tokens) are
  // written.
  std::vector<int32_t> pages = {};

  std::string Encode() const;
  static StatusOr<RoomOpen> Decode(std::string_view bytes);
  template <typename Visitor>
  void Visit(Visitor& v);
};

// And to end it early.
struct RoomClose {
  uint64_t room = 0;
  Status why = Cancelled("the request was cancelled");

  std::string Encode() const;
  static StatusOr<RoomClose> Decode(std::string_view bytes);
};

struct ReceiverEvent {
  enum class Kind {
    kAccepted,   // the prefill server has the request too, and will send its keys
    kProgress,   // some have come; about sixteen times a room
    kCompleted,  // all are in place, on all hosts
    kRefused,    // the prefill server won't; `status`
    kFailed,     // `status`
  };
  Kind kind = Kind::kFailed;
  uint64_t room = 0;
  Status status = {};
  std::string metadata = {};  // of kCompleted: what the prefill engine gave to Finish
  double share = 0;           // of kProgress: of this host's keys that are there
  int64_t bytes = 0;          // of kCompleted: keys that this host received
  double seconds = 0;         // of kCompleted: since the first of them

  bool ends() const { return kind != Kind::kAccepted && kind != Kind::kProgress; }
};

class KvReceiver {
 public:
  // Listens for the reports of other hosts, if there are several. `cache` must outlive this.
  // `on_event` is called by the transfer thread and must not wait nor call Cancel or the
  // destructor; it should push into a queue. Other hosts than 0 may ignore it.
  static StatusOr<std::unique_ptr<KvReceiver>> Make(
      const TransferOptions& options, const KvCache& cache, RowConversions conversions,
      std::function<void(const ReceiverEvent&)> on_event);
  // Rooms that have not ended get no event.
  ~KvReceiver();

  // Where other hosts report, on host 0.
  int port() const;
  // "HOST:PORT" of host 0, needed on the others.
  void SetReportAddress(std::string address);

  // Never waits. Every room ends with one event, and until then its pages [skip, prompt_tokens)
  // must stay its own. Without effect on hosts that take no part (HostsOfRoom). A room that is open
  // already, or makes no sense, is kFailed.
  void Open(RoomOpen open);
  // A room that will not be opened, though its request has come: the prefill server at that address
  // is told, when it can be reached, so that it does not wait. Never waits.
  void Decline(const std::string& host, int port, const RoomClose& close);
  // When it returns, nothing writes to the room's pages any more. Ends it with kFailed, unless it
  // has ended.
  void Cancel(const RoomClose& close);

  const TransferCounters& counters() const;

 private:
  class Work;
  explicit KvReceiver(std::unique_ptr<Work> work);
  const std::unique_ptr<Work> work_;
};

}  // namespace causeway
