// A side of the protocol against bytes that the test writes by hand.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include "transfer/simulated_servers.h"

namespace causeway {
namespace {

const KvShape kShape = {.layers = 2, .latent_dim = 20, .index_dim = 8, .type = DType::kBf16};
constexpr int64_t kRow = 56;  // bytes of a token and layer: 20 and 8 values
constexpr int64_t kTokens = 100;

SimulatedOptions Server() {
  TransferOptions transfer;
  transfer.model = "tiny";
  transfer.backend = TransferBackend::kTcp;
  transfer.bootstrap_timeout_ms = 5'000;
  transfer.waiting_timeout_ms = 5'000;
  transfer.link.in_flight_bytes = 4096;
  return {.layout = {}, .shape = kShape, .pages = 512, .transfer = transfer};
}

HelloMessage HelloOf(TransferRole role) {
  return {.role = role,
          .server = ServerId::Random(),
          .host = 0,
          .layout = {},
          .side = {kShape, kPage, "tiny"},
          .pages = 512};
}

// The other end of a connection.
class RawPeer {
 public:
  explicit RawPeer(Socket socket) : socket_(std::move(socket)) {}
  static RawPeer ConnectedTo(int port) {
    auto socket = ConnectTo(Text("127.0.0.1:", port), Deadline::AfterMs(2'000));
    CHECK(socket.ok(), socket.status().message());
    return RawPeer(std::move(*socket));
  }

  bool Send(const std::string& bytes) {
    return socket_.Send(bytes.data(), static_cast<int64_t>(bytes.size()), Deadline::AfterMs(5'000))
        .ok();
  }
  // Takes little of what nobody has read.
  void TakeLittle() {
    const int bytes = 8192;
    CHECK(setsockopt(socket_.fd(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) == 0, errno);
  }
  // The next frame but pings; nothing if the connection is over.
  struct Frame {
    MessageType type = MessageType::kPing;
    std::string body = {};
  };
  std::optional<Frame> Read() {
    for (;;) {
      std::string header(kFrameHeaderBytes, '\0');
      const Deadline deadline = Deadline::AfterMs(5'000);
      if (!socket_.Receive(header.data(), kFrameHeaderBytes, deadline).ok()) return std::nullopt;
      const auto decoded = DecodeHeader(header);
      CHECK(decoded.ok(), decoded.status().message());
      Frame frame{decoded->type, std::string(static_cast<size_t>(decoded->length), '\0')};
      if (!socket_.Receive(frame.body.data(), decoded->length, deadline).ok()) return std::nullopt;
      if (frame.type != MessageType::kPing) return frame;
    }
  }
  template <typename Message>
  Message Expect() {
    const auto frame = Read();
    CHECK(frame && frame->type == Message::kType, frame ? NameOf(frame->type) : "the end");
    return *Decode<Message>(frame->body);
  }

 private:
  Socket socket_;
};

// A prefill server played by the test.
class RawPrefill {
 public:
  RawPrefill() : listener_(*ListenAt("127.0.0.1:0")) {}
  int port() const { return PortOf(listener_); }
  RawPeer Accept() {
    pollfd entry{listener_.fd(), POLLIN, 0};
    CHECK(poll(&entry, 1, 5'000) == 1, "nobody connects");
    return RawPeer(Socket(accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)));
  }

 private:
  const Socket listener_;
};

std::string RunFrame(const RoomKey& key, int32_t layer, Range tokens, char fill) {
  const int64_t rows = tokens.size() * kRow;
  return EncodeHeader(MessageType::kRun, kRunHeaderBytes + rows + kRunTrailerBytes) +
         FieldsOf(RunHeader{key, tokens.begin, static_cast<int32_t>(tokens.size()), layer}) +
         std::string(static_cast<size_t>(rows), fill) + FieldsOf(RunTrailer{0, true});
}

// What a prefill server says in a whole transfer of kTokens.
std::string WholeTransfer(const RoomKey& key) {
  return Encode(AcceptedMessage{key, 0}) + RunFrame(key, 0, {0, 60}, 'a') +
         RunFrame(key, 1, {0, kTokens}, 'b') + RunFrame(key, 0, {60, kTokens}, 'c') +
         Encode(DoneMessage{key, 2 * kTokens, "m"}) + Encode(ReleasedMessage{key});
}

TEST(TransferWire, ADecodeServerEndsTheRoomWhereverThePrefillServersWordsAreCut) {
  DecodeServer decode(Server());
  RawPrefill prefill;
  const std::vector<int32_t> pages = {3, 9};
  const size_t all = WholeTransfer({}).size();
  uint64_t room = 0;
  // Everywhere in what is no rows, and here and there in rows.
  for (size_t cut = 0; cut <= all; cut += cut % 7 == 0 || cut < 120 || cut + 150 > all ? 1 : 6) {
    ++room;
    decode.receiver().Open({room, "127.0.0.1", prefill.port(), 0, kTokens, 0, pages});
    RawPeer peer = prefill.Accept();
    peer.Expect<HelloMessage>();
    ASSERT_TRUE(peer.Send(Encode(HelloOf(TransferRole::kPrefill))));
    const auto open = peer.Expect<OpenMessage>();
    ASSERT_EQ(open.key.room, room);
    ASSERT_EQ(open.backend, TransferBackend::kTcp);
    std::string words = WholeTransfer(open.key).substr(0, cut);
    // RELEASED comes after ACK only.
    const size_t released = Encode(ReleasedMessage{open.key}).size();
    const std::string before = words.substr(0, std::min(cut, all - released));
    ASSERT_TRUE(peer.Send(before));
    if (cut >= all - released) {
      peer.Expect<AckMessage>();
      ASSERT_TRUE(peer.Send(words.substr(before.size())));
    }
    { const RawPeer gone = std::move(peer); }
    const auto end = decode.WaitEnd(room, 5'000);
    ASSERT_TRUE(end) << cut;
    EXPECT_EQ(end->kind == ReceiverEvent::Kind::kCompleted, cut == all) << cut;
    if (cut < all) {
      EXPECT_EQ(end->status.code(), StatusCode::kUnavailable) << end->status.message();
    }
  }
}

TEST(TransferWire, ADecodeServerClosesAndNamesWhatItCanNotUse) {
  DecodeServer decode(Server());
  RawPrefill prefill;
  const RoomKey other{1, 2};
  const struct {
    std::function<std::string(const RoomKey&)> words;
    const char* message;
  } cases[] = {
      {[](const RoomKey&) { return std::string("HTTP/1.1 200 OK\r\n\r\n"); }, "another program"},
      {[](const RoomKey&) { return EncodeHeader(MessageType::kAck, 16) + std::string(16, 'x'); },
       "a decode server can't do anything with a ACK"},
      {[](const RoomKey& key) {
         return RunFrame(key, 0, {0, 10}, 'x');
       },
       "found keys of layer 0"},
      {[](const RoomKey& key) {
         return Encode(AcceptedMessage{key, 0}) + RunFrame(key, 2, {0, 10}, 'x');
       },
       "found keys of layer 2, tokens [0, 10)"},
      {[](const RoomKey& key) {
         return Encode(AcceptedMessage{key, 0}) + RunFrame(key, 0, {90, 101}, 'x');
       },
       "tokens [90, 101)"},
      {[](const RoomKey& key) {
         return Encode(AcceptedMessage{key, 3});
       },
       "for group 3 of 1"},
      {[](const RoomKey& key) {
         return Encode(DoneMessage{key, 0, ""});
       },
       "at the wrong time"},
      {[](const RoomKey& key) { return Encode(ReleasedMessage{key}); }, "too early"},
      {[](const RoomKey& key) {
         return Encode(AcceptedMessage{key, 0}) +
                EncodeHeader(MessageType::kRun, kRunHeaderBytes + 5 + kRunTrailerBytes) +
                FieldsOf(RunHeader{key, 0, 10, 0}) + "12345" + FieldsOf(RunTrailer{});
       },
       "found 5 bytes of keys of 10 tokens; expected 560"},
      {[](const RoomKey& key) {
         return Encode(AcceptedMessage{key, 0}) +
                Encode(RunInMemoryMessage{{key, 0, 10, 0}, 0, {1 << 30}});
       },
       "keys in memory that can't be read"},
  };
  uint64_t room = 0;
  for (const auto& c : cases) {
    ++room;
    decode.receiver().Open({room, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
    RawPeer peer = prefill.Accept();
    peer.Expect<HelloMessage>();
    ASSERT_TRUE(peer.Send(Encode(HelloOf(TransferRole::kPrefill))));
    const auto open = peer.Expect<OpenMessage>();
    ASSERT_TRUE(peer.Send(c.words(open.key)));
    const auto end = decode.WaitEnd(room, 5'000);
    ASSERT_TRUE(end) << c.message;
    EXPECT_NE(end->status.message().find(c.message), std::string::npos) << end->status.message();
  }
  // Words about rooms that it does not know, or no more, are late and no error.
  decode.receiver().Open({100, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
  RawPeer peer = prefill.Accept();
  peer.Expect<HelloMessage>();
  ASSERT_TRUE(peer.Send(Encode(HelloOf(TransferRole::kPrefill))));
  const auto open = peer.Expect<OpenMessage>();
  const RoomKey stale{open.key.room, open.key.ticket - 1};
  ASSERT_TRUE(peer.Send(WholeTransfer(stale) + WholeTransfer(other) +
                        Encode(CancelMessage{stale, StatusCode::kCancelled, ""})));
  const std::string words = WholeTransfer(open.key);
  const size_t released = Encode(ReleasedMessage{open.key}).size();
  ASSERT_TRUE(peer.Send(words.substr(0, words.size() - released)));
  peer.Expect<AckMessage>();
  ASSERT_TRUE(peer.Send(words.substr(words.size() - released)));
  EXPECT_EQ(decode.WaitEnd(100, 5'000)->kind, ReceiverEvent::Kind::kCompleted);
}

TEST(TransferWire, ADecodeServerFailsARoomWhoseTokensComeTwiceOrNotAtAll) {
  DecodeServer decode(Server());
  RawPrefill prefill;
  const struct {
    std::function<std::string(const RoomKey&)> words;
    const char* message;
  } cases[] = {
      {[](const RoomKey& key) {
         return RunFrame(key, 1, {0, 60}, 'x') + RunFrame(key, 1, {59, 70}, 'x');
       },
       "layer 1 of token 59 came twice"},
      {[](const RoomKey& key) {
         return RunFrame(key, 0, {0, 100}, 'x') + RunFrame(key, 1, {0, 42}, 'x') +
                RunFrame(key, 1, {43, 100}, 'x') + Encode(DoneMessage{key, 199, ""});
       },
       "layer 1 of token 42 is not among them"},
      {[](const RoomKey& key) {
         return RunFrame(key, 0, {0, 100}, 'x') + Encode(DoneMessage{key, 200, ""});
       },
       "has sent 200 tokens, counted once a layer, and 100 have come"},
  };
  decode.receiver().Open({99, "127.0.0.1", prefill.port(), 0, kTokens, 0, {4, 5}});
  RawPeer peer = prefill.Accept();
  peer.Expect<HelloMessage>();
  ASSERT_TRUE(peer.Send(Encode(HelloOf(TransferRole::kPrefill))));
  peer.Expect<OpenMessage>();
  uint64_t room = 0;
  for (const auto& c : cases) {  // on one link: it stays good
    ++room;
    decode.receiver().Open({room, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
    const auto open = peer.Expect<OpenMessage>();
    ASSERT_TRUE(peer.Send(Encode(AcceptedMessage{open.key, 0}) + c.words(open.key)));
    const auto cancel = peer.Expect<CancelMessage>();
    EXPECT_EQ(cancel.key, open.key);
    EXPECT_NE(cancel.text.find(c.message), std::string::npos) << cancel.text;
    EXPECT_EQ(decode.WaitEnd(room, 5'000)->kind, ReceiverEvent::Kind::kFailed);
  }
}

TEST(TransferWire, APrefillServerSurvivesADecodeServerWhoseWordsAreCutAnywhere) {
  PrefillServer prefill(Server());
  uint64_t room = 1;
  const auto words = [&](uint64_t ticket) {
    const RoomKey key{room, ticket};
    return Encode(HelloOf(TransferRole::kDecode)) + Encode(OpenMessage{key, kTokens, 0, 0}) +
           Encode(CancelMessage{key, StatusCode::kCancelled, "x"}) + Encode(AckMessage{key});
  };
  const size_t all = words(1).size();
  for (size_t cut = 0; cut < all; ++cut) {
    RawPeer peer = RawPeer::ConnectedTo(prefill.port());
    ASSERT_TRUE(peer.Send(words(1).substr(0, cut)));
  }
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    room = 1'000 + static_cast<uint64_t>(i);
    std::string bytes = words(1);
    bytes[random() % bytes.size()] = static_cast<char>(random());
    RawPeer peer = RawPeer::ConnectedTo(prefill.port());
    ASSERT_TRUE(peer.Send(bytes));
  }
  // It still serves.
  DecodeServer decode(Server());
  const Keys keys(kShape, kTokens, 1);
  prefill.Expect(7'000, kTokens);
  decode.Open({7'000, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
  prefill.Compute(7'000, keys, {1, 2}, 64);
  const auto end = decode.WaitEnd(7'000, 10'000);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << end->status.message();
}

TEST(TransferWire, APrefillServerSaysWhyItTurnsSomebodyAway) {
  PrefillServer prefill(Server());
  const auto bye = [&](const std::string& words) {
    RawPeer peer = RawPeer::ConnectedTo(prefill.port());
    CHECK(peer.Send(words), words.size());
    for (;;) {
      const auto frame = peer.Read();
      if (!frame) return std::string("nothing");
      if (frame->type == MessageType::kBye) return Decode<ByeMessage>(frame->body)->text;
    }
  };
  EXPECT_NE(bye(std::string(16, 'G')).find("another program"), std::string::npos);
  EXPECT_NE(bye(Encode(AckMessage{})).find("found a ACK message first; expected a HELLO"),
            std::string::npos);
  EXPECT_NE(bye(Encode(HelloOf(TransferRole::kPrefill))).find("this is a prefill server"),
            std::string::npos);
  EXPECT_NE(bye(Encode(HelloOf(TransferRole::kFollower))).find("a host of another server"),
            std::string::npos);
  const std::string hello = Encode(HelloOf(TransferRole::kDecode));
  EXPECT_NE(bye(hello + hello).find("a second HELLO"), std::string::npos);
  EXPECT_NE(bye(hello + Encode(OpenMessage{{1, 1}, 10, 0, 5})).find("group 5 of 1"),
            std::string::npos);
  EXPECT_NE(bye(hello + RunFrame({1, 1}, 0, {0, 1}, 'x')).find("does not take keys"),
            std::string::npos);
  EXPECT_NE(bye(hello + Encode(ReportMessage{1, 0, StatusCode::kOk, ""})).find("a REPORT of"),
            std::string::npos);
}

TEST(TransferWire, AnAckOfARoomThatIsOverIsAnsweredByACancel) {
  PrefillServer prefill(Server());
  RawPeer peer = RawPeer::ConnectedTo(prefill.port());
  ASSERT_TRUE(peer.Send(Encode(HelloOf(TransferRole::kDecode)) + Encode(AckMessage{{5, 6}})));
  peer.Expect<HelloMessage>();
  const auto cancel = peer.Expect<CancelMessage>();
  EXPECT_EQ(cancel.key, (RoomKey{5, 6}));
  EXPECT_NE(cancel.text.find("room 5 was over"), std::string::npos) << cancel.text;
}

TEST(TransferWire, ARoomIsOpenForOneDecodeServerOnly) {
  PrefillServer prefill(Server());
  prefill.Expect(5, kTokens);
  RawPeer first = RawPeer::ConnectedTo(prefill.port());
  const OpenMessage open{{5, 1}, kTokens, 0, 0};
  ASSERT_TRUE(first.Send(Encode(HelloOf(TransferRole::kDecode)) + Encode(open)));
  first.Expect<HelloMessage>();
  first.Expect<AcceptedMessage>();
  RawPeer second = RawPeer::ConnectedTo(prefill.port());
  ASSERT_TRUE(second.Send(Encode(HelloOf(TransferRole::kDecode)) + Encode(open)));
  second.Expect<HelloMessage>();
  const auto refused = second.Expect<RefusedMessage>();
  EXPECT_NE(
      refused.text.find("room 5 is already open for host 0, group 0 of another decode server"),
      std::string::npos)
      << refused.text;
}

// The fence of a prefill server's pages, in the middle of a frame that they are being sent from.
TEST(TransferWire, ACancelledRoomsPagesAreNotReadAnyMoreNotEvenForTheRestOfARun) {
  SimulatedOptions options = Server();
  options.transfer.run_tokens = int64_t{1} << 20;  // all of them in one frame
  PrefillServer prefill(options);
  constexpr int64_t kMany = 512 * 64;
  RawPeer peer = RawPeer::ConnectedTo(prefill.port());
  const RoomKey key{5, 1};
  ASSERT_TRUE(
      peer.Send(Encode(HelloOf(TransferRole::kDecode)) + Encode(OpenMessage{key, kMany, 0, 0})));
  std::vector<int32_t> pages;
  for (int32_t page = 0; page < 512; ++page) pages.push_back(page);
  const auto fill = [&](int value) {
    for (const int32_t page : pages) {
      std::memset(prefill.cache().LatentPage(0, page), value, kPage * 40);
      std::memset(prefill.cache().IndexPage(0, page), value, kPage * 16);
    }
  };
  fill(0x11);
  prefill.Expect(5, kMany);
  prefill.sender().Begin(5, pages);
  const Range all{0, kMany};
  prefill.sender().PagesWritten(5, 0, {&all, 1});
  peer.Expect<HelloMessage>();
  peer.Expect<AcceptedMessage>();
  // Nobody reads: a frame is stuck halfway.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  prefill.sender().Cancel(5, Cancelled("enough"));
  fill(0x22);
  int64_t voided = 0;
  for (;;) {
    const auto frame = peer.Read();
    ASSERT_TRUE(frame);
    if (frame->type == MessageType::kCancel) break;
    ASSERT_EQ(frame->type, MessageType::kRun);
    EXPECT_EQ(
        frame->body.substr(kRunHeaderBytes, frame->body.size() - kRunHeaderBytes - kRunTrailerBytes)
            .find('\x22'),
        std::string::npos);
    voided += frame->body.back() == 0;
  }
  EXPECT_EQ(voided, 1) << "one run was under way, and says that it is not valid";
  EXPECT_EQ(prefill.WaitEnded(5)->status.message(), "enough");
}

TEST(TransferWire, ARoomIsNotLateWhileItsKeysOrThoseBeforeThemAreTakenHoweverSlowly) {
  SimulatedOptions options = Server();
  options.transfer.waiting_timeout_ms = 600;
  PrefillServer prefill(options);
  constexpr int64_t kMany = 32 * 64;
  RawPeer peer = RawPeer::ConnectedTo(prefill.port());
  peer.TakeLittle();
  ASSERT_TRUE(peer.Send(Encode(HelloOf(TransferRole::kDecode))));
  peer.Expect<HelloMessage>();
  std::vector<int32_t> pages;
  for (int32_t page = 0; page < 32; ++page) pages.push_back(page);
  const Range all{0, kMany};
  for (const uint64_t room : {5, 6}) {
    ASSERT_TRUE(peer.Send(Encode(OpenMessage{{room, 1}, kMany, 0, 0})));
    prefill.Expect(room, kMany);
    peer.Expect<AcceptedMessage>();
  }
  for (const uint64_t room : {5, 6}) {
    prefill.sender().Begin(room, pages);
    prefill.sender().PagesWritten(room, kAllLayers, {&all, 1});
    prefill.sender().Finish(room, "m");
  }
  // Eight runs of each room, which take longer than the time-out.
  const auto begin = Deadline::Clock::now();
  for (int done = 0; done < 2;) {
    const auto frame = peer.Read();
    ASSERT_TRUE(frame);
    if (frame->type == MessageType::kDone) {
      ++done;
      ASSERT_TRUE(peer.Send(Encode(AckMessage{Decode<DoneMessage>(frame->body)->key})));
    } else if (frame->type != MessageType::kReleased) {
      ASSERT_EQ(frame->type, MessageType::kRun) << Decode<CancelMessage>(frame->body)->text;
      std::this_thread::sleep_for(std::chrono::milliseconds(120));
    }
  }
  EXPECT_GT(Deadline::Clock::now() - begin, std::chrono::milliseconds(1'800));
  EXPECT_TRUE(prefill.WaitEnded(5)->status.ok());
  EXPECT_TRUE(prefill.WaitEnded(6)->status.ok());
}

TEST(TransferWire, ADecodeServersRoomIsNotLateWhileItsPromptWaitsAndIsComputed) {
  SimulatedOptions options = Server();
  options.transfer.waiting_timeout_ms = 400;
  DecodeServer decode(options);
  RawPrefill prefill;
  decode.receiver().Open({1, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
  decode.receiver().Open({2, "127.0.0.1", prefill.port(), 0, kTokens, 0, {4, 5}});
  RawPeer peer = prefill.Accept();
  peer.Expect<HelloMessage>();
  ASSERT_TRUE(peer.Send(Encode(HelloOf(TransferRole::kPrefill))));
  const auto first = peer.Expect<OpenMessage>();
  const auto second = peer.Expect<OpenMessage>();
  ASSERT_TRUE(
      peer.Send(Encode(AcceptedMessage{first.key, 0}) + Encode(AcceptedMessage{second.key, 0})));
  for (int32_t token = 0; token < 10; ++token) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ASSERT_TRUE(peer.Send(RunFrame(first.key, 0, {token, token + 1}, 'x')));
  }
  // Then nothing, for twice that time: how long a prompt takes is up to the prefill server.
  EXPECT_FALSE(decode.WaitEnd(second.key.room, 800).has_value());
  EXPECT_FALSE(decode.WaitEnd(first.key.room, 0).has_value());
  decode.receiver().Cancel({1});
  decode.receiver().Cancel({2});
}

// And of a decode server's, into which a frame is being received.
TEST(TransferWire, ACancelledRoomsPagesAreNotWrittenAnyMoreNotEvenByTheRestOfARun) {
  DecodeServer decode(Server());
  RawPrefill prefill;
  decode.receiver().Open({1, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
  RawPeer peer = prefill.Accept();
  peer.Expect<HelloMessage>();
  ASSERT_TRUE(peer.Send(Encode(HelloOf(TransferRole::kPrefill))));
  const auto open = peer.Expect<OpenMessage>();
  const std::string run = RunFrame(open.key, 0, {0, kTokens}, '\x33');
  ASSERT_TRUE(peer.Send(Encode(AcceptedMessage{open.key, 0}) + run.substr(0, run.size() / 3)));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  decode.receiver().Cancel({1, Cancelled("enough")});
  EXPECT_EQ(static_cast<const char*>(decode.cache().LatentPage(0, 3))[0], '\x33')
      << "some of it had come";
  for (const int32_t page : {3, 9}) {
    std::memset(decode.cache().LatentPage(0, page), 0x44, kPage * 40);
    std::memset(decode.cache().IndexPage(0, page), 0x44, kPage * 16);
  }
  ASSERT_TRUE(peer.Send(run.substr(run.size() / 3) + RunFrame(open.key, 1, {0, kTokens}, '\x33')));
  peer.Expect<CancelMessage>();
  // Another room on the same link: when it is through, all before it was read.
  decode.receiver().Open({2, "127.0.0.1", prefill.port(), 0, kTokens, 0, {4, 5}});
  const auto next = peer.Expect<OpenMessage>();
  const std::string words = WholeTransfer(next.key);
  const size_t released = Encode(ReleasedMessage{next.key}).size();
  ASSERT_TRUE(peer.Send(words.substr(0, words.size() - released)));
  peer.Expect<AckMessage>();
  for (const int32_t page : {3, 9}) {
    const char* latents = static_cast<const char*>(decode.cache().LatentPage(0, page));
    EXPECT_EQ(std::count(latents, latents + kPage * 40, '\x44'), kPage * 40);
    const char* keys = static_cast<const char*>(decode.cache().IndexPage(0, page));
    EXPECT_EQ(std::count(keys, keys + kPage * 16, '\x44'), kPage * 16);
  }
}

// ---- UCX

// What a prefill server says that offers its memory by UCX, at a port where nobody has to listen.
HelloMessage HelloWithUcx(uint32_t version, int port) {
  HelloMessage hello = HelloOf(TransferRole::kPrefill);
  hello.backend = TransferBackend::kUcx;
  hello.ucx = {.version = version, .rdma = false, .port = port};
  return hello;
}

// The version of this host's library; what a prefill server here says.
UcxHandle UcxOfThisHost() {
  SimulatedOptions options = Server();
  options.transfer.backend = TransferBackend::kUcx;
  PrefillServer prefill(options);
  RawPeer peer = RawPeer::ConnectedTo(prefill.port());
  HelloMessage hello = HelloOf(TransferRole::kDecode);
  CHECK(peer.Send(Encode(hello)), "");
  return peer.Expect<HelloMessage>().ucx;
}

TEST(TransferWire, ADecodeServerNamesAPrefillServerThatItCanNotReachByUcx) {
  if (!UcxProblem().ok()) GTEST_SKIP() << "ucx: " << UcxProblem().message();
  SimulatedOptions options = Server();
  options.transfer.backend = TransferBackend::kUcx;
  options.transfer.link.heartbeat_ms = 300;
  DecodeServer decode(options);
  const uint32_t version = UcxOfThisHost().version;
  const auto nobody = ListenAt("127.0.0.1:0");  // and nobody accepts what it listens to
  const auto closed = ListenAt("127.0.0.1:0");
  const int closed_port = PortOf(*closed);
  ::shutdown(closed->fd(), SHUT_RDWR);
  HelloMessage without = HelloOf(TransferRole::kPrefill);
  HelloMessage other_model = HelloWithUcx(version, closed_port);
  other_model.side.model = "other";
  HelloMessage tcp = HelloOf(TransferRole::kPrefill);
  tcp.backend = TransferBackend::kTcp;
  const struct {
    HelloMessage hello;
    const char* message;
  } cases[] = {
      {HelloWithUcx(version, closed_port), "UCX: "},
      {HelloWithUcx(version, PortOf(*nobody)), "lost host 0 of the prefill server"},
      {HelloWithUcx(version + 1, closed_port), "UCX: the prefill host has version"},
      {without, "the prefill server has auto, the decode server ucx"},
      {tcp, "the prefill server has tcp, the decode server ucx"},
      {other_model, "the model"},
  };
  RawPrefill prefill;
  uint64_t room = 0;
  for (const auto& c : cases) {
    ++room;
    decode.receiver().Open({room, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
    RawPeer peer = prefill.Accept();
    peer.Expect<HelloMessage>();
    ASSERT_TRUE(peer.Send(Encode(c.hello)));
    const auto frame = peer.Read();
    if (frame && frame->type == MessageType::kOpen) {
      const auto open = Decode<OpenMessage>(frame->body);
      ASSERT_EQ(open->backend, TransferBackend::kUcx);
      ASSERT_TRUE(peer.Send(Encode(AcceptedMessage{open->key, 0}) +
                            Encode(RunInMemoryMessage{{open->key, 0, 10, 0}, 0, {1}})));
    }
    const auto end = decode.WaitEnd(room, 5'000);
    ASSERT_TRUE(end) << c.message;
    EXPECT_EQ(end->kind, ReceiverEvent::Kind::kFailed);
    EXPECT_NE(end->status.message().find(c.message), std::string::npos) << end->status.message();
  }
}

// Many more runs than are read at once: words behind them wait, and are all read in the end.
TEST(TransferWire, ADecodeServerReadsNoMoreWordsThanItCanFollowAndThenAllOfThem) {
  if (!UcxProblem().ok()) GTEST_SKIP() << "ucx: " << UcxProblem().message();
  SimulatedOptions options = Server();
  options.transfer.backend = TransferBackend::kUcx;
  options.transfer.run_tokens = 1;
  PrefillServer prefill(options);
  DecodeServer decode(options);
  constexpr int64_t kMany = 3'000;
  const Keys keys(kShape, kMany, 1);
  const auto from = SomePages(PagesOf(kMany), 512, 2);
  const auto to = SomePages(PagesOf(kMany), 512, 3);
  prefill.Expect(1, kMany);
  decode.Open({1, "127.0.0.1", prefill.port(), 0, kMany, 0, to});
  ASSERT_TRUE(prefill.WaitOpened(1));
  prefill.Compute(1, keys, from, kMany);
  const auto end = decode.WaitEnd(1, 20'000);
  ASSERT_TRUE(end);
  ASSERT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << end->status.message();
  EXPECT_EQ(keys.Differences(decode.cache(), to, {0, kMany}), 0);
  EXPECT_EQ(decode.receiver().counters().runs, 2 * kMany);
}

TEST(TransferWire, ADecodeServerRefusesKeysOfPagesThatThePrefillCacheDoesNotHave) {
  for (const TransferBackend backend : AllBackends()) {
    if (backend != TransferBackend::kUcx) continue;
    SimulatedOptions options = Server();
    options.transfer.backend = backend;
    PrefillServer memory(options);  // its UCX answers, its words come from the test
    DecodeServer decode(options);
    RawPeer asker = RawPeer::ConnectedTo(memory.port());
    ASSERT_TRUE(asker.Send(Encode(HelloOf(TransferRole::kDecode))));
    const auto hello = asker.Expect<HelloMessage>();
    RawPrefill prefill;
    decode.receiver().Open({1, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
    RawPeer peer = prefill.Accept();
    peer.Expect<HelloMessage>();
    ASSERT_TRUE(peer.Send(Encode(hello)));
    const auto open = peer.Expect<OpenMessage>();
    ASSERT_TRUE(peer.Send(Encode(AcceptedMessage{open.key, 0}) +
                          Encode(RunInMemoryMessage{{open.key, 0, 10, 0}, 0, {512}})));
    const auto end = decode.WaitEnd(1, 5'000);
    ASSERT_TRUE(end);
    EXPECT_NE(end->status.message().find("keys in page 512 of 512"), std::string::npos)
        << end->status.message();
    // What the prefill cache has fewer of than it said: its own side checks.
    HelloMessage larger = hello;
    larger.pages = 1'000;
    decode.receiver().Open({2, "127.0.0.1", prefill.port(), 0, kTokens, 0, {3, 9}});
    RawPeer liar = prefill.Accept();
    liar.Expect<HelloMessage>();
    ASSERT_TRUE(liar.Send(Encode(larger)));
    const auto second = liar.Expect<OpenMessage>();
    ASSERT_TRUE(liar.Send(Encode(AcceptedMessage{second.key, 0}) +
                          Encode(RunInMemoryMessage{{second.key, 0, 10, 0}, 0, {600}})));
    const auto refused = decode.WaitEnd(2, 5'000);
    ASSERT_TRUE(refused);
    EXPECT_NE(refused->status.message().find("UCX: "), std::string::npos)
        << refused->status.message();
  }
}

}  // namespace
}  // namespace causeway
