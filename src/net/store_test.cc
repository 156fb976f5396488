// The store: values, waiting, the token, and clients that are strange, slow or hostile.
#include "net/store.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "base/check.h"
#include "net/store_wire.h"

namespace causeway {
namespace {

constexpr char kToken[] = "open sesame";

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class StoreTest : public testing::Test {
 protected:
  void Serve(StoreLimits limits = {}) {
    auto server = StoreServer::Make("127.0.0.1:0", kToken, limits);
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(*server);
    address_ = Text("127.0.0.1:", server_->port());
  }

  std::unique_ptr<StoreClient> Join(const std::string& token = kToken) {
    auto client = StoreClient::Connect(address_, token, Soon());
    if (client.ok()) return std::move(*client);
    ADD_FAILURE() << client.status().message();
    return nullptr;
  }

  // A connection that speaks bytes of the test's choice.
  Socket Raw() {
    auto socket = ConnectTo(address_, Soon());
    CHECK(socket.ok(), socket.status().message());
    return std::move(*socket);
  }

  // The server still serves: what every hostile test ends with.
  void ExpectServing() {
    auto client = Join();
    ASSERT_NE(client, nullptr);
    ASSERT_TRUE(client->Set("still", "here", Soon()).ok());
    EXPECT_EQ(client->Get("still", Soon()).value(), "here");
  }

  static Deadline Soon() { return Deadline::AfterMs(10'000); }
  static Deadline InMs(int64_t ms) { return Deadline::AfterMs(ms); }

  std::unique_ptr<StoreServer> server_;
  std::string address_;
};

bool ClosedByServer(const Socket& socket) {
  char byte;
  for (;;) {  // whatever it still says first
    const Status status = socket.Receive(&byte, 1, Deadline::AfterMs(10'000));
    if (!status.ok()) return status.code() == StatusCode::kUnavailable;
  }
}

TEST_F(StoreTest, WhatOneClientSetsAnotherGets) {
  Serve();
  const auto one = Join();
  const auto two = Join();
  const std::string bytes("a\0b\xff", 4);
  ASSERT_TRUE(one->Set("key", bytes, Soon()).ok());
  EXPECT_EQ(two->Get("key", Soon()).value(), bytes);
  ASSERT_TRUE(two->Set("key", "", Soon()).ok());
  EXPECT_EQ(one->Get("key", Soon()).value(), "");
}

TEST_F(StoreTest, AGetWaitsForTheKeyToCome) {
  Serve();
  const auto one = Join();
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    EXPECT_TRUE(Join()->Set("late", "value", Soon()).ok());
  });
  EXPECT_EQ(one->Get("late", Soon()).value(), "value");
  other.join();
}

TEST_F(StoreTest, AGetEndsAtItsDeadlineAndTheConnectionGoesOn) {
  Serve();
  const auto client = Join();
  const auto begin = std::chrono::steady_clock::now();
  const auto missing = client->Get("never", InMs(50));
  EXPECT_EQ(missing.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(missing.status().message(), "nobody has set 'never'");
  EXPECT_GE(SecondsSince(begin), 0.045);
  EXPECT_LT(SecondsSince(begin), 5.0);
  ASSERT_TRUE(client->Set("never", "now", Soon()).ok());
  EXPECT_EQ(client->Get("never", InMs(0)).value(), "now");
}

TEST_F(StoreTest, ACounterGivesEveryClientAnotherNumber) {
  Serve();
  std::vector<std::thread> threads;
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto client = Join();
      for (int n = 0; n < 50; ++n) sum += client->Add("tickets", 1, Soon()).value();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(sum, 400 * 401 / 2);
  const auto client = Join();
  EXPECT_EQ(client->Add("tickets", -400, Soon()).value(), 0);
  ASSERT_TRUE(client->Set("word", "seven", Soon()).ok());
  EXPECT_EQ(client->Add("word", 1, Soon()).status().message(), "'word' is not a counter");
  ASSERT_TRUE(client->Set("high", Text(INT64_MAX), Soon()).ok());
  EXPECT_EQ(client->Add("high", 1, Soon()).status().message(), "the counter is full");
}

TEST_F(StoreTest, AWrongTokenIsToldSoAndOthersStillMeet) {
  Serve();
  for (const std::string& wrong : {std::string(), std::string("open sesam"),
                                   std::string(kToken) + "!", std::string(kStoreTokenBytes, 'x')}) {
    const auto client = StoreClient::Connect(address_, wrong, Soon());
    ASSERT_FALSE(client.ok());
    EXPECT_EQ(client.status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(client.status().message(), "the token is not this server's");
  }
  EXPECT_EQ(server_->refused(), 4);
  EXPECT_FALSE(StoreClient::Connect(address_, std::string(5000, 'x'), Soon()).ok());
  ExpectServing();
}

TEST_F(StoreTest, NothingIsAnsweredBeforeTheToken) {
  Serve();
  ASSERT_TRUE(Join()->Set("secret", "42", Soon()).ok());
  const Socket socket = Raw();
  std::string request("G");
  AppendNumber(request, uint32_t{6});
  request += "secret";
  AppendNumber(request, int64_t{1000});
  const std::string frame = Frame(request);
  ASSERT_TRUE(socket.Send(frame.data(), static_cast<int64_t>(frame.size()), Soon()).ok());
  std::string answer(5, '\0');
  ASSERT_TRUE(socket.Receive(answer.data(), 5, Soon()).ok());
  EXPECT_EQ(static_cast<StoreAnswer>(answer[4]), StoreAnswer::kRefused);
  EXPECT_TRUE(ClosedByServer(socket));
}

TEST_F(StoreTest, ASilentStrangerIsCutOffAndDisturbsNobody) {
  Serve({.token_ms = 50});
  const Socket silent = Raw();
  const Socket slow = Raw();  // sends its token too slowly
  ASSERT_TRUE(slow.Send("\x10", 1, Soon()).ok());
  ExpectServing();
  EXPECT_TRUE(ClosedByServer(silent));
  EXPECT_TRUE(ClosedByServer(slow));
  EXPECT_EQ(server_->refused(), 2);
  ExpectServing();
}

TEST_F(StoreTest, ASlowClientWithTheTokenIsServedByteByByte) {
  Serve({.token_ms = 60'000});
  const Socket socket = Raw();
  std::string set("S");
  AppendNumber(set, uint32_t{1});
  const std::string bytes = Frame(std::string(kStoreHello) + kToken) + Frame(set + "k" + "v");
  for (const char byte : bytes) {
    ASSERT_TRUE(socket.Send(&byte, 1, Soon()).ok());
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  EXPECT_EQ(Join()->Get("k", Soon()).value(), "v");
}

TEST_F(StoreTest, WhatIsTooLargeIsRefusedWithBothNumbers) {
  Serve({.entries = 2, .key_bytes = 8, .value_bytes = 100});
  const auto client = Join();
  EXPECT_EQ(client->Set("a key too long", "v", Soon()).message(),
            "found a key of 14 bytes; expected at most 8");
  EXPECT_EQ(client->Set("a", std::string(101, 'v'), Soon()).message(),
            "found a value of 101 bytes; expected at most 100");
  ASSERT_TRUE(client->Set("a", std::string(100, 'v'), Soon()).ok());
  ASSERT_TRUE(client->Set("b", "v", Soon()).ok());
  EXPECT_EQ(client->Set("c", "v", Soon()).message(), "the store holds 2 keys already");
  EXPECT_EQ(client->Add("c", 1, Soon()).status().message(), "the store holds 2 keys already");
  ASSERT_TRUE(client->Set("b", "other", Soon()).ok());  // no new key
  const Status huge = client->Set("b", std::string(1000, 'v'), Soon());
  EXPECT_EQ(huge.message(), "found a message of 1006 bytes; expected at most 124");
  EXPECT_EQ(client->Set("b", "v", Soon()).code(), StatusCode::kUnavailable);  // cut off
}

TEST_F(StoreTest, StrangersCannotTakeTheLastPlaces) {
  Serve({.connections = 4});
  const auto early = Join();
  std::vector<Socket> strangers;
  for (int i = 0; i < 20; ++i) strangers.push_back(Raw());
  const auto one = Join();
  const auto two = Join();
  const auto three = Join();
  EXPECT_TRUE(ClosedByServer(strangers.front()));
  EXPECT_TRUE(early->Set("k", "v", Soon()).ok());
  EXPECT_EQ(three->Get("k", Soon()).value(), "v");
  // Full of clients with the token: one more is turned away, and they are not.
  EXPECT_FALSE(StoreClient::Connect(address_, kToken, Soon()).ok());
  EXPECT_EQ(one->Get("k", Soon()).value(), "v");
}

TEST_F(StoreTest, GarbageNeverHarmsTheServer) {
  Serve({.token_ms = 200});
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(Text("seed ", seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    const Socket socket = Raw();
    std::string bytes;
    // Half of them know the token and send garbage as requests.
    if (random() % 2 == 0) bytes = Frame(std::string(kStoreHello) + kToken);
    for (int frames = static_cast<int>(random() % 4); frames >= 0; --frames) {
      std::string body;
      if (random() % 2 == 0) body += "SGA"[random() % 3];
      if (random() % 2 == 0) AppendNumber(body, static_cast<uint32_t>(random() % 20));
      for (size_t n = random() % 40; n > 0; --n) body += static_cast<char>(random());
      bytes += random() % 4 == 0 ? body : Frame(body);
    }
    const Status sent = socket.Send(bytes.data(), static_cast<int64_t>(bytes.size()), Soon());
    (void)sent;  // the server may have closed already
  }
  ExpectServing();
}

TEST_F(StoreTest, AClientThatLeavesWhileItWaitsIsForgotten) {
  Serve({.connections = 2});
  for (int i = 0; i < 20; ++i) {
    const Socket socket = Raw();
    std::string get("G");
    AppendNumber(get, uint32_t{5});
    get += "never";
    AppendNumber(get, int64_t{1'000'000'000});
    const std::string bytes = Frame(std::string(kStoreHello) + kToken) + Frame(get);
    ASSERT_TRUE(socket.Send(bytes.data(), static_cast<int64_t>(bytes.size()), Soon()).ok());
    char answer[5];
    ASSERT_TRUE(socket.Receive(answer, 5, Soon()).ok());  // joined, and waits
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ExpectServing();
}

TEST_F(StoreTest, ClientsOfAStoreThatEndsGetAnErrorAtOnce) {
  Serve();
  const auto client = Join();
  std::thread stop([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    server_.reset();
  });
  const auto begin = std::chrono::steady_clock::now();
  const auto value = client->Get("never", InMs(60'000));
  EXPECT_EQ(value.status().code(), StatusCode::kUnavailable);
  EXPECT_LT(SecondsSince(begin), 20.0);
  EXPECT_EQ(client->Get("never", Soon()).status().message(),
            "the connection to the store broke earlier");
  stop.join();
}

TEST_F(StoreTest, ConnectingWaitsForTheServerUntilItsDeadline) {
  Serve();
  const std::string address = address_;
  server_.reset();
  const auto begin = std::chrono::steady_clock::now();
  const auto nobody = StoreClient::Connect(address, kToken, InMs(200));
  EXPECT_EQ(nobody.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(nobody.status().message(), Text("no connection to ", address, ": Connection refused"));
  EXPECT_LT(SecondsSince(begin), 10.0);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    auto server = StoreServer::Make(address, kToken);
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(*server);
  });
  EXPECT_TRUE(StoreClient::Connect(address, kToken, Soon()).ok());
  later.join();
}

TEST_F(StoreTest, AnAnswerThatIsNoneOfOursIsAnErrorOfTheClient) {
  auto listener = ListenAt("127.0.0.1:0");
  ASSERT_TRUE(listener.ok());
  address_ = Text("127.0.0.1:", PortOf(*listener));
  std::thread other([&] {
    Socket peer;
    while (peer.fd() < 0) peer = Socket(accept(listener->fd(), nullptr, nullptr));
    ASSERT_TRUE(peer.Send("HTTP/1.1 400 Bad Request\r\n\r\n", 28, Soon()).ok());
  });
  const auto client = StoreClient::Connect(address_, kToken, Soon());
  EXPECT_EQ(client.status().message(), "what listens there is not a Causeway store");
  other.join();
}

TEST(Socket, AddressesAreParsedOrRefusedWithWhatWasExpected) {
  EXPECT_EQ(ParseHostPort("10.0.0.1:29500")->port, 29500);
  EXPECT_EQ(ParseHostPort("node-0.cluster:1")->host, "node-0.cluster");
  EXPECT_EQ(ParseHostPort("[fe80::1]:80")->host, "fe80::1");
  for (const char* wrong : {"", ":1", "host", "host:", "host:x", "host:1x", "host:65536", "host:-1",
                            "fe80::1:80", "[]:1", "[fe80::1:80", "host: 1"}) {
    const auto parsed = ParseHostPort(wrong);
    ASSERT_FALSE(parsed.ok()) << wrong;
    EXPECT_NE(parsed.status().message().find("expected HOST:PORT"), std::string::npos);
  }
}

TEST(Socket, AnAddressOfAnotherHostCannotBeListenedAt) {
  const auto taken = ListenAt("127.0.0.1:0");
  ASSERT_TRUE(taken.ok());
  const std::string address = Text("127.0.0.1:", PortOf(*taken));
  EXPECT_EQ(ListenAt(address).status().message(),
            Text("can't listen at ", address, ": Address already in use"));
  EXPECT_FALSE(ListenAt("192.0.2.1:0").ok());
}

TEST(Socket, TheOwnAddressIsFoundByRouteByNameAndByAddress) {
  EXPECT_EQ(AddressTowards("127.0.0.1:1").value(), "127.0.0.1");
  EXPECT_EQ(AddressOfInterface("lo").value(), "127.0.0.1");
  EXPECT_EQ(AddressOfInterface("127.0.0.1").value(), "127.0.0.1");
  const Status none = AddressOfInterface("nonet7").status();
  EXPECT_NE(none.message().find("no network 'nonet7'; it has "), std::string::npos);
  EXPECT_NE(none.message().find("lo (127.0.0.1)"), std::string::npos);
}

}  // namespace
}  // namespace causeway
