// Between each two ranks there is one TCP connection, and on it control messages and the data of
// large exchanges. A thread for each peer does nothing but read its control messages, so that a
// peer that dies or aborts is noticed at once, whatever this rank waits for: Gloo itself tells a
// wait of a dead peer only while nothing of the message has arrived.
//
//   barrier    kArrive to every peer; complete when one has come from every peer
//   exchange   kExchange to every peer, with both sizes as this rank knows them, and with the data
//              where it is small. Where it is large:
//                receiver                           sender
//                posts its buffer, then kExchange ->  compares sizes
//                                                <-   data, then kSent (in this order on the wire)
//                all is here, kTaken             ->   may use its memory again
//              Sizes are compared before data moves: Gloo ends the process on a message that is
//              larger than the buffer.
//   abort      kAbort, with the reason
//   the end    kGoodbye
//              A connection that closes may lose what is under way on it. These two are therefore
//              answered with kHeard, and a rank waits a moment for that before it closes.
#include "parallel/gloo_communicator.h"

#include <gloo/transport/pair.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/check.h"
#include "parallel/gloo_rendezvous.h"
#include "parallel/mismatch.h"

namespace causeway {
namespace {

using gloo::transport::UnboundBuffer;

constexpr uint64_t kControlSlot = 1;
constexpr uint64_t kDataSlot = 2;
constexpr int64_t kInlineBytes = 256 * 1024;  // data up to this size travels in the control message
constexpr size_t kTextBytes = 512;
constexpr int64_t kLingerMs = 100;     // for transfers under way when an exchange fails
constexpr int64_t kGoodbyeMs = 1'000;  // for the last word to arrive when a rank ends
// Gloo's own time-outs close every connection, so its waits have none and are interrupted instead.
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

enum class Kind : int32_t { kArrive = 1, kExchange, kSent, kTaken, kAbort, kGoodbye, kHeard };

// The start of a control message; then its text and its data.
struct Header {
  uint64_t session = 0;
  uint64_t call = 0;  // collectives are counted from 1
  int64_t sends = 0;
  int64_t expects = 0;
  Kind kind = Kind::kArrive;
  int32_t layer = -1;
  uint32_t text_bytes = 0;
  uint32_t data_bytes = 0;
};
constexpr size_t kSmallBytes = sizeof(Header) + kTextBytes;
constexpr size_t kLargeBytes = kSmallBytes + kInlineBytes;

// A barrier or exchange that a peer has called.
struct PeerCall {
  Header header;
  std::string operation;
  std::string data;
};

// Of kSmallBytes or kLargeBytes. Memory that no message has needed yet is not touched.
struct ControlBuffer {
  std::unique_ptr<char[]> bytes;
  std::unique_ptr<UnboundBuffer> buffer;
  bool in_use = false;  // sent, and not known to have left
};

// This rank's side of the connection to one peer.
struct Link {
  int peer = 0;
  std::thread listener;
  std::array<ControlBuffer, 2> in;  // of the listener
  // Of the rank's thread, two collectives' worth. A message has left before its buffer's turn comes
  // again: a collective begins only when each peer has had all messages of the last but one.
  std::array<ControlBuffer, 2> calls_out;   // kArrive and kExchange: one in a collective
  std::array<ControlBuffer, 4> others_out;  // kSent and kTaken: at most two
  size_t next_other = 0;
  ControlBuffer last_word;  // kAbort or kGoodbye, of who calls Abort first or ends the group
  ControlBuffer answer;     // of the listener

  // Guarded by the communicator's mutex.
  std::deque<PeerCall> calls;       // not yet taken up by this rank: at most this one and the next
  uint64_t sent = 0;                // the last collective of which all data from the peer is here
  uint64_t taken = 0;               // the last one of which the peer has all data
  bool heard = false;               // the peer has our last word
  std::optional<std::string> lost;  // why nothing more comes
};

// One peer's part of an exchange. The buffers are for what does not travel with the header.
struct Transfer {
  bool met = false;                    // its header is here and agrees with ours
  std::unique_ptr<UnboundBuffer> in;   // until its data is here
  std::unique_ptr<UnboundBuffer> out;  // until it has ours
  bool Finished() const { return met && in == nullptr && out == nullptr; }
};

// What a peer still owes to the collective that this rank is in.
enum class Debt { kNone, kData, kArrival };

class GlooCommunicator : public Communicator {
 public:
  GlooCommunicator(const GlooOptions& options, GlooMesh mesh)
      : Communicator(options.rank, options.size, options.timeout_ms),
        noun_(options.noun),
        mesh_(std::move(mesh)) {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank()) continue;
      auto link = std::make_unique<Link>();
      link->peer = peer;
      for (ControlBuffer& each : link->in) Register(each, kLargeBytes);
      for (ControlBuffer& each : link->calls_out) Register(each, kLargeBytes);
      for (ControlBuffer& each : link->others_out) Register(each, kSmallBytes);
      Register(link->last_word, kSmallBytes);
      Register(link->answer, kSmallBytes);
      links_.push_back(std::move(link));
    }
    for (auto& link : links_) link->listener = std::thread([this, &link] { Listen(*link); });
  }

