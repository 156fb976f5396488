// Calls of a server whose every byte the test says.
#include "net/http_upstream.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

namespace causeway {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr const char* kRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

// Pieces that a server sends; see ByteServer.
using Script = std::vector<std::string>;
using Scripts = std::vector<Script>;

// What one call came to.
struct Result {
  Status status;
  int http_status = 0;
  std::string body;
};

// Accepts a connection for each script, reads a request before each piece that begins with '>'
// (left out of what it sends), sends the pieces and closes.
class ByteServer {
 public:
  explicit ByteServer(Scripts scripts)
      : acceptor_(io_, tcp::endpoint(asio::ip::address_v4::loopback(), 0)),
        thread_([this, scripts = std::move(scripts)] {
          for (const Script& script : scripts) Play(script);
        }) {}
  ~ByteServer() {
    // An accept that still waits.
    acceptor_.cancel();
    shutdown(acceptor_.native_handle(), SHUT_RDWR);
    thread_.join();
  }
  int port() const { return acceptor_.local_endpoint().port(); }

 private:
  void Play(const Script& script) {
    boost::system::error_code ec;
    tcp::socket socket(io_);
    acceptor_.accept(socket, ec);
    if (ec) return;
    std::string input;
    for (std::string piece : script) {
      if (piece.starts_with('>')) {
        asio::read_until(socket, asio::dynamic_buffer(input), "\r\n\r\n", ec);
        input.clear();
        piece.erase(0, 1);
      }
      asio::write(socket, asio::buffer(piece), ec);
      // So that pieces arrive one by one.
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  asio::io_context io_;
  tcp::acceptor acceptor_;
  std::thread thread_;
};

asio::awaitable<void> CallOnce(Upstream& upstream, std::vector<Result>& results) {
  Result result;
  UpstreamCall call(upstream);
  result.status = co_await call.Send(kRequest, "");
  if (result.status.ok()) {
    const StatusOr<UpstreamHead> head = co_await call.ReadHead();
    result.status = head.status();
    if (head.ok()) result.http_status = head->status;
  }
  std::string piece;
  bool more = result.status.ok();
  while (more) {
    result.status = co_await call.ReadSome(piece);
    result.body += piece;
    more = result.status.ok() && !piece.empty();
  }
  results.push_back(result);
}

asio::awaitable<void> Calls(Upstream& upstream, int count, std::vector<Result>& results,
                            bool& done) {
  for (int i = 0; i < count; ++i) co_await CallOnce(upstream, results);
  upstream.CloseIdle();
  done = true;
}

// Calls one after another.
std::vector<Result> RunCalls(int port, int count, int64_t timeout_ms = 5'000) {
  asio::io_context io;
  UpstreamSweep sweep(io);
  Upstream upstream(sweep, {.host = "127.0.0.1", .port = port},
                    {.connect_timeout_ms = 2'000, .answer_timeout_ms = timeout_ms});
  std::vector<Result> results;
  bool done = false;
  asio::co_spawn(io, Calls(upstream, count, results, done), asio::detached);
  while (!done) {
    io.run_for(std::chrono::milliseconds(10));
    io.restart();
    sweep.Sweep(Deadline::Clock::now());
  }
  return results;
}

Result RunOne(Script script, int64_t timeout_ms = 5'000) {
  ByteServer server(Scripts{std::move(script)});
  return RunCalls(server.port(), 1, timeout_ms)[0];
}

TEST(HttpUpstream, BodiesOfEveryFramingComeWhole) {
  const Script scripts[] = {
      {">HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
      {">HTTP/1.1 200 OK\r\nContent-Le", "ngth: 5\r", "\n\r\nhe", "llo"},
      {">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"},
      {">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2", "\r", "\nh", "e\r\n3;x=y\r\nllo",
       "\r\n0\r\n", "Trailer: x\r\n\r\n"},
      {">HTTP/1.1 200 OK\r\n\r\nhel", "lo"},
      {">HTTP/1.0 200 OK\r\n\r\nhello"},
      {">HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 "
       "OK\r\n"
       "Content-Length: 5\r\n\r\nhello"}};
  for (const Script& script : scripts) {
    const Result result = RunOne(script);
    EXPECT_TRUE(result.status.ok()) << result.status.message();
    EXPECT_EQ(result.http_status, 200);
    EXPECT_EQ(result.body, "hello") << script[0];
  }
  EXPECT_EQ(RunOne({">HTTP/1.1 204 No Content\r\n\r\n"}).http_status, 204);
}

TEST(HttpUpstream, WhatIsCutOrNoHttpIsAnErrorThatSaysSo) {
  const auto code = [](Script script) {
    const Result result = RunOne(std::move(script));
    EXPECT_NE(result.status.message().find("127.0.0.1:"), std::string::npos);
    return result.status.code();
  };
  EXPECT_EQ(code({">"}), StatusCode::kUnavailable);
  EXPECT_EQ(code({">HTTP/1.1 200 OK\r\nConte"}), StatusCode::kUnavailable);
  EXPECT_EQ(code({">HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"}), StatusCode::kUnavailable);
  EXPECT_EQ(code({">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"}),
            StatusCode::kUnavailable);
  EXPECT_EQ(code({">SSH-2.0-OpenSSH_9.2\r\n\r\n"}), StatusCode::kInternal);
  EXPECT_EQ(code({">HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"}),
            StatusCode::kInternal);
  // A length that nobody sends costs no memory.
  EXPECT_EQ(code({">HTTP/1.1 200 OK\r\nContent-Length: 999999999999999\r\n\r\nhello"}),
            StatusCode::kUnavailable);
}

TEST(HttpUpstream, SilenceEndsAtTheDeadline) {
  // Another request is never sent: the server waits for it, and the client for the answer.
  ByteServer server(Scripts{{">HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", ">"}});
  const Result result = RunCalls(server.port(), 1, 100)[0];
  EXPECT_EQ(result.status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(result.body, "hello");
  EXPECT_NE(result.status.message().find("within 100 ms"), std::string::npos);
}

TEST(HttpUpstream, AConnectionIsUsedAgainUnlessTheServerEndsIt) {
  const std::string kept = ">HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
  // Three calls on two connections: the first is closed after two of them.
  ByteServer server(Scripts{{kept + "a", kept + "b"}, {kept + "c"}});
  const std::vector<Result> results = RunCalls(server.port(), 3);
  std::string bodies;
  for (const Result& result : results) {
    EXPECT_TRUE(result.status.ok()) << result.status.message();
    bodies += result.body;
  }
  EXPECT_EQ(bodies, "abc");

  ByteServer closing(
      {{">HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na"}, {kept + "b"}});
  const std::vector<Result> two = RunCalls(closing.port(), 2);
  EXPECT_EQ(two[0].body + two[1].body, "ab");
}

TEST(HttpUpstream, BytesThatNobodyAskedForAreNoAnswerToTheNextRequest) {
  ByteServer server(Scripts{{">HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
                             "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"},
                            {">HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"}});
  asio::io_context io;
  UpstreamSweep sweep(io);
  Upstream upstream(sweep, {.host = "127.0.0.1", .port = server.port()}, {});
  std::vector<Result> results;
  for (int i = 0; i < 2; ++i) {
    asio::co_spawn(io, CallOnce(upstream, results), asio::detached);
    io.run();
    io.restart();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ASSERT_EQ(results.size(), 2U);
  EXPECT_EQ(results[0].body, "a");
  EXPECT_EQ(results[1].body, "b");
}

TEST(HttpUpstream, ARefusedConnectionIsAnError) {
  int port = 0;
  {
    asio::io_context io;
    port = tcp::acceptor(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0))
               .local_endpoint()
               .port();
  }
  const Result result = RunCalls(port, 1)[0];
  EXPECT_EQ(result.status.code(), StatusCode::kUnavailable);
  EXPECT_NE(result.status.message().find("no connection"), std::string::npos);
}

}  // namespace
}  // namespace causeway
