#include "transfer/receiver.h"

#include <algorithm>
#include <limits>
#include <map>
#include <unordered_map>
#include <utility>

#include "kernels/op_table.h"
#include "transfer/farewells.h"
#include "transfer/link_loop.h"
#include "transfer/prefill_servers.h"
#include "transfer/received_room.h"
#include "transfer/reporter.h"
#include "transfer/row_intake.h"
#include "transfer/ways.h"

namespace causeway {
namespace {

constexpr int64_t kLongMs = int64_t{1000} * 3600 * 24 * 365;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

}  // namespace

// What the transfer thread owns; see LinkLoop for the lock.
class KvReceiver::Work : public LinkOwner {
 public:
  Work(const TransferOptions& options, const KvCache& cache, RowConversions conversions,
       std::function<void(const ReceiverEvent&)> on_event, Socket listener)
      : options_(options),
        cache_(cache),
        conversions_(std::move(conversions)),
        on_event_(std::move(on_event)),
        port_(listener.fd() >= 0 ? PortOf(listener) : 0),
        ways_(
            options.backend, [this](LinkLoop::Task task) { loop_.Post(std::move(task)); },
            options.link.heartbeat_ms * (options.link.missed_heartbeats + 1)),
        loop_(*this, options.link, std::move(listener)),
        reporter_(loop_, Hello(TransferRole::kFollower)) {
    loop_.Start();
  }
  ~Work() override {
    loop_.Stop();
    servers_.Clear();
    ways_.Stop();
  }

  // What the options ask of this host.
  Status Check() { return ways_.Check(); }

  int port() const { return port_; }
  LinkLoop& loop() { return loop_; }
  const TransferCounters& counters() const { return counters_; }
  void SetReportAddress(std::string address) { reporter_.SetAddress(std::move(address)); }

  void Open(RoomOpen open) {
    const uint64_t id = open.room;
    const auto fail = [&](const Status& why) { Tell({.room = id, .status = why}); };
    const Status good = CheckOpen(open, options_.layout, cache_.pages());
    if (!good.ok()) return fail(good);
    const std::vector<int> hosts = HostsOfRoom(options_.layout, open.dp);
    if (std::find(hosts.begin(), hosts.end(), options_.host) == hosts.end()) return;
    const auto [found, is_new] = rooms_.try_emplace(id);
    if (!is_new) return fail(InvalidArgument(Text("room ", id, ": it is open already")));
    Room& room = found->second;
    // Host 0 takes part in every room, for its end, and has keys only if it has ranks of the group.
    const std::vector<int> group = HostsOfGroup(options_.layout, open.dp);
    const bool wants = std::find(group.begin(), group.end(), options_.host) != group.end();
    if (!wants) open.skip = open.prompt_tokens;
    room.ticket = next_ticket_++;
    room.server = PrefillServers::AddressOf(open.host, open.port);
    room.tokens = ReceivedTokens(cache_.shape().layers, {open.skip, open.prompt_tokens});
    room.open = std::move(open);
    room.until = Deadline::AfterMs(options_.bootstrap_timeout_ms);
    room.parts[0] = {};
    Advance(room, 0);
  }

  // Ends a room that is still open. `tell_prefill`: it does not know yet.
  void Fail(uint64_t id, const Status& why,
            ReceiverEvent::Kind kind = ReceiverEvent::Kind::kFailed) {
    const auto found = rooms_.find(id);
    if (found == rooms_.end()) return;
    const Room& room = found->second;
    for (const auto& [host, part] : room.parts) {
      if (host == 0 && part.stage == Stage::kWaiting) farewells_.Say(room.server, {id, why});
      Link* const link = loop_.Find(part.link);
      if (link == nullptr) continue;
      link->DropRun(room.key());
      if (part.stage != Stage::kReleased && part.stage != Stage::kRefused) {
        link->Send(CancelMessage{room.key(), why.code(), why.message()});
      }
    }
    ++counters_.rooms_failed;
    if (!room.accepted) ++counters_.bootstrap_failures;
    if (options_.host > 0) reporter_.Report({id, 0, why.code(), why.message()});
    Tell({.kind = kind, .room = id, .status = why});
    rooms_.erase(found);
  }

