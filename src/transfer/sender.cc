#include "transfer/sender.h"

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <unordered_map>

#include "kernels/op_table.h"
#include "transfer/ended_rooms.h"
#include "transfer/link_loop.h"
#include "transfer/reporter.h"
#include "transfer/rows.h"
#include "transfer/sent_room.h"
#include "transfer/ways.h"

namespace causeway {
namespace {

// Rooms opened by decode servers for which no request has come; more are refused.
constexpr size_t kMostRooms = 65'536;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

using Clock = Deadline::Clock;

}  // namespace

// What the transfer thread owns; see LinkLoop for the lock.
class KvSender::Work : public LinkOwner {
 public:
  Work(const TransferOptions& options, const KvCache& cache, std::unique_ptr<OfferedWays> ways,
       std::function<void(const SenderEvent&)> on_event, Socket listener)
      : options_(options),
        cache_(cache),
        on_event_(std::move(on_event)),
        port_(PortOf(listener)),
        ways_(std::move(ways)),
        random_(options.failure_seed),
        loop_(*this, options.link, std::move(listener)),
        reporter_(loop_, Hello(TransferRole::kFollower)) {
    loop_.Start();
  }
  ~Work() override { loop_.Stop(); }

  int port() const { return port_; }
  LinkLoop& loop() { return loop_; }
  const TransferCounters& counters() const { return counters_; }

  void SetAddresses(std::vector<std::string> addresses) {
    addresses_ = std::move(addresses);
    CHECK(static_cast<int>(addresses_.size()) == options_.layout.hosts, addresses_.size());
    if (options_.host > 0) reporter_.SetAddress(addresses_[0]);
  }

  Status Expect(uint64_t id, int64_t prompt_tokens, int dp) {
    const std::vector<int> hosts = HostsOfRoom(options_.layout, dp);
    if (std::find(hosts.begin(), hosts.end(), options_.host) == hosts.end()) return Status();
    Room& room = rooms_[id];
    if (room.expected) return InvalidArgument(Text("room ", id, " is in use by another request"));
    ended_.Erase(id);
    room.expected = true;
    room.prompt_tokens = prompt_tokens;
    room.dp = dp;
    room.until = Deadline::AfterMs(options_.bootstrap_timeout_ms);
    if (const Status* const declined = declined_.Find(id); declined != nullptr) {
      const Status why = *declined;
      declined_.Erase(id);
      Fail(id, why);
      return Status();
    }
    for (Opening& opening : room.openings) {
      if (!Accept(id, room, opening)) break;  // the room is gone
    }
    return Status();
  }

  void Begin(uint64_t id, std::vector<int32_t> pages) {
    Room* const room = FindExpected(id);
    if (room == nullptr) return;
    CHECK(static_cast<int64_t>(pages.size()) * kPage >= room->prompt_tokens, pages.size(),
          " pages");
    room->pages = std::move(pages);
    room->begun = true;
    Activate(id, *room);
  }

  void PagesWritten(uint64_t id, int64_t layer, const std::vector<Range>& tokens) {
    Room* const room = FindExpected(id);
    if (room == nullptr) return;
    const int64_t first = layer == kAllLayers ? 0 : layer;
    const int64_t end = layer == kAllLayers ? cache_.shape().layers : layer + 1;
    CHECK(0 <= first && end <= cache_.shape().layers, layer);
    for (int64_t l = first; l < end; ++l) {
      for (const Range& each : tokens) {
        CHECK(0 <= each.begin && each.begin <= each.end && each.end <= room->prompt_tokens,
              each.begin, " ", each.end, " of ", room->prompt_tokens);
        room->written.push_back({static_cast<int32_t>(l), each});
      }
    }
    Activate(id, *room);
  }

  void Finish(uint64_t id, std::string metadata) {
    Room* const room = FindExpected(id);
    if (room == nullptr) return;
    CHECK(static_cast<int64_t>(metadata.size()) <= kMaxMetadata, metadata.size());
    room->metadata = std::move(metadata);
    room->finished = true;
    if (room->opened) room->until = Deadline::AfterMs(options_.waiting_timeout_ms);
    Activate(id, *room);
  }

