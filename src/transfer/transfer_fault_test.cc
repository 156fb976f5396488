// Peers that are lost, late, stopped, restarted, or speak nonsense; and the fences.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transfer/simulated_servers.h"

namespace causeway {
namespace {

using Action = TransferFault::Action;

const KvShape kShape = {.layers = 2, .latent_dim = 20, .index_dim = 8, .type = DType::kBf16};
constexpr int64_t kTokens = 200;

TransferOptions Quick() {
  TransferOptions options;
  options.model = "tiny";
  options.checksum = true;
  options.bootstrap_timeout_ms = 500;
  options.waiting_timeout_ms = 500;
  options.connect_timeout_ms = 300;
  options.run_tokens = 64;
  options.link = {.heartbeat_ms = 60, .missed_heartbeats = 2, .hello_ms = 300};
  return options;
}

SimulatedOptions QuickServer() {
  return {.layout = {}, .shape = kShape, .pages = 16, .transfer = Quick()};
}

const std::vector<int32_t> kPrefillPages = {1, 2, 3, 4};
const std::vector<int32_t> kDecodePages = {8, 6, 4, 2};

RoomOpen OpenOf(uint64_t room, int port) {
  return {room, "127.0.0.1", port, 0, kTokens, 0, kDecodePages};
}

// One room from its begin to both ends.
struct Outcome {
  std::optional<SenderEvent> sent;
  std::optional<ReceiverEvent> received;
};
Outcome RunRoom(PrefillServer& prefill, DecodeServer& decode, uint64_t room, const Keys& keys) {
  prefill.Expect(room, kTokens);
  decode.Open(OpenOf(room, prefill.port()));
  const auto opened =
      prefill.events().Wait([room](const SenderEvent& e) { return e.room == room; }, 5'000);
  if (opened && opened->kind == SenderEvent::Kind::kOpened) {
    prefill.Compute(room, keys, kPrefillPages, 64);
  }
  return {prefill.WaitEnded(room, 5'000), decode.WaitEnd(room, 5'000)};
}

void ExpectGood(PrefillServer& prefill, DecodeServer& decode, uint64_t room,
                const std::string& name) {
  const Keys keys(kShape, kTokens, room);
  const Outcome outcome = RunRoom(prefill, decode, room, keys);
  ASSERT_TRUE(outcome.sent && outcome.received) << name;
  EXPECT_TRUE(outcome.sent->status.ok()) << name << ": " << outcome.sent->status.message();
  ASSERT_EQ(outcome.received->kind, ReceiverEvent::Kind::kCompleted)
      << name << ": " << outcome.received->status.message();
  EXPECT_EQ(keys.Differences(decode.cache(), kDecodePages, {0, kTokens}), 0) << name;
}

TEST(TransferFaults, AtAnyMessageOfEitherSideEndTheRoomOnBothInTimeAndLaterRoomsWork) {
  const MessageType of_prefill[] = {MessageType::kHello, MessageType::kAccepted, MessageType::kRun,
                                    MessageType::kDone, MessageType::kReleased};
  const MessageType of_decode[] = {MessageType::kHello, MessageType::kOpen, MessageType::kAck};
  for (const TransferBackend backend : AllBackends()) {
    for (const Action action : {Action::kDrop, Action::kClose, Action::kStall}) {
      for (const bool on_prefill : {true, false}) {
        std::vector<MessageType> types(std::begin(of_decode), std::end(of_decode));
        if (on_prefill) types.assign(std::begin(of_prefill), std::end(of_prefill));
        for (MessageType type : types) {
          const bool run = type == MessageType::kRun;
          if (run) type = RunTypeOf(backend);
          const std::string name =
              Text(NameOf(backend), " ", NameOf(type), on_prefill ? " of prefill" : " of decode",
                   " action ", static_cast<int>(action));
          SimulatedOptions options = QuickServer();
          options.transfer.backend = backend;
          SimulatedOptions faulty = options;
          faulty.transfer.link.fault = {.action = action, .type = type, .nth = run ? 3 : 0};
          PrefillServer prefill(on_prefill ? faulty : options);
          auto decode = std::make_unique<DecodeServer>(on_prefill ? options : faulty);
          const Keys keys(kShape, kTokens, 1);
          const Outcome outcome = RunRoom(prefill, *decode, 1, keys);
          ASSERT_TRUE(outcome.sent) << name;
          ASSERT_TRUE(outcome.received) << name;
          // The decode side must not believe what the prefill side does not.
          EXPECT_NE(outcome.received->kind, ReceiverEvent::Kind::kCompleted) << name;
          EXPECT_FALSE(outcome.received->status.message().empty()) << name;
          if (type != MessageType::kReleased) {
            EXPECT_FALSE(outcome.sent->status.ok()) << name;
          }
          // A decode server whose link is stalled is as good as stopped: another one comes.
          if (!on_prefill && action == Action::kStall) {
            decode = std::make_unique<DecodeServer>(options);
          }
          ExpectGood(prefill, *decode, 2, name);
        }
      }
    }
  }
}

TEST(TransferFaults, DamagedKeysFailTheRoomAndAreNamed) {
  for (const TransferBackend backend : AllBackends()) {
    SimulatedOptions options = QuickServer();
    options.transfer.backend = backend;
    DecodeServer decode(options);
    options.transfer.link.fault = {.action = Action::kCorrupt,
                                   .type = RunTypeOf(backend),
                                   .nth = 5};  // layer 1 of the third chunk
    PrefillServer prefill(options);
    const Keys keys(kShape, kTokens, 1);
    const Outcome outcome = RunRoom(prefill, decode, 77, keys);
    ASSERT_TRUE(outcome.sent && outcome.received);
    EXPECT_NE(
        outcome.received->status.message().find("room 77: keys of layer 1, tokens [128, 192)"),
        std::string::npos)
        << outcome.received->status.message();
    EXPECT_NE(outcome.sent->status.message().find("came damaged"), std::string::npos)
        << outcome.sent->status.message();
    ExpectGood(prefill, decode, 78, "after damage");
  }
}

TEST(TransferFaults, InjectedByProbabilityEndTheSameRoomsOnBothSides) {
  SimulatedOptions options = QuickServer();
  DecodeServer decode(options);
  options.transfer.failure_probability = 0.05;
  PrefillServer prefill(options);
  const Keys keys(kShape, kTokens, 1);
  int failed = 0;
  for (uint64_t room = 1; room <= 60; ++room) {
    const Outcome outcome = RunRoom(prefill, decode, room, keys);
    ASSERT_TRUE(outcome.sent && outcome.received) << room;
    const bool completed = outcome.received->kind == ReceiverEvent::Kind::kCompleted;
    EXPECT_EQ(completed, outcome.sent->status.ok()) << room;
    failed += !completed;
    if (!completed) {
      EXPECT_NE(outcome.received->status.message().find("CAUSEWAY_TEST_DISAGG_FAILURE_PROB"),
                std::string::npos);
    }
  }
  EXPECT_GT(failed, 5);
  EXPECT_LT(failed, 50);
  EXPECT_EQ(prefill.sender().counters().rooms_failed, failed);
  EXPECT_EQ(decode.receiver().counters().rooms_completed, 60 - failed);
}

TEST(TransferFaults, NobodyWhoComesIsATimeOutOfTheBootstrap) {
  PrefillServer prefill(QuickServer());
  prefill.Expect(1, kTokens);
  const auto ended = prefill.WaitEnded(1, 3'000);
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_NE(ended->status.message().find("no decode server opened room 1 within 500 ms"),
            std::string::npos);
  EXPECT_EQ(prefill.sender().counters().bootstrap_failures, 1);
  // Who comes now is told at once.
  DecodeServer decode(QuickServer());
  decode.Open(OpenOf(1, prefill.port()));
  const auto late = decode.WaitEnd(1, 3'000);
  ASSERT_TRUE(late);
  EXPECT_EQ(late->kind, ReceiverEvent::Kind::kRefused);
  EXPECT_NE(late->status.message().find("room 1 is over"), std::string::npos);
  // And the other way round.
  decode.Open(OpenOf(2, prefill.port()));
  const auto refused = decode.WaitEnd(2, 3'000);
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->status.message().find("room 2"), std::string::npos)
      << refused->status.message();
  EXPECT_EQ(decode.receiver().counters().bootstrap_failures, 2);
}

TEST(TransferFaults, AServerThatIsNotThereIsNamed) {
  const auto nobody = ListenAt("127.0.0.1:0");
  const int port = PortOf(*nobody);
  ::shutdown(nobody->fd(), SHUT_RDWR);
  DecodeServer decode(QuickServer());
  decode.Open(OpenOf(1, port));
  decode.Open({2, "no such host", 1, 0, kTokens, 0, kDecodePages});
  const auto end = decode.WaitEnd(1, 5'000);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->status.code(), StatusCode::kUnavailable);
  EXPECT_NE(end->status.message().find(Text("127.0.0.1:", port)), std::string::npos)
      << end->status.message();
  const auto other = decode.WaitEnd(2, 5'000);
  ASSERT_TRUE(other);
  EXPECT_NE(other->status.message().find("no such host"), std::string::npos)
      << other->status.message();
}

TEST(TransferFaults, AnIdleLinkStaysOpenByItsHeartbeats) {
  PrefillServer prefill(QuickServer());
  DecodeServer decode(QuickServer());
  ExpectGood(prefill, decode, 1, "first");
  std::this_thread::sleep_for(std::chrono::milliseconds(600));  // more than three heartbeats
  EXPECT_EQ(prefill.sender().counters().peers_lost, 0);
  EXPECT_EQ(decode.receiver().counters().peers_lost, 0);
  ExpectGood(prefill, decode, 2, "second");
}

TEST(TransferFaults, ARestartedPrefillServerFailsItsOldRoomsAtOnceAndServesNewOnes) {
  SimulatedOptions options = QuickServer();
  options.transfer.bootstrap_timeout_ms = 20'000;
  options.transfer.waiting_timeout_ms = 20'000;
  options.transfer.connect_timeout_ms = 5'000;
  auto prefill = std::make_unique<PrefillServer>(options);
  DecodeServer decode(options);
  ExpectGood(*prefill, decode, 1, "before");
  prefill->Expect(2, kTokens);
  decode.Open(OpenOf(2, prefill->port()));
  ASSERT_TRUE(prefill->WaitOpened(2));
  decode.Open(OpenOf(3, prefill->port()));  // nobody expects it
  options.transfer.listen = Text("127.0.0.1:", prefill->port());
  prefill.reset();
  for (const uint64_t room : {2, 3}) {
    const auto end = decode.WaitEnd(room, 3'000);
    ASSERT_TRUE(end) << room;
    EXPECT_EQ(end->status.code(), StatusCode::kUnavailable) << end->status.message();
  }
  // Opened while there is none: it is looked for until it is there.
  const int port = ParseHostPort(options.transfer.listen)->port;
  decode.Open(OpenOf(4, port));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  prefill = std::make_unique<PrefillServer>(options);
  const Keys keys(kShape, kTokens, 4);
  prefill->Expect(4, kTokens);
  prefill->Compute(4, keys, kPrefillPages, 64);
  const auto end = decode.WaitEnd(4, 5'000);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << end->status.message();
  ExpectGood(*prefill, decode, 5, "after");
}

// Where host 1 was is still being tried when host 0 says where it is now.
TEST(TransferFaults, ARestartedPrefillServerIsFoundAtItsNewAddressesAtOnce) {
  SimulatedOptions options = QuickServer();
  options.transfer.bootstrap_timeout_ms = 2'000;
  options.transfer.connect_timeout_ms = 60'000;
  DecodeServer decode(options);
  options.layout = {.cp = 2, .ep = 2, .hosts = 2};
  auto prefill = std::make_unique<PrefillServer>(options);
  // Nobody listens there when it is closed again.
  const int closed = PortOf(ListenAt("127.0.0.1:0").value());
  prefill->sender().SetAddresses({Text("127.0.0.1:", prefill->port()), Text("127.0.0.1:", closed)});
  ASSERT_TRUE(prefill->sender().Expect(1, kTokens, 0).ok());
  decode.Open(OpenOf(1, prefill->port()));
  ASSERT_TRUE(decode.events().Wait(
      [](const ReceiverEvent& e) { return e.kind == ReceiverEvent::Kind::kAccepted; }));
  options.transfer.listen = Text("127.0.0.1:", prefill->port());
  prefill.reset();
  ASSERT_TRUE(decode.WaitEnd(1, 3'000));
  // Not before: it would send the next room there.
  const Deadline noticed = Deadline::AfterMs(3'000);
  while (decode.receiver().counters().peers_lost == 0 && !noticed.Passed()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  prefill = std::make_unique<PrefillServer>(options);
  ExpectGood(*prefill, decode, 2, "after");
}

// ---- Processes

// A prefill server in a process of its own. It computes room 1 slowly, then others at once, as
// long as it is asked for them.
class PrefillProcess {
 public:
  explicit PrefillProcess(const SimulatedOptions& options) {
    int to_parent[2];
    CHECK(pipe(to_parent) == 0, errno);
    CHECK(pipe(to_child_) == 0, errno);
    pid_ = fork();
    CHECK(pid_ >= 0, errno);
    if (pid_ == 0) {
      Serve(options, to_parent[1], to_child_[0]);
      _exit(0);
    }
    CHECK(read(to_parent[0], &port_, sizeof port_) == sizeof port_, errno);
    close(to_parent[0]);
    close(to_parent[1]);
  }
  ~PrefillProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(to_child_[0]);
    close(to_child_[1]);
  }
  int port() const { return port_; }
  void Signal(int signal) const { kill(pid_, signal); }
  void Compute(uint64_t room) const { CHECK(write(to_child_[1], &room, 8) == 8, errno); }

 private:
  static void Serve(const SimulatedOptions& options, int out, int in) {
    PrefillServer prefill(options);
    const int port = prefill.port();
    CHECK(write(out, &port, sizeof port) == sizeof port, errno);
    uint64_t room = 0;
    while (read(in, &room, 8) == 8) {
      const Keys keys(kShape, kTokens, room);
      prefill.Expect(room, kTokens);
      if (!prefill.WaitOpened(room)) continue;
      prefill.sender().Begin(room, kPrefillPages);
      for (int64_t layer = 0; layer < kShape.layers; ++layer) {
        for (int64_t t = 0; t < kTokens; t += 8) {
          const Range run = {t, t + 8};
          keys.Store(prefill.cache(), kPrefillPages, layer, run);
          prefill.sender().PagesWritten(room, layer, {&run, 1});
          if (room == 1) std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
      }
      prefill.sender().Finish(room, "");
    }
  }

  int to_child_[2];
  pid_t pid_;
  int port_ = 0;
};

TEST(TransferFaults, AStoppedPrefillProcessThatGoesOnLaterHarmsNothing) {
  for (const TransferBackend backend : AllBackends()) {
    SimulatedOptions options = QuickServer();
    options.transfer.backend = backend;
    options.transfer.bootstrap_timeout_ms = options.transfer.waiting_timeout_ms = 5'000;
    options.transfer.link.hello_ms = 5'000;
    const PrefillProcess prefill(options);
    DecodeServer decode(options);
    decode.Open(OpenOf(1, prefill.port()));
    prefill.Compute(1);
    ASSERT_TRUE(decode.events().Wait(
        [](const ReceiverEvent& e) { return e.kind == ReceiverEvent::Kind::kProgress; }));
    prefill.Signal(SIGSTOP);
    const auto lost = decode.WaitEnd(1, 5'000);
    ASSERT_TRUE(lost);
    EXPECT_EQ(lost->kind, ReceiverEvent::Kind::kFailed);
    const std::string& message = lost->status.message();
    // Or the reads, which are not answered either, are noticed first.
    EXPECT_TRUE(message.find("has been silent") != std::string::npos ||
                (backend == TransferBackend::kUcx && message.find("UCX: ") != std::string::npos))
        << message;
    const Keys others(kShape, kTokens, 99);
    for (int64_t layer = 0; layer < kShape.layers; ++layer) {
      others.Store(decode.cache(), kDecodePages, layer, {0, kTokens});
    }
    prefill.Signal(SIGCONT);
    // Room 1 goes on being computed there, and then room 2, which goes to other pages here.
    prefill.Compute(2);
    const std::vector<int32_t> pages = {1, 3, 5, 7};
    decode.Open({2, "127.0.0.1", prefill.port(), 0, kTokens, 0, pages});
    const auto end = decode.WaitEnd(2, 10'000);
    ASSERT_TRUE(end);
    ASSERT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << end->status.message();
    EXPECT_EQ(Keys(kShape, kTokens, 2).Differences(decode.cache(), pages, {0, kTokens}), 0);
    EXPECT_EQ(others.Differences(decode.cache(), kDecodePages, {0, kTokens}), 0);
  }
}

TEST(TransferFaults, AKilledPrefillProcessIsNoticedAtOnce) {
  for (const TransferBackend backend : AllBackends()) {
    SimulatedOptions options = QuickServer();
    options.transfer.backend = backend;
    options.transfer.link.heartbeat_ms = 5'000;
    options.transfer.waiting_timeout_ms = 20'000;
    const PrefillProcess prefill(options);
    DecodeServer decode(options);
    decode.Open(OpenOf(1, prefill.port()));
    prefill.Compute(1);
    ASSERT_TRUE(decode.events().Wait(
        [](const ReceiverEvent& e) { return e.kind == ReceiverEvent::Kind::kProgress; }));
    const auto begin = std::chrono::steady_clock::now();
    prefill.Signal(SIGKILL);
    const auto lost = decode.WaitEnd(1, 5'000);
    ASSERT_TRUE(lost);
    EXPECT_EQ(lost->status.code(), StatusCode::kUnavailable) << lost->status.message();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  }
}

// ---- Fences

TEST(TransferFence, AnAckAfterTheTimeOutIsNotReleased) {
  for (const TransferBackend backend : AllBackends()) {
    for (const Action action : {Action::kDelay, Action::kPause}) {
      SimulatedOptions options = QuickServer();
      options.transfer.backend = backend;
      options.transfer.link.heartbeat_ms = 5'000;  // it is only late
      PrefillServer prefill(options);
      options.transfer.waiting_timeout_ms = 5'000;
      options.transfer.link.fault = {
          .action = action, .type = MessageType::kAck, .delay_ms = 1'000};
      DecodeServer decode(options);
      const Keys keys(kShape, kTokens, 1);
      const Outcome outcome = RunRoom(prefill, decode, 1, keys);
      ASSERT_TRUE(outcome.sent && outcome.received);
      EXPECT_EQ(outcome.sent->status.code(), StatusCode::kDeadlineExceeded);
      EXPECT_EQ(outcome.received->kind, ReceiverEvent::Kind::kFailed);
      EXPECT_EQ(keys.Differences(decode.cache(), kDecodePages, {0, kTokens}), 0)
          << "all was there, and still must not be used";
      std::this_thread::sleep_for(std::chrono::milliseconds(600));  // until the delay is over
      ExpectGood(prefill, decode, 2, "later");
    }
  }
}

TEST(TransferFence, AReaderOfReusedPagesDoesNotBelieveThem) {
  for (const TransferBackend backend : AllBackends()) {
    if (backend == TransferBackend::kTcp) continue;
    SimulatedOptions options = QuickServer();
    options.transfer.checksum = false;  // or that would notice
    options.transfer.backend = backend;
    options.transfer.link.heartbeat_ms = 5'000;
    DecodeServer decode(options);
    // The descriptors come when the room is over and its pages hold another request's keys.
    options.transfer.link.fault = {
        .action = Action::kDelay, .type = MessageType::kRunInMemory, .nth = 2, .delay_ms = 300};
    PrefillServer prefill(options);
    const Keys keys(kShape, kTokens, 1);
    prefill.Expect(1, kTokens);
    decode.Open(OpenOf(1, prefill.port()));
    ASSERT_TRUE(prefill.WaitOpened(1));
    prefill.Compute(1, keys, kPrefillPages, 64);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    prefill.sender().Cancel(1, Cancelled("the client went away"));
    const Keys others(kShape, kTokens, 2);
    for (int64_t layer = 0; layer < 2; ++layer) {
      others.Store(prefill.cache(), kPrefillPages, layer, {0, kTokens});
    }
    const auto end = decode.WaitEnd(1, 5'000);
    ASSERT_TRUE(end);
    EXPECT_EQ(end->kind, ReceiverEvent::Kind::kFailed);
    EXPECT_NE(end->status.message().find("the client went away"), std::string::npos);
    ExpectGood(prefill, decode, 2, "later");
  }
}

// A stopped prefill process that goes on when the decode side has long given its pages away.
TEST(TransferFence, RunsThatComeAfterACancelChangeNothing) {
  for (const TransferBackend backend : AllBackends()) {
    SimulatedOptions options = QuickServer();
    options.transfer.backend = backend;
    options.transfer.bootstrap_timeout_ms = options.transfer.waiting_timeout_ms = 5'000;
    options.transfer.link.heartbeat_ms = 5'000;
    DecodeServer decode(options);
    options.transfer.link.fault = {
        .action = Action::kPause, .type = RunTypeOf(backend), .nth = 3, .delay_ms = 400};
    PrefillServer prefill(options);
    const Keys keys(kShape, kTokens, 1);
    prefill.Expect(1, kTokens);
    decode.Open(OpenOf(1, prefill.port()));
    ASSERT_TRUE(prefill.WaitOpened(1));
    prefill.Compute(1, keys, kPrefillPages, 64);
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    decode.receiver().Cancel({1, Cancelled("the client went away")});
    const Keys others(kShape, kTokens, 2);
    for (int64_t layer = 0; layer < 2; ++layer) {
      others.Store(decode.cache(), kDecodePages, layer, {0, kTokens});
    }
    const auto sent = prefill.WaitEnded(1, 5'000);
    ASSERT_TRUE(sent);
    EXPECT_NE(sent->status.message().find("the client went away"), std::string::npos);
    // A later room on the same link, on other pages: when it is through, all before it was read.
    prefill.Expect(2, 64);
    decode.Open({2, "127.0.0.1", prefill.port(), 0, 64, 0, {15}});
    prefill.Compute(2, Keys(kShape, 64, 3), {9}, 64);
    ASSERT_EQ(decode.WaitEnd(2, 5'000)->kind, ReceiverEvent::Kind::kCompleted);
    EXPECT_EQ(others.Differences(decode.cache(), kDecodePages, {0, kTokens}), 0);
    EXPECT_EQ(decode.receiver().counters().peers_lost, 0) << "it was the same link";
  }
}

}  // namespace
}  // namespace causeway