  ~GlooCommunicator() override {
    SayGoodbye();
    for (auto& link : links_) {
      for (ControlBuffer& each : link->in) each.buffer->abortWaitRecv();
      link->listener.join();
    }
    // Gloo's own thread may be writing a message into a buffer that is about to be freed.
    for (auto& link : links_) mesh_.context->getPair(link->peer)->close();
  }

  // The first barrier: all connections are there and belong to this group.
  void Meet(Deadline deadline) {
    DoArrive({"rendezvous"});
    DoWait({"rendezvous"}, deadline);
    mesh_.server.reset();
  }

 private:
  void Register(ControlBuffer& each, size_t bytes) {
    each.bytes = std::make_unique_for_overwrite<char[]>(bytes);
    each.buffer = mesh_.context->createUnboundBuffer(each.bytes.get(), bytes);
  }

  // ---- What comes from a peer: the listener's thread.

  void Listen(Link& link) {
    bool answered = false;
    try {
      // Two at a time, so that a peer need not wait for this thread to take up the first.
      for (ControlBuffer& each : link.in) each.buffer->recv(link.peer, kControlSlot);
      for (size_t turn = 0;; turn = 1 - turn) {
        ControlBuffer& in = link.in[turn];
        if (!in.buffer->waitRecv(nullptr, kForever)) return;  // this end is being destroyed
        if (!TakeUp(link, in.bytes.get())) {
          return Lose(link, "it sent a message that belongs to no collective of this group");
        }
        if (IsLastWord(in.bytes.get()) && !std::exchange(answered, true)) {
          SendFrom(link, link.answer, {.kind = Kind::kHeard}, "", nullptr);
        }
        in.buffer->recv(link.peer, kControlSlot);
      }
    } catch (const std::exception& error) {
      Lose(link, GlooErrorText(error));
    }
  }

  static bool IsLastWord(const char* bytes) {
    Header header;
    std::memcpy(&header, bytes, sizeof header);
    return header.kind == Kind::kAbort || header.kind == Kind::kGoodbye;
  }

  bool TakeUp(Link& link, const char* bytes) {
    Header header;
    std::memcpy(&header, bytes, sizeof header);
    if (header.session != mesh_.session || header.text_bytes > kTextBytes ||
        header.data_bytes > kInlineBytes) {
      return false;
    }
    const char* const text = bytes + sizeof header;
    const std::lock_guard lock(mutex_);
    switch (header.kind) {
      case Kind::kArrive:
      case Kind::kExchange:
        if (link.calls.size() >= 2) return false;
        link.calls.push_back({header, std::string(text, header.text_bytes),
                              std::string(text + header.text_bytes, header.data_bytes)});
        break;
      case Kind::kSent:
        link.sent = header.call;
        break;
      case Kind::kTaken:
        link.taken = header.call;
        break;
      case Kind::kAbort:
        if (!reason_) reason_ = std::string(text, header.text_bytes);
        break;
      case Kind::kGoodbye:
        break;
      case Kind::kHeard:
        link.heard = true;
        break;
      default:
        return false;
    }
    changed_.notify_all();
    return true;
  }

  void Lose(Link& link, const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (!link.lost) link.lost = why;
    changed_.notify_all();
  }

  // ---- What goes to a peer.