  void Fail(uint64_t id, const Status& why) {
    const auto found = rooms_.find(id);
    if (found == rooms_.end()) return;
    for (const Opening& opening : found->second.openings) {
      Link* const link = loop_.Find(opening.link);
      if (link == nullptr) continue;
      link->VoidRun(opening.key);
      peers_[opening.link].active.erase(opening.order);
      if (opening.accepted) {
        link->Send(CancelMessage{opening.key, why.code(), why.message()});
      } else {
        link->Send(RefusedMessage{opening.key, why.code(), why.message()});
      }
    }
    if (found->second.expected && !found->second.opened) ++counters_.bootstrap_failures;
    End(id, why);
  }

 private:
  using Room = SentRoom;
  using Opening = SentRoom::Opening;
  struct Peer {
    HelloMessage hello;
    std::map<uint64_t, uint64_t> active;  // rooms with something to send, by their order
  };

  HelloMessage Hello(TransferRole role) const {
    HelloMessage hello{.role = role,
                       .server = options_.server,
                       .host = options_.host,
                       .layout = options_.layout,
                       .side = {cache_.shape(), kPage, options_.model},
                       .pages = cache_.pages(),
                       .checksum = options_.checksum};
    if (options_.host == 0) hello.addresses = addresses_;
    ways_->WriteTo(hello);
    return hello;
  }

  Room* FindExpected(uint64_t id) {
    const auto found = rooms_.find(id);
    return found == rooms_.end() || !found->second.expected ? nullptr : &found->second;
  }

  void Activate(uint64_t id, const Room& room) {
    if (!room.begun) return;
    for (const Opening& each : room.openings) {
      if (each.accepted && !each.done) peers_[each.link].active[each.order] = id;
    }
  }

  // ---- LinkOwner

  Status OnMessage(Link& link, MessageType type, const std::string& body) override {
    switch (type) {
      case MessageType::kHello:
        return OnHello(link, body);
      case MessageType::kOpen:
        return OnOpen(link, body);
      case MessageType::kAck:
        return OnAck(link, body);
      case MessageType::kCancel:
        return OnCancel(link, body);
      case MessageType::kReport:
        return OnReport(link, body);
      default:
        return InvalidArgument(Text("a prefill server can't do anything with a ", NameOf(type)));
    }
  }

  StatusOr<std::vector<iovec>> PlaceRun(Link&, const RunHeader&, int64_t) override {
    return InvalidArgument("a prefill server does not take keys");
  }
  Status RunArrived(Link&, const RunHeader&, const RunTrailer&) override { return Status(); }

  Status OnHello(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const HelloMessage hello, Decode<HelloMessage>(body));
    if (link.ready()) return InvalidArgument("a second HELLO");
    if (reporter_.Owns(link)) return reporter_.OnHello(link, hello);
    if (hello.role == TransferRole::kPrefill) {
      return InvalidArgument("this is a prefill server, and so is the one that connects");
    }
    if (hello.role == TransferRole::kFollower &&
        (options_.host != 0 || hello.server != options_.server || hello.host == 0)) {
      return InvalidArgument("a host of another server wants to report here");
    }
    if (hello.role == TransferRole::kDecode && options_.host == 0 && options_.layout.hosts > 1 &&
        addresses_.empty()) {
      return Unavailable("this prefill server is still starting: its hosts have yet to meet");
    }
    peers_[link.id()] = {hello, {}};
    link.set_ready();
    link.Send(Hello(TransferRole::kPrefill));
    return Status();
  }

