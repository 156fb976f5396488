// KvSender: a prefill host's side of the transfer of keys to decode servers.
//
// A *room* is one request's transfer; its number comes with the request. For the engine it goes
//   Expect -> (kOpened) -> Begin -> PagesWritten ... -> Finish -> (kEnded)
// on host 0, and the same without waiting for kOpened on the server's other hosts, which are told
// by host 0's engine. A room ends once, by kEnded, well or not. docs/disaggregation.md has the
// protocol.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "transfer/options.h"

namespace causeway {

struct SenderEvent {
  enum class Kind {
    kOpened,  // all hosts of a decode server have opened the room: its keys may be computed
    kEnded,   // its pages are not read any more
  };
  Kind kind = Kind::kEnded;
  uint64_t room = 0;
  Status status = {};  // of kEnded: ok if all decode hosts have all keys, else why not
  int64_t bytes = 0;   // of kEnded: keys sent by this host
  double seconds = 0;  // of kEnded: since the first of them
};

inline constexpr int64_t kAllLayers = -1;

class KvSender {
 public:
  // Listens. `cache` must outlive this; if it is KvMemory::kShared, decode hosts on this machine
  // copy from it. `on_event` is called by the transfer thread and must not wait nor call Cancel,
  // Expect or the destructor; it should push into a queue.
  static StatusOr<std::unique_ptr<KvSender>> Make(const TransferOptions& options,
                                                  const KvCache& cache,
                                                  std::function<void(const SenderEvent&)> on_event);
  // Rooms that have not ended get no event.
  ~KvSender();

  int port() const;
  // "HOST:PORT" of all hosts of this server, as other servers and hosts reach them. Needed on every
  // host of several, before the first room.
  void SetAddresses(std::vector<std::string> addresses);

  // A request with this room has come, for data-parallel group `dp`. kInvalidArgument while a room
  // of that number has not ended.
  Status Expect(uint64_t room, int64_t prompt_tokens, int dp);
  // The pages of the whole prompt. From now on until kEnded or Cancel they must stay this room's.
  void Begin(uint64_t room, std::vector<int32_t> pages);
  // Keys of `tokens` are in the pages of a layer (or kAllLayers), and this host is to send them
  // (RunsOfHost). Any thread, in any order; each token of a layer once, on one host. Costs a
  // queue's lock. No memory is read before this.
  void PagesWritten(uint64_t room, int64_t layer, std::span<const Range> tokens);
  // All of this host's tokens have been named. metadata: for the decode engine, kMaxMetadata bytes
  // at most; host 0's counts.
  void Finish(uint64_t room, std::string metadata);
  // When it returns, the room's pages are not read any more by this process. It ends with kEnded
  // and `why`, unless it has ended. What a decode host still copies by itself is thrown away there.
  void Cancel(uint64_t room, const Status& why);

  const TransferCounters& counters() const;

 private:
  class Work;
  explicit KvSender(std::unique_ptr<Work> work);
  const std::unique_ptr<Work> work_;
};

}  // namespace causeway