  // A lost peer is no error here: it may owe this rank nothing any more.
  void Send(Link& link, Header header, std::string_view text, const void* data = nullptr) {
    {
      const std::lock_guard lock(mutex_);
      if (link.lost || reason_) return;
    }
    const bool is_call = header.kind == Kind::kArrive || header.kind == Kind::kExchange;
    ControlBuffer& out = is_call ? link.calls_out[header.call % link.calls_out.size()]
                                 : link.others_out[link.next_other++ % link.others_out.size()];
    try {
      if (out.in_use) out.buffer->waitSend(nullptr, kForever);
      out.in_use = true;
      SendFrom(link, out, header, text, data);
    } catch (const std::exception& error) {
      Lose(link, GlooErrorText(error));
    }
  }

  void SendFrom(Link& link, ControlBuffer& out, Header header, std::string_view text,
                const void* data) {
    text = text.substr(0, kTextBytes);
    header.session = mesh_.session;
    header.text_bytes = static_cast<uint32_t>(text.size());
    char* to = out.bytes.get();
    std::memcpy(to, &header, sizeof header);
    std::memcpy(to + sizeof header, text.data(), text.size());
    if (header.data_bytes > 0) {
      std::memcpy(to + sizeof header + text.size(), data, header.data_bytes);
    }
    out.buffer->send(link.peer, kControlSlot, 0, sizeof header + text.size() + header.data_bytes);
  }

  void DoAbort(const std::string& reason) override {
    {
      const std::lock_guard lock(mutex_);
      if (reason_) return;  // the first reason stays, and who had it has told all peers
      reason_ = reason;
      last_word_said_ = true;
      changed_.notify_all();
    }
    SendLastWord(Kind::kAbort, reason);
  }

  void SendLastWord(Kind kind, const std::string& text) {
    for (auto& link : links_) {
      try {
        SendFrom(*link, link->last_word, {.kind = kind}, text, nullptr);
      } catch (const std::exception& error) {
        Lose(*link, GlooErrorText(error));
      }
    }
  }

  // Lets what this rank has said reach its peers before the connections close. Who ends because of
  // another's abort owes nobody a word: the other has told all.
  void SayGoodbye() {
    std::unique_lock lock(mutex_);
    if (!reason_) {
      last_word_said_ = true;
      lock.unlock();
      SendLastWord(Kind::kGoodbye, "");
      lock.lock();
    }
    if (!last_word_said_) return;
    changed_.wait_for(lock, std::chrono::milliseconds(kGoodbyeMs), [&] {
      return std::all_of(links_.begin(), links_.end(),
                         [](const auto& link) { return link->heard || link->lost; });
    });
  }

  // ---- Waiting: the rank's thread.

  void ThrowIfAborted(CollectiveName name) const {
    if (!reason_) return;
    throw StepFailed(Text(noun_, " ", rank(), ": ", NameOf(name), " was aborted: ", *reason_));
  }

  // Returns when enough(). Throws after an abort, and at the deadline or when a peer is lost whose
  // debt(link) is not yet kNone.
  template <typename Enough, typename DebtOf>
  void Await(std::unique_lock<std::mutex>& lock, CollectiveName name, Deadline deadline,
             Enough enough, DebtOf debt) {
    const auto lost = [&]() -> const Link* {
      for (const auto& link : links_) {
        if (link->lost && debt(*link) != Debt::kNone) return link.get();
      }
      return nullptr;
    };
    changed_.wait_until(lock, deadline.at(),
                        [&] { return reason_ || enough() || lost() != nullptr; });
    ThrowIfAborted(name);
    if (enough()) return;
    if (const Link* link = lost()) {
      throw StepFailed(Text(noun_, " ", rank(), ": ", NameOf(name), " lost ", noun_, " ",
                            link->peer, ": ", *link->lost));
    }
    Debt largest = Debt::kNone;
    for (const auto& link : links_) largest = std::max(largest, debt(*link));
    std::string late;
    for (const auto& link : links_) {
      if (debt(*link) == largest) late += Text(late.empty() ? "" : ", ", link->peer);
    }
    throw StepFailed(
        Text(noun_, " ", rank(), ": ", NameOf(name), " passed its deadline; ", noun_, " ", late,
             largest == Debt::kArrival ? " did not arrive" : " did not send and take all data"));
  }

  // Takes up the peer's next call, which has to be the one this rank is in.
  PeerCall NextCall(Link& link, CollectiveName name, bool exchanges) {
    PeerCall call = std::move(link.calls.front());
    link.calls.pop_front();
    CheckSameCall(noun_, {rank(), name, exchanges},
                  {link.peer,
                   {call.operation.c_str(), call.header.layer},
                   call.header.kind == Kind::kExchange});
    if (call.header.call != call_) {
      throw StepFailed(Text(noun_, " ", rank(), " is in collective ", call_, " (", NameOf(name),
                            "), ", noun_, " ", link.peer, " in collective ", call.header.call));
    }
    return call;
  }