  // Has the prefill server told that a room is over which has not been opened there.
  void Decline(const std::string& host, int port, const RoomClose& close) {
    if (options_.host > 0) return;
    const std::string server = PrefillServers::AddressOf(host, port);
    farewells_.Say(server, close);
    PrefillServers::Host& at = servers_.At(server, 0);
    Link* const link = at.link == 0 ? nullptr : loop_.Find(at.link);
    if (link != nullptr && link->ready()) {
      farewells_.Send(server, *link, next_ticket_);
    } else if (link == nullptr && at.attempt == 0) {
      Connect(server, 0);
    }
  }

 private:
  using Room = ReceivedRoom;
  using Part = ReceivedRoom::Part;
  using Stage = ReceivedRoom::Stage;
  struct LinkPlace {
    std::string server;
    int host = 0;
    bool follower = false;  // another host of this server; `host` is its number
  };

  HelloMessage Hello(TransferRole role) const {
    return {.role = role,
            .server = options_.server,
            .host = options_.host,
            .layout = options_.layout,
            .side = {cache_.shape(), kPage, options_.model},
            .pages = cache_.pages(),
            .checksum = options_.checksum};
  }

  // The room and its part on this link; null where it is over, so that what comes is late.
  Room* Find(const Link& link, const RoomKey& key, Part*& part) {
    const auto found = rooms_.find(key.room);
    if (found == rooms_.end() || found->second.ticket != key.ticket) return nullptr;
    part = found->second.PartOf(link.id());
    return part == nullptr ? nullptr : &found->second;
  }

  // Of a link to one.
  PrefillServers::Host& HostOf(const Link& link) {
    const LinkPlace& place = places_.at(link.id());
    return servers_.At(place.server, place.host);
  }

  // ---- Connecting

  // Has the room opened on a prefill host, as far as that is possible now.
  void Advance(Room& room, int host) {
    Part& part = room.parts[host];
    if (part.stage != Stage::kWaiting) return;
    PrefillServers::Host& at = servers_.At(room.server, host);
    Link* const link = at.link == 0 ? nullptr : loop_.Find(at.link);
    if (link == nullptr && at.attempt == 0) return Connect(room.server, host);
    if (link == nullptr || !link->ready()) return;
    part.stage = Stage::kOpening;
    part.link = at.link;
    link->Send(
        OpenMessage{room.key(), room.open.prompt_tokens, room.open.skip, room.open.dp, at.way()});
  }

  void Connect(const std::string& server, int host) {
    const auto address = servers_.AddressAt(server, host);
    if (!address.ok()) return FailAll(server, host, /*waiting=*/true, 0, address.status());
    PrefillServers::Host& at = servers_.At(server, host);
    const uint64_t attempt = ++last_attempt_;
    at.attempt = attempt;
    at.link = 0;
    loop_.Connect(*address, Deadline::AfterMs(options_.connect_timeout_ms),
                  [this, server, host, attempt](StatusOr<Socket> socket) {
                    OnConnected(server, host, attempt, std::move(socket));
                  });
  }

  void OnConnected(const std::string& server, int host, uint64_t attempt, StatusOr<Socket> socket) {
    PrefillServers::Host& at = servers_.At(server, host);
    if (at.attempt != attempt) return servers_.ForgetIfUnused(server);  // to where it no longer is
    at.attempt = 0;
    if (!socket.ok()) {
      ++counters_.peers_lost;
      FailAll(server, host, /*waiting=*/true, 0,
              Unavailable(Text("can't reach ", PrefillServers::NameOf(server, host), ": ",
                               socket.status().message())));
      if (host == 0) farewells_.Forget(server);
      return servers_.ForgetIfUnused(server);
    }
    Link& link = loop_.Add(std::move(*socket));
    at.link = link.id();
    places_[link.id()] = {server, host};
    link.Send(Hello(TransferRole::kDecode));
  }