  Status OnOpen(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const OpenMessage open, Decode<OpenMessage>(body));
    const HelloMessage& hello = peers_[link.id()].hello;
    if (hello.role != TransferRole::kDecode || !Range{0, hello.layout.dp}.Contains(open.dp)) {
      return InvalidArgument(Text("an OPEN message for group ", open.dp, " of ", hello.layout.dp));
    }
    const uint64_t id = open.key.room;
    const auto refuse = [&](StatusCode code, const std::string& why) {
      link.Send(RefusedMessage{open.key, code, why});
      return Status();
    };
    if (const Status* const old = ended_.Find(id); old != nullptr) {
      return refuse(old->ok() ? StatusCode::kInvalidArgument : old->code(),
                    Text("room ", id, " is over: ", old->ok() ? "it was sent" : old->message()));
    }
    if (rooms_.size() >= kMostRooms && !rooms_.contains(id)) {
      return refuse(StatusCode::kUnavailable, "too many rooms wait on the prefill server");
    }
    if (!ways_->Has(open.backend)) {
      return refuse(StatusCode::kInvalidArgument,
                    Text("this prefill server sends no keys by ", NameOf(open.backend)));
    }
    const auto [found, is_new] = rooms_.try_emplace(id);
    Room& room = found->second;
    // Other hosts than 0 hear of a request only when it is computed.
    if (is_new) {
      room.until = Deadline::AfterMs(options_.host > 0 ? kLongMs : options_.bootstrap_timeout_ms);
    }
    for (const Opening& other : room.openings) {
      if (other.server != hello.server || other.dp != open.dp || other.host == hello.host) {
        return refuse(
            StatusCode::kInvalidArgument,
            Text("room ", id, " is already open for host ", other.host, ", group ", other.dp,
                 " of ", other.server == hello.server ? "this" : "another", " decode server"));
      }
    }
    room.openings.push_back({.link = link.id(),
                             .order = next_order_++,
                             .key = open.key,
                             .server = hello.server,
                             .host = hello.host,
                             .dp = open.dp,
                             .prompt_tokens = open.prompt_tokens,
                             .skip = open.skip,
                             .backend = open.backend});
    if (room.expected) Accept(id, room, room.openings.back());
    return Status();
  }

  // False if the room failed and is gone.
  bool Accept(uint64_t id, Room& room, Opening& opening) {
    if (opening.prompt_tokens != room.prompt_tokens) {
      Fail(id, InvalidArgument(Text("room ", id, ": the prompt has ", room.prompt_tokens,
                                    " tokens on the prefill server, ", opening.prompt_tokens,
                                    " on the decode server")));
      return false;
    }
    Link* const link = loop_.Find(opening.link);
    if (link == nullptr) return true;  // OnLost is about to come
    opening.accepted = true;
    link->Send(AcceptedMessage{opening.key, room.dp});
    if (room.begun) peers_[opening.link].active[opening.order] = id;
    const auto accepted = std::count_if(room.openings.begin(), room.openings.end(),
                                        [](const Opening& each) { return each.accepted; });
    const auto hosts = HostsOfRoom(peers_[opening.link].hello.layout, opening.dp).size();
    if (!room.opened && static_cast<size_t>(accepted) == hosts) {
      room.opened = true;
      ++counters_.rooms_opened;
      // How long a prompt waits and computes is up to the engine.
      room.until = Deadline::AfterMs(room.finished ? options_.waiting_timeout_ms : kLongMs);
      Tell({.kind = SenderEvent::Kind::kOpened, .room = id});
    }
    return true;
  }

  Status OnAck(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const AckMessage ack, Decode<AckMessage>(body));
    const auto found = rooms_.find(ack.key.room);
    Opening* const opening =
        found == rooms_.end() ? nullptr : found->second.Find(link.id(), ack.key);
    if (opening == nullptr) {
      // The fence: what has been copied may be another request's by now.
      link.Send(CancelMessage{ack.key, StatusCode::kCancelled,
                              Text("room ", ack.key.room, " was over before all of it had come")});
      return Status();
    }
    if (!opening->done) return InvalidArgument(Text("an ACK of room ", ack.key.room, " too early"));
    opening->acked = true;
    link.Send(ReleasedMessage{ack.key});
    Room& room = found->second;
    room.all_acked = room.opened && std::all_of(room.openings.begin(), room.openings.end(),
                                                [](const Opening& each) { return each.acked; });
    EndIfComplete(ack.key.room);
    return Status();
  }

  Status OnCancel(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const CancelMessage cancel, Decode<CancelMessage>(body));
    const Status why(cancel.code, Text("the decode server: ", cancel.text));
    const auto found = rooms_.find(cancel.key.room);
    if (found == rooms_.end()) {
      Decline(cancel.key.room, why);
      return Status();
    }
    Room& room = found->second;
    Opening* const opening = room.Find(link.id(), cancel.key);
    // It may be late, of an earlier opening; or of a room that its decode server never opens.
    if (opening == nullptr && !room.openings.empty()) return Status();
    if (room.expected) {
      Fail(cancel.key.room, why);
      return Status();
    }
    // The request is still to come: forgotten, as if it had not been opened.
    room.openings.remove_if([&](const Opening& each) { return &each == opening; });
    if (room.openings.empty()) {
      rooms_.erase(found);
      Decline(cancel.key.room, why);
    }
    return Status();
  }

  Status OnReport(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const ReportMessage report, Decode<ReportMessage>(body));
    const HelloMessage& hello = peers_[link.id()].hello;
    if (hello.role != TransferRole::kFollower) {
      return InvalidArgument("a REPORT of another server's host");
    }
    Room* const room = FindExpected(report.room);
    if (room == nullptr) return Status();
    if (report.code != StatusCode::kOk) {
      Fail(report.room, Status(report.code, Text("host ", hello.host, ": ", report.text)));
      return Status();
    }
    room->reported.insert(hello.host);
    EndIfComplete(report.room);
    return Status();
  }

  void OnLost(Link& link, const Status& why) override {
    if (reporter_.Owns(link)) {
      reporter_.OnLost();
      FailAll([](const Room& room) { return room.expected; }, LostText("host 0", why));
      return;
    }
    const auto found = peers_.find(link.id());
    if (found == peers_.end()) return;  // never said who it is
    const HelloMessage hello = found->second.hello;
    peers_.erase(found);
    ++counters_.peers_lost;
    if (hello.role == TransferRole::kFollower) {
      FailAll(
          [&](const Room& room) {
            if (!room.expected || room.reported.contains(hello.host)) return false;
            const std::vector<int> hosts = HostsOfRoom(options_.layout, room.dp);
            return std::find(hosts.begin(), hosts.end(), hello.host) != hosts.end();
          },
          LostText(Text("host ", hello.host, " of this server"), why));
      return;
    }
    // Who had only opened a room leaves it for another; a request whose decode host is gone fails.
    for (auto each = rooms_.begin(); each != rooms_.end();) {
      if (!each->second.expected) {
        each->second.openings.remove_if([&](const Opening& o) { return o.link == link.id(); });
      }
      each = !each->second.expected && each->second.openings.empty() ? rooms_.erase(each)
                                                                     : std::next(each);
    }
    FailAll(
        [&](const Room& room) {
          return std::any_of(room.openings.begin(), room.openings.end(), [&](const Opening& each) {
            return each.link == link.id() && !each.acked;
          });
        },
        LostText(Text("host ", hello.host, " of the decode server"), why));
  }

  static Status LostText(const std::string& who, const Status& why) {
    return Unavailable(Text(who, " was lost: ", why.message()));
  }

  template <typename Condition>
  void FailAll(const Condition& condition, const Status& why) {
    std::vector<uint64_t> ids;
    for (const auto& [id, room] : rooms_) {
      if (condition(room)) ids.push_back(id);
    }
    for (const uint64_t id : ids) Fail(id, why);
  }

  int64_t Tick() override {
    int64_t next_ms = kNever;
    std::vector<uint64_t> late;
    for (auto& [id, room] : rooms_) {
      if (room.until.Passed() && !Moves(room)) {
        late.push_back(id);
      } else {
        next_ms = std::min(next_ms, room.until.RemainingMs());
      }
    }
    for (const uint64_t id : late) {
      Fail(id,
           rooms_[id].LateStatus(id, options_.bootstrap_timeout_ms, options_.waiting_timeout_ms));
    }
    return next_ms;
  }

  // Gives a room more time whose keys still leave, or wait for those of older rooms that do.
  bool Moves(Room& room) {
    for (const Opening& each : room.openings) {
      const Link* const link = room.opened && !each.done ? loop_.Find(each.link) : nullptr;
      if (link != nullptr) room.until = link->KeysMoveUntil(options_.waiting_timeout_ms);
    }
    return !room.until.Passed();
  }

  // ---- Sending

  void Refill(Link& link) override {
    const auto peer = peers_.find(link.id());
    if (peer == peers_.end()) return;
    auto& active = peer->second.active;
    while (!active.empty()) {
      const auto [order, id] = *active.begin();
      const auto found = rooms_.find(id);
      Opening* const opening = found == rooms_.end() ? nullptr : found->second.Find(order);
      if (opening != nullptr && SendNext(id, found->second, *opening, link)) return;
      active.erase(order);
    }
  }

  // Sends the next run, or the end; false if there is nothing to send for now.
  bool SendNext(uint64_t id, Room& room, Opening& opening, Link& link) {
    const int64_t row = cache_.shape().latent_bytes() + cache_.shape().index_bytes();
    const auto next =
        room.Next(opening, std::clamp<int64_t>(options_.run_tokens, 1, kMaxRunBytes / row));
    if (next) {
      if (options_.failure_probability > 0 &&
          std::uniform_real_distribution<double>()(random_) < options_.failure_probability) {
        Fail(id, InternalError(Text("room ", id, ": a run of layer ", next->layer,
                                    " failed on purpose (CAUSEWAY_TEST_DISAGG_FAILURE_PROB)")));
        return link.HasOutput();
      }
      SendRun(room, opening, link, next->layer, next->tokens);
      opening.next_sent = next->tokens.end;
      return true;
    }
    if (!room.finished || opening.done) return false;
    opening.done = true;
    room.until = Deadline::AfterMs(options_.waiting_timeout_ms);
    link.Send(DoneMessage{opening.key, opening.token_layers, room.metadata});
    return true;
  }

  void SendRun(Room& room, Opening& opening, Link& link, int32_t layer, Range part) {
    const KvShape& shape = cache_.shape();
    const RunHeader header{opening.key, part.begin, static_cast<int32_t>(part.size()), layer};
    const TokenPages pages{room.pages};
    const bool checks = options_.checksum || peers_[link.id()].hello.checksum;
    std::vector<iovec> latents;
    std::string index_rows;
    uint64_t checksum = 0;
    if (checks || opening.by_tcp()) {
      latents = LatentPieces(cache_, layer, pages, part);
      index_rows.resize(static_cast<size_t>(part.size() * shape.index_bytes()));
      LoadIndexRows(cache_, layer, pages, part, index_rows.data());
    }
    if (checks) {
      checksum = ChecksumOf(latents, shape.latent_bytes(), index_rows.data(), shape.index_bytes(),
                            part.size());
    }
    if (opening.by_tcp()) {
      link.SendRun(header, std::move(latents), std::move(index_rows), checksum);
    } else {
      link.Send(RunInMemoryMessage{header, checksum, room.PagesOf(part)});
    }
    const int64_t bytes = part.size() * (shape.latent_bytes() + shape.index_bytes());
    opening.token_layers += part.size();
    room.bytes += bytes;
    if (!room.first_run) room.first_run = Clock::now();
    counters_.Count(opening.backend, bytes);
  }

  // ---- Ends

  void EndIfComplete(uint64_t id) {
    const Room& room = rooms_[id];
    if (!room.all_acked) return;
    if (options_.host == 0) {
      for (const int host : HostsOfRoom(options_.layout, room.dp)) {
        if (host != 0 && !room.reported.contains(host)) return;
      }
    }
    End(id, Status());
  }

  void End(uint64_t id, const Status& status) {
    const auto found = rooms_.find(id);
    const Room& room = found->second;
    if (room.expected) {
      SenderEvent event{.room = id, .status = status, .bytes = room.bytes};
      if (room.first_run) {
        const auto time = Clock::now() - *room.first_run;
        event.seconds = std::chrono::duration<double>(time).count();
      }
      if (status.ok()) {
        ++counters_.rooms_completed;
        counters_.completed_bytes += room.bytes;
        counters_.completed_ns += static_cast<int64_t>(event.seconds * 1e9);
      } else {
        ++counters_.rooms_failed;
      }
      if (options_.host > 0) {
        reporter_.Report({id, room.bytes, status.code(), status.message()});
      }
      Tell(event);
    }
    if (room.expected || !status.ok()) {
      ended_.Set(id, status);
    }
    rooms_.erase(found);
  }

  // A decode server does not want the room of a request that is still to come.
  void Decline(uint64_t id, const Status& why) {
    if (ended_.Find(id) == nullptr && declined_.Find(id) == nullptr) declined_.Set(id, why);
  }

  void Tell(const SenderEvent& event) {
    loop_.Tell([this, event] { on_event_(event); });
  }

  static constexpr int64_t kLongMs = int64_t{1000} * 3600 * 24 * 365;

  const TransferOptions options_;
  const KvCache& cache_;
  const std::function<void(const SenderEvent&)> on_event_;
  const int port_;
  const std::unique_ptr<OfferedWays> ways_;
  TransferCounters counters_;

  std::mt19937_64 random_;
  std::vector<std::string> addresses_;
  std::unordered_map<uint64_t, Room> rooms_;
  std::unordered_map<uint64_t, Peer> peers_;  // by link
  EndedRooms ended_;                          // so that who opens one of them late is told at once
  EndedRooms declined_;                       // by their decode server, before their request came
  uint64_t next_order_ = 1;

  LinkLoop loop_;
  Reporter reporter_;
};