  void DoArrive(CollectiveName name) override {
    ++call_;
    for (auto& link : links_) {
      Send(*link, {.call = call_, .kind = Kind::kArrive, .layer = name.layer}, name.operation);
    }
  }

  void DoWait(CollectiveName name, Deadline deadline) override {
    std::unique_lock lock(mutex_);
    const auto debt = [](const Link& link) {
      return link.calls.empty() ? Debt::kArrival : Debt::kNone;
    };
    const auto enough = [&] {
      return std::all_of(links_.begin(), links_.end(),
                         [&](const auto& link) { return debt(*link) == Debt::kNone; });
    };
    Await(lock, name, deadline, enough, debt);
    for (auto& link : links_) NextCall(*link, name, /*exchanges=*/false);
  }

  // ---- Exchange: the rank's thread.

  void DoExchange(CollectiveName name, std::span<const Outgoing> to, std::span<const Incoming> from,
                  Deadline deadline) override {
    {
      const std::lock_guard lock(mutex_);
      ThrowIfAborted(name);
    }
    ++call_;
    std::vector<Transfer> transfers(static_cast<size_t>(size()));
    try {
      for (auto& link : links_) {
        const size_t peer = static_cast<size_t>(link->peer);
        Offer(*link, transfers[peer], name, to[peer], from[peer]);
      }
      RunTransfers(transfers, name, to, from, deadline);
    } catch (const StepFailed& failure) {
      GiveUp(transfers, failure.what());
      throw;
    }
  }

  void Offer(Link& link, Transfer& transfer, CollectiveName name, const Outgoing& to,
             const Incoming& from) {
    if (from.bytes > kInlineBytes) {
      transfer.in = Post(link, from.data, from.bytes, &UnboundBuffer::recv);
    }
    const bool with_data = to.bytes <= kInlineBytes;
    Send(link,
         {.call = call_,
          .sends = to.bytes,
          .expects = from.bytes,
          .kind = Kind::kExchange,
          .layer = name.layer,
          .data_bytes = with_data ? static_cast<uint32_t>(to.bytes) : 0},
         name.operation, to.data);
  }

  // Starts to send or receive large data.
  std::unique_ptr<UnboundBuffer> Post(Link& link, void* data, int64_t bytes,
                                      void (UnboundBuffer::*start)(int, uint64_t, size_t, size_t)) {
    auto buffer = mesh_.context->createUnboundBuffer(data, static_cast<size_t>(bytes));
    try {
      (buffer.get()->*start)(link.peer, kDataSlot, 0, static_cast<size_t>(bytes));
    } catch (const std::exception& error) {
      Lose(link, GlooErrorText(error));
    }
    return buffer;
  }

  void RunTransfers(std::vector<Transfer>& transfers, CollectiveName name,
                    std::span<const Outgoing> to, std::span<const Incoming> from,
                    Deadline deadline) {
    const auto transfer_of = [&](const Link& link) -> Transfer& {
      return transfers[static_cast<size_t>(link.peer)];
    };
    const auto has_news = [&](const Link& link) {
      const Transfer& transfer = transfer_of(link);
      if (!transfer.met) return !link.calls.empty();
      return (transfer.in && link.sent == call_) || (transfer.out && link.taken == call_);
    };
    const auto debt = [&](const Link& link) {
      const Transfer& transfer = transfer_of(link);
      if (transfer.Finished() || has_news(link)) return Debt::kNone;
      return transfer.met ? Debt::kData : Debt::kArrival;
    };
    const auto any_news = [&] {
      return std::any_of(links_.begin(), links_.end(),
                         [&](const auto& link) { return has_news(*link); });
    };
    const auto finished = [&] {
      return std::all_of(links_.begin(), links_.end(),
                         [&](const auto& link) { return transfer_of(*link).Finished(); });
    };
    std::unique_lock lock(mutex_);
    while (!finished()) {
      Await(lock, name, deadline, any_news, debt);
      for (auto& link : links_) {
        if (!has_news(*link)) continue;
        Transfer& transfer = transfer_of(*link);
        const size_t peer = static_cast<size_t>(link->peer);
        if (!transfer.met) {
          const PeerCall call = NextCall(*link, name, /*exchanges=*/true);
          lock.unlock();
          Begin(*link, transfer, name, call, to[peer], from[peer]);
          lock.lock();
        }
        if (transfer.out && link->taken == call_) transfer.out.reset();
        if (transfer.in && link->sent == call_) {
          transfer.in.reset();
          lock.unlock();
          Send(*link, {.call = call_, .kind = Kind::kTaken, .layer = name.layer}, name.operation);
          lock.lock();
        }
      }
    }
  }

