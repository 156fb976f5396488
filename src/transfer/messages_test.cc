#include "transfer/messages.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "checkpoint/temporary_directory.h"
#include "transfer/receiver.h"
#include "transfer/ucx_memory.h"

namespace causeway {
namespace {

HelloMessage SomeHello() {
  return {.role = TransferRole::kDecode,
          .server = {0x0123456789abcdef, 0xfedcba9876543211},
          .host = 1,
          .layout = *Layout::Make({.world = 8, .cp = 2, .dp = 2, .hosts = 2}),
          .side = {{.layers = 61,
                    .latent_dim = 576,
                    .index_dim = 128,
                    .type = DType::kBf16,
                    .int8_index = true},
                   64,
                   "fingerprint"},
          .pages = 1000,
          .checksum = true,
          .addresses = {"a:1", "[::1]:2"},
          .memory = {77, 3, 4, 5, {6, 7}},
          .backend = TransferBackend::kUcx,
          .ucx = {.version = 1 << 16 | 13, .rdma = true, .port = 4711}};
}

TEST(TransferMessages, ComeBackAsTheyWere) {
  const auto hello = Decode<HelloMessage>(FieldsOf(SomeHello()));
  ASSERT_TRUE(hello.ok()) << hello.status().message();
  EXPECT_EQ(hello->role, TransferRole::kDecode);
  EXPECT_EQ(hello->server, SomeHello().server);
  EXPECT_EQ(hello->host, 1);
  EXPECT_EQ(hello->layout.tp, 2);
  EXPECT_EQ(hello->layout.hosts, 2);
  EXPECT_EQ(hello->side.shape, SomeHello().side.shape);
  EXPECT_EQ(hello->side.model, "fingerprint");
  EXPECT_EQ(hello->addresses, SomeHello().addresses);
  EXPECT_EQ(hello->memory.pid, 77);
  EXPECT_EQ(hello->memory.proof, (ServerId{6, 7}));
  EXPECT_EQ(hello->backend, TransferBackend::kUcx);
  EXPECT_EQ(hello->ucx.version, 1u << 16 | 13u);
  EXPECT_TRUE(hello->ucx.rdma);
  EXPECT_EQ(hello->ucx.port, 4711);
  const auto run =
      Decode<RunInMemoryMessage>(FieldsOf(RunInMemoryMessage{{{1, 2}, 100, 60, 3}, 99, {5, 6}}));
  ASSERT_TRUE(run.ok()) << run.status().message();
  EXPECT_EQ(run->run.tokens(), (Range{100, 160}));
  EXPECT_EQ(run->pages, (std::vector<int32_t>{5, 6}));
  const std::string metadata("a\0b", 3);
  EXPECT_EQ(Decode<DoneMessage>(FieldsOf(DoneMessage{{1, 2}, 3, metadata}))->metadata, metadata);
}

TEST(TransferMessages, HaveTheSameBytesOnEveryMachine) {
  const std::string frame = Encode(AckMessage{{0x0102030405060708, 0x090a}});
  const unsigned char expected[] = {'C', 'W', 'K', 'V', 2, 0, 9, 0, 16, 0, 0, 0, 0, 0, 0, 0,
                                    8,   7,   6,   5,   4, 3, 2, 1, 10, 9, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(frame, std::string(reinterpret_cast<const char*>(expected), sizeof expected));
}

// Every prefix of a body, and every body with one byte more, is malformed.
template <typename Message>
void CutEverywhere(const Message& message) {
  const std::string body = FieldsOf(message);
  ASSERT_TRUE(Decode<Message>(body).ok()) << Decode<Message>(body).status().message();
  for (size_t length = 0; length < body.size(); ++length) {
    EXPECT_FALSE(Decode<Message>(body.substr(0, length)).ok())
        << NameOf(Message::kType) << " of " << length << " bytes";
  }
  EXPECT_FALSE(Decode<Message>(body + '\0').ok()) << NameOf(Message::kType);
  // Whatever a byte is changed to, there is a message or an error. ASan watches.
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string other = body;
    other[random() % other.size()] = static_cast<char>(random());
    const auto decoded = Decode<Message>(other);
    if (decoded.ok()) {
      EXPECT_EQ(FieldsOf(*decoded).size(), other.size());
    }
  }
}

TEST(TransferMessages, AreRefusedWhereverTheyAreCut) {
  CutEverywhere(SomeHello());
  CutEverywhere(ByeMessage{StatusCode::kUnavailable, "why"});
  CutEverywhere(OpenMessage{{1, 2}, 100, 64, 0, TransferBackend::kUcx});
  CutEverywhere(AcceptedMessage{{1, 2}, 3});
  CutEverywhere(RefusedMessage{{1, 2}, StatusCode::kInvalidArgument, "why"});
  CutEverywhere(CancelMessage{{1, 2}, StatusCode::kCancelled, "why"});
  CutEverywhere(RunInMemoryMessage{{{1, 2}, 100, 60, 3}, 99, {5, 6}});
  CutEverywhere(DoneMessage{{1, 2}, 3, "metadata"});
  CutEverywhere(AckMessage{{1, 2}});
  CutEverywhere(ReleasedMessage{{1, 2}});
  CutEverywhere(PingMessage{5});
  CutEverywhere(ReportMessage{1, 2, StatusCode::kOk, ""});
}

TEST(TransferMessages, WithValuesThatCanNotBeAreRefused) {
  EXPECT_FALSE(Decode<OpenMessage>(FieldsOf(OpenMessage{{1, 2}, 0, 0, 0})).ok());
  EXPECT_FALSE(Decode<OpenMessage>(FieldsOf(OpenMessage{{1, 2}, 10, 11, 0})).ok());
  EXPECT_FALSE(
      Decode<RunInMemoryMessage>(FieldsOf(RunInMemoryMessage{{{1, 2}, 60, 10, 3}, 99, {5}})).ok())
      << "10 tokens from 60 on have two pages";
  HelloMessage hello = SomeHello();
  hello.layout.hosts = 3;  // does not divide the ranks
  const auto decoded = Decode<HelloMessage>(FieldsOf(hello));
  ASSERT_FALSE(decoded.ok());
  EXPECT_NE(decoded.status().message().find("host 1 of 3"), std::string::npos)
      << decoded.status().message();
  hello = SomeHello();
  hello.pages = int64_t{1} << 30;
  EXPECT_FALSE(Decode<HelloMessage>(FieldsOf(hello)).ok()) << "bytes that no number counts";
  for (const int port : {-1, 0, 65536}) {
    hello = SomeHello();
    hello.ucx.port = port;
    const auto found = Decode<HelloMessage>(FieldsOf(hello));
    ASSERT_FALSE(found.ok()) << port;
    EXPECT_NE(found.status().message().find(Text("UCX at port ", port)), std::string::npos)
        << found.status().message();
  }
  hello = SomeHello();
  hello.backend = static_cast<TransferBackend>(9);
  EXPECT_FALSE(Decode<HelloMessage>(FieldsOf(hello)).ok());
  OpenMessage open{{1, 2}, 10, 0, 0, TransferBackend::kAuto};
  EXPECT_FALSE(Decode<OpenMessage>(FieldsOf(open)).ok()) << "it must say which way";
  open.backend = static_cast<TransferBackend>(200);
  EXPECT_FALSE(Decode<OpenMessage>(FieldsOf(open)).ok());
}

TEST(TransferMessages, HeadersNameWhatIsWrongWithThem) {
  const std::string good = EncodeHeader(MessageType::kAck, 16);
  EXPECT_EQ(DecodeHeader(good)->type, MessageType::kAck);
  const auto message = [&](size_t at, char value) {
    std::string bad = good;
    bad[at] = value;
    return DecodeHeader(bad).status().message();
  };
  EXPECT_NE(message(0, 'G').find("another program"), std::string::npos);
  EXPECT_NE(message(4, 9).find("version 9"), std::string::npos);
  EXPECT_NE(message(6, 15).find("type 15"), std::string::npos);
  EXPECT_NE(message(6, 0).find("type 0"), std::string::npos);
  EXPECT_NE(message(11, 1).find("ACK message of 16777232 bytes"), std::string::npos);
}

TEST(TransferMessages, TellOtherHostsOfARoom) {
  const RoomOpen open{.room = 7,
                      .host = "prefill",
                      .port = 8998,
                      .dp = 1,
                      .prompt_tokens = 130,
                      .skip = 64,
                      .pages = {9, 8, 7}};
  const std::string bytes = open.Encode();
  const auto back = RoomOpen::Decode(bytes);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->host, "prefill");
  EXPECT_EQ(back->pages, open.pages);
  EXPECT_EQ(back->skip, 64);
  const std::string close = RoomClose{7, DeadlineExceeded("late")}.Encode();
  EXPECT_EQ(RoomClose::Decode(close)->why.message(), "late");
  EXPECT_EQ(RoomClose::Decode(close)->why.code(), StatusCode::kDeadlineExceeded);
  for (size_t i = 0; i < bytes.size(); ++i) EXPECT_FALSE(RoomOpen::Decode(bytes.substr(0, i)).ok());
  for (size_t i = 0; i < close.size(); ++i)
    EXPECT_FALSE(RoomClose::Decode(close.substr(0, i)).ok());
}

TEST(UcxDevices, GetAPortWhereTheyAreOfRdmaAndNameNone) {
  TemporaryDirectory system;
  std::filesystem::create_directory(system.File("mlx5_0"));
  std::filesystem::create_directory(system.File("mlx5_1"));
  EXPECT_EQ(UcxDevices("mlx5_0,mlx5_1:2,eth0", system.path()), "mlx5_0:1,mlx5_1:2,eth0");
  EXPECT_EQ(UcxDevices(",eth0,", system.path()), "eth0");
  EXPECT_EQ(UcxDevices("", system.path()), "");
}

}  // namespace
}  // namespace causeway