KvSender::KvSender(std::unique_ptr<Work> work) : work_(std::move(work)) {}
KvSender::~KvSender() = default;

StatusOr<std::unique_ptr<KvSender>> KvSender::Make(
    const TransferOptions& options, const KvCache& cache,
    std::function<void(const SenderEvent&)> on_event) {
  TransferOptions complete = options;
  if (complete.server.empty()) complete.server = ServerId::Random();
  CAUSEWAY_ASSIGN_OR_RETURN(Socket listener, ListenAt(options.listen));
  CAUSEWAY_ASSIGN_OR_RETURN(std::unique_ptr<OfferedWays> ways,
                            OfferedWays::Make(complete.backend, cache, listener));
  return std::unique_ptr<KvSender>(new KvSender(std::make_unique<Work>(
      complete, cache, std::move(ways), std::move(on_event), std::move(listener))));
}

int KvSender::port() const { return work_->port(); }

void KvSender::SetAddresses(std::vector<std::string> addresses) {
  work_->loop().RunNow([&] { work_->SetAddresses(std::move(addresses)); });
}

Status KvSender::Expect(uint64_t room, int64_t prompt_tokens, int dp) {
  Status status;
  work_->loop().RunNow([&] { status = work_->Expect(room, prompt_tokens, dp); });
  return status;
}

void KvSender::Begin(uint64_t room, std::vector<int32_t> pages) {
  work_->loop().Post([work = work_.get(), room, pages = std::move(pages)]() mutable {
    work->Begin(room, std::move(pages));
  });
}

void KvSender::PagesWritten(uint64_t room, int64_t layer, std::span<const Range> tokens) {
  work_->loop().Post(
      [work = work_.get(), room, layer, runs = std::vector<Range>(tokens.begin(), tokens.end())] {
        work->PagesWritten(room, layer, runs);
      });
}

void KvSender::Finish(uint64_t room, std::string metadata) {
  work_->loop().Post([work = work_.get(), room, metadata = std::move(metadata)]() mutable {
    work->Finish(room, std::move(metadata));
  });
}

void KvSender::Cancel(uint64_t room, const Status& why) {
  work_->loop().RunNow([&] { work_->Fail(room, why); });
}

const TransferCounters& KvSender::counters() const { return work_->counters(); }

}  // namespace causeway