  // The peer's header is here: its sizes, its small data, and leave to send ours.
  void Begin(Link& link, Transfer& transfer, CollectiveName name, const PeerCall& call,
             const Outgoing& to, const Incoming& from) {
    CheckPeerSizes(noun_, {.name = name,
                           .rank = rank(),
                           .peer = link.peer,
                           .sent = call.header.sends,
                           .expected = from.bytes,
                           .peer_expected = call.header.expects,
                           .given = to.bytes});
    transfer.met = true;
    if (from.bytes > 0 && from.bytes <= kInlineBytes) {
      if (static_cast<int64_t>(call.data.size()) != from.bytes) {
        throw StepFailed(Text(noun_, " ", rank(), ": ", NameOf(name), ": ", noun_, " ", link.peer,
                              " sent ", call.data.size(), " bytes of ", from.bytes));
      }
      std::memcpy(from.data, call.data.data(), call.data.size());
    }
    if (to.bytes <= kInlineBytes) return;
    transfer.out = Post(link, const_cast<void*>(to.data), to.bytes, &UnboundBuffer::send);
    Send(link, {.call = call_, .kind = Kind::kSent, .layer = name.layer}, name.operation);
  }

  // After a failed exchange the caller may free its memory, so nothing may move any more. A
  // connection with half a message on it is of no use to anyone: it is closed, after a little time
  // in which its message, and the reason behind it, may still get through.
  void GiveUp(std::vector<Transfer>& transfers, const std::string& why) {
    DoAbort(why);
    const auto open = [&](const Link& link) {
      const Transfer& transfer = transfers[static_cast<size_t>(link.peer)];
      return (transfer.in && link.sent != call_) || (transfer.out && link.taken != call_);
    };
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(kLingerMs), [&] {
      return std::none_of(links_.begin(), links_.end(),
                          [&](const auto& link) { return open(*link) && !link->lost; });
    });
    for (auto& link : links_) {
      if (!open(*link)) continue;
      lock.unlock();
      mesh_.context->getPair(link->peer)->close();
      Lose(*link, "an exchange with it failed");
      lock.lock();
    }
  }

  const std::string noun_;  // what errors call a member of the group
  GlooMesh mesh_;
  std::vector<std::unique_ptr<Link>> links_;
  uint64_t call_ = 0;  // of the rank's thread
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<std::string> reason_;  // of an abort, here or at a peer; guarded by mutex_
  bool last_word_said_ = false;        // this rank's; guarded by mutex_
};

}  // namespace

StatusOr<std::unique_ptr<Communicator>> MakeGlooCommunicator(const GlooOptions& options) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size) {
    return InvalidArgument(Text("found ", options.noun, " ", options.rank, " of ", options.size,
                                " hosts; expected a number below that of hosts"));
  }
  std::unique_ptr<Communicator> result;
  if (options.size == 1) {
    result = std::make_unique<GlooCommunicator>(options, GlooMesh());
    return result;
  }
  struct sigaction present {};
  if (sigaction(SIGPIPE, nullptr, &present) == 0 && present.sa_handler == SIG_DFL) {
    std::signal(SIGPIPE, SIG_IGN);
  }
  const Deadline deadline = Deadline::AfterMs(options.rendezvous_timeout_ms);
  CAUSEWAY_ASSIGN_OR_RETURN(GlooMesh mesh, ConnectGlooMesh(options, deadline));
  auto communicator = std::make_unique<GlooCommunicator>(options, std::move(mesh));
  try {
    communicator->Meet(deadline);
  } catch (const StepFailed& failure) {
    return Unavailable(Text("--dist-init-addr ", options.init_addr, ": ", failure.what()));
  }
  result = std::move(communicator);
  return result;
}

}  // namespace causeway
