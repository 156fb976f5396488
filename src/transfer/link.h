// Link: one TCP connection of a transfer, with its frames both ways. It never blocks; LinkLoop
// calls it when its socket is ready.
//
// Keys are not copied on their way through this process: a kRun is written from the pages of the
// cache, and read into them. While that goes on the pages may be taken away (VoidRun, DropRun): the
// frame is then completed with zeros, or its rest thrown away.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "net/socket.h"
#include "transfer/messages.h"

namespace causeway {

// What a side does wrong on purpose, at the nth message of a type that it sends on any of its links
// (from 0): how tests see what the other side makes of it.
struct TransferFault {
  enum class Action {
    kNone,
    kDrop,     // the message is not sent
    kClose,    // the connection is closed instead
    kStall,    // from here on the link neither sends nor reads, as a stopped process ...
    kPause,    // ... that goes on after delay_ms
    kDelay,    // this message and those behind it come delay_ms later
    kCorrupt,  // of a kRun or kRunInMemory: its checksum is another's
  };
  Action action = Action::kNone;
  MessageType type = MessageType::kRun;
  int64_t nth = 0;
  int64_t delay_ms = 0;
};

struct LinkOptions {
  int64_t heartbeat_ms = 5'000;
  int missed_heartbeats = 2;  // then the peer counts as lost
  int64_t hello_ms = 10'000;  // for a peer to say who it is
  // Of keys that have been given to the system and have not yet arrived, at most (about); 0: as
  // many as the system finds good for the connection (net.ipv4.tcp_wmem, usually up to 4 MiB).
  int64_t in_flight_bytes = 0;
  TransferFault fault = {};
};

class Link;

// Who has the links and knows what messages mean. All calls come with LinkLoop's lock held.
class LinkOwner {
 public:
  virtual ~LinkOwner() = default;
  // A message other than kRun, kBye, kPing and kPong, whose body is still to be decoded. What comes
  // before OnHello has called Link::set_ready is not passed on, but an error.
  virtual Status OnMessage(Link& link, MessageType type, const std::string& body) = 0;
  // The places for the `bytes` bytes of rows of a kRun, which together are as many; none: they are
  // thrown away. They stay good until DropRun or RunArrived.
  virtual StatusOr<std::vector<iovec>> PlaceRun(Link& link, const RunHeader& run,
                                                int64_t bytes) = 0;
  // They are there. Not called for what was thrown away.
  virtual Status RunArrived(Link& link, const RunHeader& run, const RunTrailer& trailer) = 0;
  // The link has nothing to send; the owner may have.
  virtual void Refill(Link& link) = 0;
  // The link is gone; called once.
  virtual void OnLost(Link& link, const Status& why) = 0;
  // Acts on deadlines that have passed; milliseconds to the next one.
  virtual int64_t Tick() = 0;
};

class Link {
 public:
  // `fault_count`: messages of the fault's type so far, of all links.
  Link(uint64_t id, Socket socket, const LinkOptions& options, int64_t& fault_count);

  uint64_t id() const { return id_; }
  int fd() const { return socket_.fd(); }
  // Whether the other side has said who it is.
  bool ready() const { return ready_; }
  void set_ready() { ready_ = true; }
  // Why the link is over; ok: it is not.
  const Status& dead() const { return dead_; }

  template <typename Message>
  void Send(const Message& message) {
    Queue({.head = Encode(message)}, Message::kType);
  }
  // Rows at `pieces`, which stay as they are until they are sent or VoidRun is called, and `owned`
  // behind them.
  void SendRun(const RunHeader& run, std::vector<iovec> pieces, std::string owned,
               uint64_t checksum);
  // From now on no byte of the pages of this room is read for this link.
  void VoidRun(const RoomKey& key);
  // From now on no byte that comes for this room is written to where PlaceRun said.
  void DropRun(const RoomKey& key);
  // While held nothing more is read, and the other side's silence means nothing.
  void HoldInput(bool held);
  // Until when a room may wait for `ms` whose keys, on this link, come behind those of others.
  Deadline KeysMoveUntil(int64_t ms) const { return Deadline::At(keys_at_, ms); }
  // Says goodbye, as far as the socket takes it, and ends the link.
  void Close(const Status& why);

  // For LinkLoop.
  // Since it is not held any more, there may be input that has been received already.
  bool resumed() const { return resumed_; }
  bool HasOutput() const { return !out_.empty(); }
  bool stalled() const { return stalled_until_ && !stalled_until_->Passed(); }
  // Until it goes on.
  int64_t stalled_ms() const { return stalled_until_->RemainingMs() + 1; }
  bool blocked() const { return blocked_; }  // the socket takes no more for now
  short PollEvents() const;
  void Read(LinkOwner& owner);
  void Write();
  // Heartbeats and their end; milliseconds until it wants to be called again.
  int64_t Beat();

 private:
  struct OutFrame {
    std::string head = {};
    std::vector<iovec> pieces = {};
    std::string owned = {};
    std::string tail = {};
    bool is_run = false;
    RunHeader run = {};
    int64_t sent = 0;
    int64_t Bytes() const;
  };
  enum class InState { kHeader, kBody, kRunHeader, kRunRows, kRunTrailer };

  void Queue(OutFrame frame, MessageType type);
  void Append(OutFrame frame);
  // Consumes what it can of in_; false where more must come first.
  bool Step(LinkOwner& owner);
  Status BeginRun(LinkOwner& owner);
  Status EndFrame(LinkOwner& owner, const std::string& body);
  std::string TakeInput(int64_t bytes);
  int64_t InputLeft() const { return static_cast<int64_t>(in_.size()) - in_at_; }
  // Notes that `bytes` more rows have come, to the front of places_.
  void Advance(int64_t bytes);

  const uint64_t id_;
  const Socket socket_;
  const LinkOptions options_;
  int64_t& fault_count_;
  bool ready_ = false;
  bool held_ = false;
  bool resumed_ = false;
  Status dead_;
  std::optional<Deadline> stalled_until_;

  std::deque<OutFrame> out_;
  bool blocked_ = false;
  Deadline held_until_ = Deadline::AfterMs(0);  // by kDelay

  InState state_ = InState::kHeader;
  FrameHeader frame_;
  std::string in_;  // bytes read and not yet consumed, from in_at_ on
  int64_t in_at_ = 0;
  RunHeader run_;
  std::vector<iovec> places_;  // of the rows still to come
  int64_t rows_left_ = 0;      // in bytes
  bool thrown_away_ = false;

  Deadline hello_until_;
  Deadline::Clock::time_point heard_at_;
  Deadline next_ping_;
  Deadline::Clock::time_point keys_at_;  // when the last run went or came; or this was made
};

}  // namespace causeway