  // All rooms that wait for a link to this prefill host (`waiting`), or have been opened by `link`
  // and have not got all they need.
  void FailAll(const std::string& server, int host, bool waiting, uint64_t link,
               const Status& why) {
    std::vector<uint64_t> ids;
    for (const auto& [id, room] : rooms_) {
      const auto part = room.parts.find(host);
      if (room.server != server || part == room.parts.end()) continue;
      const Part& at = part->second;
      if (at.stage == Stage::kWaiting ? waiting : at.link == link && at.stage != Stage::kReleased) {
        ids.push_back(id);
      }
    }
    for (const uint64_t id : ids) Fail(id, why);
  }

  // ---- LinkOwner

  Status OnMessage(Link& link, MessageType type, const std::string& body) override {
    switch (type) {
      case MessageType::kHello:
        return OnHello(link, body);
      case MessageType::kAccepted:
        return OnAccepted(link, body);
      case MessageType::kRefused:
        return OnEnd<RefusedMessage>(link, body, ReceiverEvent::Kind::kRefused);
      case MessageType::kCancel:
        return OnEnd<CancelMessage>(link, body, ReceiverEvent::Kind::kFailed);
      case MessageType::kRunInMemory:
        return OnRunInMemory(link, body);
      case MessageType::kDone:
        return OnDone(link, body);
      case MessageType::kReleased:
        return OnReleased(link, body);
      case MessageType::kReport:
        return OnReport(link, body);
      default:
        return InvalidArgument(Text("a decode server can't do anything with a ", NameOf(type)));
    }
  }

  void Refill(Link&) override {}

  Status OnHello(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(HelloMessage hello, Decode<HelloMessage>(body));
    if (link.ready()) return InvalidArgument("a second HELLO");
    if (reporter_.Owns(link)) return reporter_.OnHello(link, hello);
    const auto place = places_.find(link.id());
    if (place == places_.end()) {  // it has connected to us
      if (hello.role != TransferRole::kFollower || hello.server != options_.server ||
          options_.host != 0 || hello.host == 0) {
        return InvalidArgument("only hosts of this decode server can connect here");
      }
      places_[link.id()] = {"", hello.host, true};
      link.set_ready();
      link.Send(Hello(TransferRole::kDecode));
      return Status();
    }
    const auto& [server, host, follower] = place->second;
    if (hello.role != TransferRole::kPrefill || hello.host != host) {
      return InvalidArgument(
          Text("at the address of ", PrefillServers::NameOf(server, host), " is host ", hello.host,
               " of a ", hello.role == TransferRole::kPrefill ? "prefill" : "decode", " server"));
    }
    CAUSEWAY_RETURN_IF_ERROR(
        Compatible(hello.side, {cache_.shape(), kPage, options_.model}, conversions_.available()));
    std::map<int, PrefillServers::Host>& hosts = servers_.Hosts(server);
    if (host > 0 && hello.server != hosts[0].hello.server) {
      return Unavailable(Text(PrefillServers::NameOf(server, host),
                              " has another server's identity: one of them "
                              "was started again"));
    }
    if (host == 0) DropOldHosts(server, hello.server);
    PrefillServers::Host& at = hosts[host];
    auto memory = ways_.Choose(
        hello, link.fd(), [this, id = link.id()](const RunInMemoryMessage& run, const auto& rows) {
          OnRead(id, run, rows);
        });
    if (!memory.ok()) {
      return Status(memory.status().code(),
                    Text(PrefillServers::NameOf(server, host), ": ", memory.status().message()));
    }
    at.memory = std::move(*memory);
    at.intake = std::make_unique<RowIntake>(cache_, conversions_, hello.side.shape,
                                            options_.checksum || hello.checksum);
    at.hello = std::move(hello);
    link.set_ready();
    if (host == 0) farewells_.Send(server, link, next_ticket_);
    for (auto& [id, room] : rooms_) {
      if (room.server == server && room.parts.contains(host)) Advance(room, host);
    }
    return Status();
  }

