// The running server against clients that leave or stop reading, signals, and with TLS and keys.
#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "app/program.h"
#include "base/check.h"
#include "checkpoint/temporary_directory.h"
#include "net/http_client.h"
#include "net/tls_test_client.h"

namespace causeway {
namespace {

constexpr int64_t kDeadlineMs = 120'000;
// Runs for as long as the context lasts: longer than any test.
const char kEndless[] =
    R"({"prompt":"on","stream":true,"max_tokens":60000,"ignore_eos":true,"temperature":0})";

class ServeSafety : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_files_ = std::make_unique<TemporaryDirectory>();
    Program make(CAUSEWAY_BINARY, model_files_->path(),
                 {"make-model", "--preset", "tiny-v32", "--output", Model()});
    ASSERT_EQ(make.Wait(Deadline::AfterMs(kDeadlineMs)), 0) << make.Stderr();
  }
  static void TearDownTestSuite() { model_files_.reset(); }
  static std::string Model() { return model_files_->File("model"); }

  // Starts the server and waits until it listens.
  void Serve(const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"serve", "--model-path", Model(), "--port", "0"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    server_.emplace(CAUSEWAY_BINARY, files_.path(), std::move(arguments));
    WaitFor("the start", [this] { return Log().find("://127.0.0.1:") != std::string::npos; });
    const std::string log = Log();
    port_ = std::atoi(log.c_str() + log.find("://127.0.0.1:") + 13);
    ASSERT_GT(port_, 0) << log;
  }
  std::string Log() const { return server_->Stderr(); }
  void WaitFor(const char* what, const std::function<bool()>& condition) {
    while (!condition() && !deadline_.Passed()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_TRUE(condition()) << what << ": " << Log();
  }
  HttpClient Client() {
    auto client = HttpClient::Connect("127.0.0.1", port_, deadline_);
    EXPECT_TRUE(client.ok()) << client.status().message();
    return std::move(client).value();
  }
  HttpReply Get(const char* path, const std::vector<HttpHeader>& headers = {}) {
    auto reply = Client().Call("GET", path, "", deadline_, headers);
    EXPECT_TRUE(reply.ok()) << path << ": " << reply.status().message();
    return reply.ok() ? *reply : HttpReply();
  }
  nlohmann::json Load() {
    return nlohmann::json::parse(Get("/get_load").body, nullptr, false).at(0);
  }
  // A stream that has begun.
  HttpClient Stream(const std::vector<HttpHeader>& headers = {}) {
    HttpClient client = Client();
    EXPECT_TRUE(
        client
            .SendBytes(FormatRequest("POST", "/v1/completions", "h", headers, kEndless), deadline_)
            .ok());
    const auto head = client.ReadHead(deadline_);
    EXPECT_TRUE(head.ok()) << head.status().message();
    EXPECT_EQ(head.ok() ? head->status : 0, 200);
    EXPECT_FALSE(client.ReadBody(deadline_)->empty());
    return client;
  }

  static inline std::unique_ptr<TemporaryDirectory> model_files_;
  const TemporaryDirectory files_;
  const Deadline deadline_ = Deadline::AfterMs(kDeadlineMs);
  std::optional<Program> server_;
  int port_ = 0;
};

TEST_F(ServeSafety, PagesOfAClientThatHasGoneAreFreeAtOnce) {
  Serve({});
  for (int i = 0; i < 20; ++i) {
    std::optional<HttpClient> client = Stream();
    EXPECT_EQ(Load().at("num_reqs"), 1);
    EXPECT_GT(Load().at("num_tokens"), 0);
    const auto gone = Deadline::Clock::now();
    client.reset();
    WaitFor("free pages",
            [this] { return Load().at("num_reqs") == 0 && Load().at("num_tokens") == 0; });
    // A step of the tiny model takes a millisecond or two; the rest is this machine's.
    EXPECT_LT(Deadline::Clock::now() - gone, std::chrono::seconds(5));
  }
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->Wait(deadline_), 0) << Log();
}

