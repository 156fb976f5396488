#include "transfer/sender.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <unordered_map>

#include "kernels/op_table.h"
#include "transfer/link_loop.h"
#include "transfer/reporter.h"
#include "transfer/rows.h"
#include "transfer/shared_cache.h"

namespace causeway {
namespace {

// Rooms opened by decode servers for which no request has come; more are refused.
constexpr size_t kMostRooms = 65'536;
// Ended rooms that are remembered, so that who opens one of them late is told at once.
constexpr size_t kEndedRooms = 4096;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

using Clock = Deadline::Clock;

}  // namespace

// What the transfer thread owns; see LinkLoop for the lock.
class KvSender::Work : public LinkOwner {
 public:
  Work(const TransferOptions& options, const KvCache& cache,
       std::function<void(const SenderEvent&)> on_event, Socket listener)
      : options_(options),
        cache_(cache),
        on_event_(std::move(on_event)),
        port_(PortOf(listener)),
        offer_(cache),
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
    ended_.erase(id);
    room.expected = true;
    room.prompt_tokens = prompt_tokens;
    room.dp = dp;
    room.until = Deadline::AfterMs(options_.bootstrap_timeout_ms);
    if (const auto declined = declined_.find(id); declined != declined_.end()) {
      const Status why = declined->second;
      declined_.erase(declined);
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
  struct Written {
    int32_t layer = 0;
    Range tokens;
  };
  // A room as one decode host has opened it.
  struct Opening {
    uint64_t link = 0;
    uint64_t order = 0;  // of opening, on all links: older ones are sent first
    RoomKey key;
    ServerId server;
    int host = 0;
    int dp = 0;
    int64_t prompt_tokens = 0;
    int64_t skip = 0;
    bool shared_memory = false;
    bool accepted = false;
    size_t next = 0;        // of Room::written
    int64_t next_sent = 0;  // of its tokens
    int64_t token_layers = 0;
    bool done = false;
    bool acked = false;
  };
  struct Room {
    bool expected = false;  // by the engine; else only opened by a decode host
    int64_t prompt_tokens = 0;
    int dp = 0;
    Deadline until = Deadline::AfterMs(0);
    bool opened = false;  // by all hosts
    bool begun = false;
    std::vector<int32_t> pages;
    std::vector<Written> written;
    bool finished = false;
    std::string metadata;
    std::list<Opening> openings;
    bool all_acked = false;
    std::set<int> reported;  // other hosts of this server that have ended it well
    std::optional<Clock::time_point> first_run;
    int64_t bytes = 0;
  };
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
    if (options_.backend != TransferBackend::kTcp) hello.memory = offer_.handle();
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
    if (const auto old = ended_.find(id); old != ended_.end()) {
      return refuse(old->second.ok() ? StatusCode::kInvalidArgument : old->second.code(),
                    Text("room ", id,
                         " is over: ", old->second.ok() ? "it was sent" : old->second.message()));
    }
    if (rooms_.size() >= kMostRooms && !rooms_.contains(id)) {
      return refuse(StatusCode::kUnavailable, "too many rooms wait on the prefill server");
    }
    if (open.shared_memory &&
        (options_.backend == TransferBackend::kTcp || cache_.latents_fd() < 0)) {
      return refuse(StatusCode::kInvalidArgument, "this prefill server has no shared memory");
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
                             .shared_memory = open.shared_memory});
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
        found == rooms_.end() ? nullptr : OpeningOf(found->second, link, ack.key);
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
    Opening* const opening = OpeningOf(room, link, cancel.key);
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
      const Room& room = rooms_[id];
      if (!room.expected) {
        Fail(id, DeadlineExceeded(Text("no request for room ", id,
                                       " came to the prefill server within ",
                                       options_.bootstrap_timeout_ms, " ms")));
      } else if (!room.opened) {
        Fail(id, DeadlineExceeded(Text("no decode server opened room ", id, " within ",
                                       options_.bootstrap_timeout_ms, " ms")));
      } else {
        Fail(id, DeadlineExceeded(Text("room ", id, " was not taken by the decode server within ",
                                       options_.waiting_timeout_ms, " ms")));
      }
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
      Opening* opening = nullptr;
      if (found != rooms_.end()) {
        for (Opening& each : found->second.openings) {
          if (each.order == order) opening = &each;
        }
      }
      if (opening != nullptr && SendNext(id, found->second, *opening, link)) return;
      active.erase(order);
    }
  }

  // Sends the next run, or the end; false if there is nothing to send for now.
  bool SendNext(uint64_t id, Room& room, Opening& opening, Link& link) {
    while (opening.next < room.written.size()) {
      const Written& written = room.written[opening.next];
      const Range left = {std::max({written.tokens.begin, opening.skip, opening.next_sent}),
                          written.tokens.end};
      if (left.size() <= 0) {
        ++opening.next;
        opening.next_sent = 0;
        continue;
      }
      if (options_.failure_probability > 0 &&
          std::uniform_real_distribution<double>()(random_) < options_.failure_probability) {
        Fail(id, InternalError(Text("room ", id, ": a run of layer ", written.layer,
                                    " failed on purpose (CAUSEWAY_TEST_DISAGG_FAILURE_PROB)")));
        return link.HasOutput();
      }
      const int64_t row = cache_.shape().latent_bytes() + cache_.shape().index_bytes();
      const int64_t most = std::clamp<int64_t>(options_.run_tokens, 1, kMaxRunBytes / row);
      Range part = {left.begin, std::min(left.end, left.begin + most)};
      // Cut at the border of a page, where whole panels can be copied.
      if (part.end < left.end && part.end / kPage * kPage > part.begin) {
        part.end = part.end / kPage * kPage;
      }
      SendRun(room, opening, link, written.layer, part);
      opening.next_sent = part.end;
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
    if (checks || !opening.shared_memory) {
      latents = LatentPieces(cache_, layer, pages, part);
      index_rows.resize(static_cast<size_t>(part.size() * shape.index_bytes()));
      LoadIndexRows(cache_, layer, pages, part, index_rows.data());
    }
    if (checks) {
      checksum = ChecksumOf(latents, shape.latent_bytes(), index_rows.data(), shape.index_bytes(),
                            part.size());
    }
    if (opening.shared_memory) {
      RunInMemoryMessage message{.run = header, .checksum = checksum, .pages = {}};
      message.pages.assign(room.pages.begin() + part.begin / kPage,
                           room.pages.begin() + (part.end - 1) / kPage + 1);
      link.Send(message);
    } else {
      link.SendRun(header, std::move(latents), std::move(index_rows), checksum);
    }
    const int64_t bytes = part.size() * (shape.latent_bytes() + shape.index_bytes());
    opening.token_layers += part.size();
    room.bytes += bytes;
    if (!room.first_run) room.first_run = Clock::now();
    ++counters_.runs;
    counters_.bytes += bytes;
    if (opening.shared_memory) counters_.shared_memory_bytes += bytes;
  }

  // ---- Ends

  static Opening* OpeningOf(Room& room, const Link& link, const RoomKey& key) {
    for (Opening& each : room.openings) {
      if (each.link == link.id() && each.key == key) return &each;
    }
    return nullptr;
  }

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
      ended_[id] = status;
      ended_order_.push_back(id);
      if (ended_order_.size() > kEndedRooms) {
        ended_.erase(ended_order_.front());
        ended_order_.pop_front();
      }
    }
    rooms_.erase(found);
  }

  // A decode server does not want the room of a request that is still to come.
  void Decline(uint64_t id, const Status& why) {
    if (ended_.contains(id) || !declined_.emplace(id, why).second) return;
    declined_order_.push_back(id);
    if (declined_order_.size() > kEndedRooms) {
      declined_.erase(declined_order_.front());
      declined_order_.pop_front();
    }
  }

  void Tell(const SenderEvent& event) {
    loop_.Tell([this, event] { on_event_(event); });
  }

  static constexpr int64_t kLongMs = int64_t{1000} * 3600 * 24 * 365;

  const TransferOptions options_;
  const KvCache& cache_;
  const std::function<void(const SenderEvent&)> on_event_;
  const int port_;
  const SharedCacheOffer offer_;
  TransferCounters counters_;

  std::mt19937_64 random_;
  std::vector<std::string> addresses_;
  std::unordered_map<uint64_t, Room> rooms_;
  std::unordered_map<uint64_t, Peer> peers_;  // by link
  std::unordered_map<uint64_t, Status> ended_;
  std::deque<uint64_t> ended_order_;
  std::unordered_map<uint64_t, Status> declined_;
  std::deque<uint64_t> declined_order_;
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
  if (complete.backend == TransferBackend::kSharedMemory && cache.latents_fd() < 0) {
    return InvalidArgument("--disaggregation-transfer-backend shm needs a cache in shared memory");
  }
  CAUSEWAY_ASSIGN_OR_RETURN(Socket listener, ListenAt(options.listen));
  return std::unique_ptr<KvSender>(new KvSender(
      std::make_unique<Work>(complete, cache, std::move(on_event), std::move(listener))));
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