  // A server that was started again: links to its other hosts, and those on their way there, are of
  // its former life.
  void DropOldHosts(const std::string& server, const ServerId& now) {
    std::map<int, PrefillServers::Host>& hosts = servers_.Hosts(server);
    const bool same = hosts[0].hello.server == now;
    for (auto& [host, at] : hosts) {
      if (host > 0 && !same) at.attempt = 0;
      Link* const link = host == 0 || at.link == 0 ? nullptr : loop_.Find(at.link);
      if (link != nullptr && at.hello.server != now) {
        link->Close(Unavailable(Text("the prefill server at ", server, " was started again")));
      }
    }
  }

  Status OnAccepted(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const AcceptedMessage accepted, Decode<AcceptedMessage>(body));
    Part* part = nullptr;
    Room* const room = Find(link, accepted.key, part);
    if (room == nullptr) return Status();
    const LinkPlace& place = places_[link.id()];
    const HelloMessage& hello = servers_.At(place.server, place.host).hello;
    if (part->stage != Stage::kOpening || !Range{0, hello.layout.dp}.Contains(accepted.dp)) {
      return InvalidArgument(Text("an ACCEPTED message for group ", accepted.dp, " of ",
                                  hello.layout.dp, " of room ", accepted.key.room));
    }
    part->stage = Stage::kAccepted;
    // How long a prompt waits and computes is up to the prefill server, which tells when it gives
    // up, and sends signs of life until then.
    room->until = Deadline::AfterMs(kLongMs);
    if (place.host != 0) return Status();
    room->accepted = true;
    ++counters_.rooms_opened;
    Tell({.kind = ReceiverEvent::Kind::kAccepted, .room = accepted.key.room});
    const std::vector<int> hosts = HostsOfRoom(hello.layout, accepted.dp);
    for (const int host : hosts) room->parts[host];  // all, before one of them can fail the room
    for (const int host : hosts) {
      const auto again = rooms_.find(accepted.key.room);
      if (again == rooms_.end()) break;
      Advance(again->second, host);
    }
    return Status();
  }

  template <typename Message>
  Status OnEnd(Link& link, const std::string& body, ReceiverEvent::Kind kind) {
    CAUSEWAY_ASSIGN_OR_RETURN(const Message end, Decode<Message>(body));
    Part* part = nullptr;
    const Room* const room = Find(link, end.key, part);
    if (room == nullptr) return Status();
    part->stage = Stage::kRefused;
    // By another host than host 0, when that has taken it.
    if (room->accepted) kind = ReceiverEvent::Kind::kFailed;
    Fail(end.key.room, Status(end.code, Text("the prefill server: ", end.text)), kind);
    return Status();
  }

  // ---- Keys

  // The room and part that a run belongs to; none: it is late. An error: it can't be right.
  StatusOr<Room*> RoomOfRun(Link& link, const RunHeader& run, Part*& part) {
    Room* const room = Find(link, run.key, part);
    if (room == nullptr) return room;
    if (part->stage != Stage::kAccepted || !room->tokens.Fits(run.layer, run.tokens())) {
      return InvalidArgument(
          Text("found keys of layer ", run.layer, ", tokens [", run.first, ", ", run.tokens().end,
               ") of room ", run.key.room, "; expected those of ", cache_.shape().layers,
               " layers, tokens [", room->open.skip, ", ", room->open.prompt_tokens, ")"));
    }
    return room;
  }

