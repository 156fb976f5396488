#include "net/http_crowd.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "net/http_server.h"
#include "net/socket.h"

namespace causeway {
namespace {

constexpr int64_t kWaitMs = 60'000;

std::string GetOf(const std::string& path) {
  return FormatRequest("GET", path, "localhost", {{"Connection", "close"}}, "");
}

// What happened to each call.
struct Seen {
  explicit Seen(size_t count) : heads(count), bodies(count), ends(count), starts(count) {}
  std::vector<int> heads;
  std::vector<std::string> bodies;
  std::vector<std::vector<StatusCode>> ends;
  std::vector<double> starts;
  int under_way = 0, most = 0;

  Status Run(const CrowdOptions& options, const std::vector<CrowdCall>& calls) {
    const auto begin = std::chrono::steady_clock::now();
    CrowdEvents events;
    events.on_start = [&, begin](size_t i) {
      starts[i] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      most = std::max(most, ++under_way);
    };
    events.on_head = [&](size_t i, int status) { heads[i] = status; };
    events.on_data = [&](size_t i, std::string_view piece) {
      bodies[i] += piece;
      return bodies[i].find("enough") == std::string::npos;
    };
    events.on_end = [&](size_t i, const Status& status) {
      --under_way;
      ends[i].push_back(status.code());
    };
    return RunCrowd(options, calls, events);
  }
};

// Takes connections, reads, sends some bytes, and closes them or leaves them open.
class OddServer {
 public:
  OddServer(std::string answer, bool close) : answer_(std::move(answer)), close_(close) {
    auto listening = ListenAt("127.0.0.1:0");
    EXPECT_TRUE(listening.ok()) << listening.status().message();
    listening_ = std::move(*listening);
    thread_ = std::thread([this] { Loop(); });
  }
  ~OddServer() {
    stop_ = true;
    thread_.join();
  }
  int port() const { return PortOf(listening_); }

 private:
  void Loop() {
    std::vector<Socket> open;
    while (!stop_) {
      pollfd entry{.fd = listening_.fd(), .events = POLLIN, .revents = 0};
      if (poll(&entry, 1, 20) <= 0) continue;
      Socket client(accept(listening_.fd(), nullptr, nullptr));
      char byte = 0;
      const Deadline deadline = Deadline::AfterMs(kWaitMs);
      // All of the request, or closing would reset the connection.
      for (std::string head; !head.ends_with("\r\n\r\n") && client.Receive(&byte, 1, deadline).ok();
           head += byte) {
      }
      EXPECT_TRUE(client.Send(answer_.data(), static_cast<int64_t>(answer_.size()), deadline).ok());
      if (!close_) open.push_back(std::move(client));
    }
  }

  const std::string answer_;
  const bool close_;
  Socket listening_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

TEST(HttpCrowdTest, EveryCallGetsItsOwnAnswerInPiecesOrInWholeAndNoMoreRunAtOnceThanMay) {
  std::vector<HttpRoute> routes;
  routes.push_back({"GET", "/whole/*", [](HttpRequest request, HttpResponder responder) {
                      responder.Send({.status = 404, .body = request.tail});
                    }});
  routes.push_back({"GET", "/pieces/*", [](HttpRequest request, HttpResponder responder) {
                      responder.Begin({});
                      for (const char digit : request.tail) responder.Write({digit, '.'});
                      responder.End();
                    }});
  const auto server = HttpServer::Listen({}, std::move(routes));
  ASSERT_TRUE(server.ok()) << server.status().message();
  std::vector<CrowdCall> calls;
  for (int i = 0; i < 100; ++i) calls.push_back({GetOf(Text(i % 2 ? "/whole/" : "/pieces/", i))});
  Seen seen(calls.size());
  const CrowdOptions options = {.port = (*server)->port(), .concurrency = 7, .timeout_ms = kWaitMs};
  ASSERT_TRUE(seen.Run(options, calls).ok());
  EXPECT_EQ(seen.most, 7);
  for (int i = 0; i < 100; ++i) {
    const auto at = static_cast<size_t>(i);
    EXPECT_EQ(seen.ends[at], std::vector{StatusCode::kOk}) << i;
    EXPECT_EQ(seen.heads[at], i % 2 ? 404 : 200) << i;
    std::string expected;
    for (const char digit : std::to_string(i)) expected += Text(digit, i % 2 ? "" : ".");
    EXPECT_EQ(seen.bodies[at], expected);
  }
}

TEST(HttpCrowdTest, CallsStartNoEarlierThanTheyShould) {
  const OddServer server("HTTP/1.1 200 OK\r\n\r\nend", /*close=*/true);
  std::vector<CrowdCall> calls;
  for (int i = 0; i < 5; ++i) calls.push_back({GetOf("/"), 0.05 * i});
  Seen seen(calls.size());
  ASSERT_TRUE(seen.Run({.port = server.port(), .timeout_ms = kWaitMs}, calls).ok());
  for (size_t i = 0; i < calls.size(); ++i) {
    EXPECT_GE(seen.starts[i], calls[i].start_seconds);
    EXPECT_EQ(seen.bodies[i], "end");  // the close ends it
    EXPECT_EQ(seen.ends[i], std::vector{StatusCode::kOk});
  }
}

TEST(HttpCrowdTest, WhatGoesWrongEndsItsCallWithTheRightCode) {
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
  const struct {
    const char* name;
    std::string answer;
    bool close;
    int64_t timeout_ms;
    StatusCode code;
  } kCases[] = {{"silence", "", false, 100, StatusCode::kDeadlineExceeded},
                {"a body that stops", head + "some", false, 100, StatusCode::kDeadlineExceeded},
                {"a body that is cut", head + "some", true, kWaitMs, StatusCode::kUnavailable},
                {"nothing", "", true, kWaitMs, StatusCode::kUnavailable},
                {"no HTTP", "SSH-2.0-OpenSSH\r\n\r\n", true, kWaitMs, StatusCode::kInvalidArgument},
                {"the caller has enough", head + "enough", false, kWaitMs, StatusCode::kOk}};
  for (const auto& one : kCases) {
    const OddServer server(one.answer, one.close);
    Seen seen(3);
    const std::vector<CrowdCall> calls(3, CrowdCall{GetOf("/")});
    ASSERT_TRUE(seen.Run({.port = server.port(), .timeout_ms = one.timeout_ms}, calls).ok());
    for (const auto& ends : seen.ends) EXPECT_EQ(ends, std::vector{one.code}) << one.name;
  }
}

TEST(HttpCrowdTest, NobodyThereIsAnErrorOfEachCallAndNoNameOneOfAll) {
  int port = 0;
  {
    const auto listening = ListenAt("127.0.0.1:0");
    ASSERT_TRUE(listening.ok()) << listening.status().message();
    port = PortOf(*listening);  // closed again
  }
  Seen seen(2);
  const std::vector<CrowdCall> calls(2, CrowdCall{GetOf("/")});
  ASSERT_TRUE(seen.Run({.port = port, .timeout_ms = kWaitMs}, calls).ok());
  for (const auto& ends : seen.ends) EXPECT_EQ(ends, std::vector{StatusCode::kUnavailable});
  const Status status = seen.Run({.host = "no such host", .port = port}, calls);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("no such host"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace causeway
