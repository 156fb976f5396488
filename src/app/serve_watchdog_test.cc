// A server whose step hangs: /health says so first, clients get an answer, the process ends.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "app/program.h"
#include "app/serve_model.h"
#include "app/text_model.h"
#include "checkpoint/temporary_directory.h"
#include "net/http_client.h"
#include "parallel/fault_communicator.h"

namespace causeway {
namespace {

constexpr int64_t kDeadlineMs = 120'000;

// The server itself, in the process that the test below starts. Rank 1 of two hangs for a minute in
// one of the first steps; the watchdog waits for 1 s, and then 4 s for the ranks.
TEST(ServeWatchdog, DISABLED_Server) {
  HostOptions options;
  options.model_path = CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16";
  options.context_length = 256;
  options.ranks.layout.cp = 2;
  options.ranks.watchdog_timeout_ms = 1000;
  options.ranks.abort_grace_ms = 4000;
  options.ranks.wrap_communicator = [](std::unique_ptr<Communicator> comm) {
    if (comm->rank() != 1) return comm;
    return std::unique_ptr<Communicator>(std::make_unique<FaultCommunicator>(
        std::move(comm), Fault{.kind = Fault::Kind::kDelay, .from = 23, .delay_ms = 60'000}));
  };
  const auto host = ModelHost::Load(options);
  ASSERT_TRUE(host.ok()) << host.status().message();
  const auto tokenizer = LoadTokenizer(options.model_path, "", (*host)->config());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  ServeFlags flags;
  flags.http.port = 0;
  flags.served_model_name = "tiny";
  Disaggregation none;
  const Status status = ServeModel(**host, **tokenizer, flags, none, [](int) {});
  FAIL() << "the watchdog should have ended the process: " << status.message();
}

TEST(ServeWatchdog, HealthFailsClientsAreAnsweredEveryRankIsInTheLogAndTheProcessEnds) {
  TemporaryDirectory files;
  Program server(
      "/proc/self/exe", files.path(),
      {"--gtest_also_run_disabled_tests", "--gtest_filter=ServeWatchdog.DISABLED_Server"});
  const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
  int port = 0;
  while (port == 0 && !deadline.Passed()) {
    const std::string log = server.Stderr();
    const size_t at = log.find("http://127.0.0.1:");
    if (at != std::string::npos) port = std::atoi(log.c_str() + at + 17);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ASSERT_GT(port, 0) << server.Stdout() << server.Stderr();
  const auto health = [&] {
    auto client = HttpClient::Connect("127.0.0.1", port, deadline);
    if (!client.ok()) return -1;
    const auto reply = client->Call("GET", "/health", "", deadline);
    return reply.ok() ? reply->status : -1;
  };
  EXPECT_EQ(health(), 200);
  StatusOr<HttpReply> answer = Unavailable("not yet");
  std::thread asker([&] {
    auto client = HttpClient::Connect("127.0.0.1", port, deadline);
    if (!client.ok()) return;
    answer = client->Call("POST", "/v1/completions",
                          R"({"model":"tiny","prompt":"two","max_tokens":50,"ignore_eos":true})",
                          deadline, {{"Content-Type", "application/json"}});
  });
  int now = 200;
  while (now == 200 && !deadline.Passed()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    now = health();
  }
  EXPECT_EQ(now, 503) << "-1: the process ended before /health could say it";
  asker.join();
  ASSERT_TRUE(answer.ok()) << answer.status().message();
  EXPECT_EQ(answer->status, 503) << answer->body;
  EXPECT_EQ(server.Wait(deadline), 70);
  const std::string log = server.Stderr();
  for (const char* part :
       {"event=watchdog error=\"the step exceeded --watchdog-timeout of 1 s\"",
        "event=watchdog_rank rank=0 ", "event=watchdog_rank rank=1 ", "event=watchdog_exit "}) {
    EXPECT_NE(log.find(part), std::string::npos) << part << "\n" << log;
  }
}

}  // namespace
}  // namespace causeway