  StatusOr<std::vector<iovec>> PlaceRun(Link& link, const RunHeader& run, int64_t bytes) override {
    Part* part = nullptr;
    CAUSEWAY_ASSIGN_OR_RETURN(Room* const room, RoomOfRun(link, run, part));
    if (room == nullptr) return std::vector<iovec>{};
    RowIntake& intake = *HostOf(link).intake;
    if (bytes != intake.RunBytes(run.count)) {
      return InvalidArgument(Text("found ", bytes, " bytes of keys of ", run.count,
                                  " tokens; expected ", intake.RunBytes(run.count)));
    }
    return intake.Place(run, TokenPages{room->open.pages});
  }

  Status RunArrived(Link& link, const RunHeader& run, const RunTrailer& trailer) override {
    Part* part = nullptr;
    CAUSEWAY_ASSIGN_OR_RETURN(Room* const room, RoomOfRun(link, run, part));
    if (room == nullptr || !trailer.valid) return Status();
    RowIntake& intake = *HostOf(link).intake;
    Arrived(link, *room, *part, run,
            intake.Finish(run, TokenPages{room->open.pages}, trailer.checksum));
    return Status();
  }

  Status OnRunInMemory(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const RunInMemoryMessage message, Decode<RunInMemoryMessage>(body));
    Part* part = nullptr;
    CAUSEWAY_ASSIGN_OR_RETURN(Room* const room, RoomOfRun(link, message.run, part));
    if (room == nullptr) return Status();
    PrefillServers::Host& host = HostOf(link);
    if (host.memory == nullptr) return InvalidArgument("keys in memory that can't be read");
    ++part->reading;
    CAUSEWAY_RETURN_IF_ERROR(host.memory->Read(std::move(message)));
    link.HoldInput(host.memory->full());
    return Status();
  }

  // A run can be copied; or none will on this link any more.
  void OnRead(uint64_t from, const RunInMemoryMessage& message,
              const StatusOr<RemoteMemory::Rows>& rows) {
    Link* const link = loop_.Find(from);
    if (link == nullptr) return;
    if (!rows.ok()) return link->Close(rows.status());
    PrefillServers::Host& host = HostOf(*link);
    link->HoldInput(host.memory->full());
    // The room may be over, and its pages another's: here is the only place where they are written.
    Part* part = nullptr;
    Room* room = Find(*link, message.run.key, part);
    if (room == nullptr) return;
    --part->reading;
    Arrived(*link, *room, *part, message.run,
            host.intake->Copy(message.run, *rows, TokenPages{room->open.pages}, message.checksum));
    room = Find(*link, message.run.key, part);
    if (room == nullptr || part->reading > 0 || !part->done) return;
    const DoneMessage done = *std::exchange(part->done, std::nullopt);
    PartDone(*room, *part, places_[from].host, done);
  }

  // Notes a run that is in its place, or fails its room.
  void Arrived(const Link& link, Room& room, Part& part, const RunHeader& run, Status status) {
    const PrefillServers::Host& host = HostOf(link);
    const int64_t bytes = host.intake->RunBytes(run.count);
    if (status.ok()) status = room.Add(part, run, bytes);
    if (!status.ok()) {
      return Fail(run.key.room,
                  Status(status.code(), Text("room ", run.key.room, ": ", status.message())));
    }
    counters_.Count(host.way(), bytes);
    if (const auto progress = room.Progress()) Tell(*progress);
  }

  // ---- Ends

  Status OnDone(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(DoneMessage done, Decode<DoneMessage>(body));
    const uint64_t id = done.key.room;
    Part* part = nullptr;
    Room* const room = Find(link, done.key, part);
    if (room == nullptr) return Status();
    if (part->stage != Stage::kAccepted) {
      return InvalidArgument(Text("a DONE message of room ", id, " at the wrong time"));
    }
    room->until = Deadline::AfterMs(options_.waiting_timeout_ms);
    if (part->done) return InvalidArgument(Text("a second DONE message of room ", id));
    if (part->reading > 0) {
      part->done = std::move(done);
    } else {
      PartDone(*room, *part, places_[link.id()].host, done);
    }
    return Status();
  }

  // All keys that a prefill host has named are in their places.
  void PartDone(Room& room, Part& part, int host, const DoneMessage& done) {
    part.stage = Stage::kDone;
    const uint64_t id = done.key.room;
    const Status counted = room.CheckDone(host, part, done);
    if (!counted.ok()) return Fail(id, counted);
    if (host == 0) room.metadata = done.metadata;
    if (!room.AllAt(Stage::kDone)) return;
    const Status complete = room.CheckComplete();
    if (!complete.ok()) return Fail(id, complete);
    for (auto& [other, each] : room.parts) {
      each.stage = Stage::kAcked;
      if (Link* const to = loop_.Find(each.link)) to->Send(AckMessage{done.key});
    }
  }

  Status OnReleased(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const ReleasedMessage released, Decode<ReleasedMessage>(body));
    Part* part = nullptr;
    Room* const room = Find(link, released.key, part);
    if (room == nullptr) return Status();
    if (part->stage != Stage::kAcked) {
      return InvalidArgument(Text("a RELEASED message of room ", released.key.room, " too early"));
    }
    part->stage = Stage::kReleased;
    room->local_end = room->AllAt(Stage::kReleased);
    if (room->local_end) room->until = Deadline::AfterMs(options_.waiting_timeout_ms);
    CompleteIfAll(released.key.room);
    return Status();
  }

  Status OnReport(Link& link, const std::string& body) {
    CAUSEWAY_ASSIGN_OR_RETURN(const ReportMessage report, Decode<ReportMessage>(body));
    const auto place = places_.find(link.id());
    if (place == places_.end() || !place->second.follower) {
      return InvalidArgument("a REPORT of another server's host");
    }
    const auto found = rooms_.find(report.room);
    if (found == rooms_.end()) return Status();
    if (report.code != StatusCode::kOk) {
      Fail(report.room, Status(report.code, Text("host ", place->second.host, ": ", report.text)));
      return Status();
    }
    found->second.reported.insert(place->second.host);
    CompleteIfAll(report.room);
    return Status();
  }

  void CompleteIfAll(uint64_t id) {
    const auto found = rooms_.find(id);
    Room& room = found->second;
    if (!room.local_end) return;
    if (options_.host == 0) {
      for (const int host : HostsOfRoom(options_.layout, room.open.dp)) {
        if (host != 0 && !room.reported.contains(host)) return;
      }
    }
    const ReceiverEvent event = room.Completed();
    ++counters_.rooms_completed;
    counters_.completed_bytes += room.bytes;
    counters_.completed_ns += static_cast<int64_t>(event.seconds * 1e9);
    if (options_.host > 0) reporter_.Report({id, room.bytes, StatusCode::kOk, ""});
    Tell(event);
    rooms_.erase(found);
  }

  void OnLost(Link& link, const Status& why) override {
    if (reporter_.Owns(link)) {
      reporter_.OnLost();
      const Status status = Unavailable(Text("host 0 was lost: ", why.message()));
      while (!rooms_.empty()) Fail(rooms_.begin()->first, status);
      return;
    }
    const auto found = places_.find(link.id());
    if (found == places_.end()) return;  // never said who it is
    const LinkPlace place = found->second;
    places_.erase(found);
    ++counters_.peers_lost;
    if (place.follower) {
      const Status status =
          Unavailable(Text("host ", place.host, " of this server was lost: ", why.message()));
      std::vector<uint64_t> ids;
      for (const auto& [id, room] : rooms_) {
        const std::vector<int> hosts = HostsOfRoom(options_.layout, room.open.dp);
        const bool waits = std::find(hosts.begin(), hosts.end(), place.host) != hosts.end() &&
                           !room.reported.contains(place.host);
        if (waits) ids.push_back(id);
      }
      for (const uint64_t id : ids) Fail(id, status);
      return;
    }
    PrefillServers::Host& at = servers_.At(place.server, place.host);
    const bool current = at.link == link.id();
    if (current) {
      at.link = 0;
      at.intake = nullptr;
      at.memory = nullptr;
    }
    // A refusal keeps its own code; all else is a peer that is gone.
    const std::string text =
        Text("lost ", PrefillServers::NameOf(place.server, place.host), ": ", why.message());
    FailAll(place.server, place.host, /*waiting=*/current, link.id(),
            why.code() == StatusCode::kInvalidArgument ? InvalidArgument(text) : Unavailable(text));
    servers_.ForgetIfUnused(place.server);
  }

  // Gives a room more time whose keys wait for those of older rooms, which still come.
  bool Moves(Room& room) {
    for (const auto& [host, part] : room.parts) {
      const Link* const link = part.stage == Stage::kAccepted ? loop_.Find(part.link) : nullptr;
      if (link != nullptr) room.until = link->KeysMoveUntil(options_.waiting_timeout_ms);
    }
    return !room.until.Passed();
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
      Fail(id, rooms_[id].LateStatus(options_.bootstrap_timeout_ms, options_.waiting_timeout_ms));
    }
    return next_ms;
  }

  void Tell(ReceiverEvent event) {
    loop_.Tell([this, event = std::move(event)] { on_event_(event); });
  }

  const TransferOptions options_;
  const KvCache& cache_;
  const RowConversions conversions_;
  const std::function<void(const ReceiverEvent&)> on_event_;
  const int port_;
  TransferCounters counters_;

  std::unordered_map<uint64_t, Room> rooms_;
  WayTaker ways_;
  PrefillServers servers_;
  Farewells farewells_;
  std::unordered_map<uint64_t, LinkPlace> places_;  // by link
  uint64_t last_attempt_ = 0;
  uint64_t next_ticket_ = 1;

  LinkLoop loop_;
  Reporter reporter_;
};