TEST_F(ServeSafety, AClientThatDoesNotReadItsStreamIsCutAndItsPagesAreFree) {
  // A small buffer on both sides: the stream fills them within seconds.
  Serve({"--max-stream-buffer-bytes", "65536", "--write-timeout", "1"});
  const int socket = ConnectTo(port_);
  ASSERT_GE(socket, 0);
  const int small = 4096;
  setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
  const std::string request = FormatRequest(
      "POST", "/v1/completions", "h", {},
      R"({"prompt":"on","stream":true,"n":16,"max_tokens":20000,"ignore_eos":true,"logprobs":20})");
  ASSERT_EQ(send(socket, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  WaitFor("a running request", [this] { return Load().at("num_reqs") > 0; });
  WaitFor("the cut", [this] { return Load().at("num_reqs") == 0 && Load().at("num_tokens") == 0; });
  close(socket);
  EXPECT_NE(Log().find("status=499"), std::string::npos) << Log();
}

TEST_F(ServeSafety, ADrainingServerSays503AndEndsWithinItsDeadline) {
  Serve({"--drain-seconds", "2"});
  HttpClient stream = Stream();
  EXPECT_EQ(Get("/health").status, 200);
  server_->Signal(SIGTERM);
  WaitFor("draining", [this] { return Log().find("event=draining") != std::string::npos; });
  const HttpReply health = Get("/health");
  EXPECT_EQ(health.status, 503);
  EXPECT_NE(FindHeader(health.headers, "Retry-After"), nullptr);
  const auto refused =
      Client().Call("POST", "/v1/completions", R"({"prompt":"x","max_tokens":1})", deadline_);
  ASSERT_TRUE(refused.ok()) << refused.status().message();
  EXPECT_EQ(refused->status, 503);
  EXPECT_NE(FindHeader(refused->headers, "Retry-After"), nullptr);
  // The stream goes on until the deadline, and then ends with an error and not with silence.
  std::string rest;
  for (;;) {
    const auto piece = stream.ReadBody(deadline_);
    if (!piece.ok() || piece->empty()) break;
    rest += *piece;
  }
  EXPECT_NE(rest.find("shutting down"), std::string::npos) << rest.substr(0, 500);
  EXPECT_EQ(server_->Wait(deadline_), 0) << Log();
}

TEST_F(ServeSafety, AHangupSignalIsLoggedAndChangesNothing) {
  Serve({});
  HttpClient stream = Stream();
  server_->Signal(SIGHUP);
  WaitFor("the log", [this] { return Log().find("event=hangup_ignored") != std::string::npos; });
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_FALSE(stream.ReadBody(deadline_)->empty());
  EXPECT_EQ(Load().at("num_reqs"), 1);
}

TEST_F(ServeSafety, AFullQueueIs503WithRetryAfter) {
  Serve({"--max-running-requests", "1", "--max-queued-requests", "1"});
  const HttpClient running = Stream();
  HttpClient waiting = Client();
  ASSERT_TRUE(
      waiting.SendBytes(FormatRequest("POST", "/v1/completions", "h", {}, kEndless), deadline_)
          .ok());
  WaitFor("a full queue", [this] { return Load().at("num_waiting_reqs") == 1; });
  const auto refused =
      Client().Call("POST", "/v1/completions", R"({"prompt":"x","max_tokens":1})", deadline_);
  ASSERT_TRUE(refused.ok()) << refused.status().message();
  EXPECT_EQ(refused->status, 503) << refused->body;
  EXPECT_NE(FindHeader(refused->headers, "Retry-After"), nullptr);
}

TEST_F(ServeSafety, KeysOfAFileGuardBothApisAndHaveTheirOwnLimits) {
  Serve({"--api-key", "boss", "--api-key-file", files_.Put("keys", "guest 1\n")});
  const std::vector<HttpHeader> guest = {{"Authorization", "Bearer guest"}};
  const std::vector<HttpHeader> boss = {{"Authorization", "Bearer boss"}};
  EXPECT_EQ(Get("/health").status, 200);
  for (const char* path : {"/v1/models", "/get_load", "/server_info"}) {
    EXPECT_EQ(Get(path).status, 401) << path;
    EXPECT_EQ(Get(path, guest).status, 200) << path;
    EXPECT_EQ(Get(path, boss).status, 200) << path;
  }
  std::optional<HttpClient> stream = Stream(guest);
  const auto ask = [&](const std::vector<HttpHeader>& key) {
    auto reply =
        Client().Call("POST", "/generate", R"({"text":"x","sampling_params":{"max_new_tokens":1}})",
                      deadline_, key);
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return reply.ok() ? reply->status : 0;
  };
  EXPECT_EQ(ask(guest), 429);
  EXPECT_EQ(ask(boss), 200);
  EXPECT_EQ(ask({}), 401);
  stream.reset();
  WaitFor("the key's request to end", [&] { return ask(guest) == 200; });
}

TEST_F(ServeSafety, TlsServesStreamsAndEndsCleanly) {
  const std::string certificate = files_.File("cert.pem");
  WriteCertificate(certificate, files_.File("key.pem"), "word");
  Serve({"--ssl-certfile", certificate, "--ssl-keyfile", files_.File("key.pem"),
         "--ssl-keyfile-password", "word", "--trust-remote-code"});
  EXPECT_NE(Log().find("https://127.0.0.1:"), std::string::npos) << Log();
  EXPECT_NE(Log().find("event=flag_without_effect flag=\"--trust-remote-code: "), std::string::npos)
      << Log();
  EXPECT_EQ(Get("/health").status, 400) << "without TLS";
  TlsClient client(ConnectTo(port_), certificate);
  ASSERT_TRUE(client.connected());
  const std::string body =
      R"({"prompt":"on","stream":true,"max_tokens":8,"ignore_eos":true,"temperature":0})";
  ASSERT_TRUE(client.Send(FormatRequest("POST", "/v1/completions", "localhost", {}, body)));
  const std::string answer = client.ReadUntil("data: [DONE]\n\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
  EXPECT_NE(answer.find("\"finish_reason\":\"length\""), std::string::npos) << answer;
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->Wait(deadline_), 0) << Log();
}

}  // namespace
}  // namespace causeway