KvReceiver::KvReceiver(std::unique_ptr<Work> work) : work_(std::move(work)) {}
KvReceiver::~KvReceiver() = default;

StatusOr<std::unique_ptr<KvReceiver>> KvReceiver::Make(
    const TransferOptions& options, const KvCache& cache, RowConversions conversions,
    std::function<void(const ReceiverEvent&)> on_event) {
  TransferOptions complete = options;
  if (complete.server.empty()) complete.server = ServerId::Random();
  Socket listener;
  if (options.layout.hosts > 1 && options.host == 0) {
    CAUSEWAY_ASSIGN_OR_RETURN(listener, ListenAt(options.listen));
  }
  auto work = std::make_unique<Work>(complete, cache, std::move(conversions), std::move(on_event),
                                     std::move(listener));
  CAUSEWAY_RETURN_IF_ERROR(work->Check());
  return std::unique_ptr<KvReceiver>(new KvReceiver(std::move(work)));
}

int KvReceiver::port() const { return work_->port(); }

void KvReceiver::SetReportAddress(std::string address) {
  work_->loop().RunNow([&] { work_->SetReportAddress(std::move(address)); });
}

void KvReceiver::Open(RoomOpen open) {
  work_->loop().Post(
      [work = work_.get(), open = std::move(open)]() mutable { work->Open(std::move(open)); });
}

void KvReceiver::Decline(const std::string& host, int port, const RoomClose& close) {
  work_->loop().Post([work = work_.get(), host, port, close] { work->Decline(host, port, close); });
}

void KvReceiver::Cancel(const RoomClose& close) {
  work_->loop().RunNow([&] { work_->Fail(close.room, close.why); });
}

const TransferCounters& KvReceiver::counters() const { return work_->counters(); }

}  // namespace causeway
