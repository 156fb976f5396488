// What a step that hangs does: to the log, to /health and to the process.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "engine/engine.h"
#include "engine/engine_client.h"

namespace causeway {
namespace {

// Rank 1 of two is late by `delay_ms` from its sixth collective on.
std::unique_ptr<ModelHost> LoadStalling(int64_t delay_ms, int64_t grace_ms) {
  HostOptions options;
  options.model_path = CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16";
  options.context_length = 256;
  options.ranks.layout.cp = 2;
  options.ranks.watchdog_timeout_ms = 200;
  options.ranks.abort_grace_ms = grace_ms;
  options.ranks.wrap_communicator = [delay_ms](std::unique_ptr<Communicator> comm) {
    if (comm->rank() != 1) return comm;
    return std::unique_ptr<Communicator>(std::make_unique<FaultCommunicator>(
        std::move(comm), Fault{.kind = Fault::Kind::kDelay, .from = 6, .delay_ms = delay_ms}));
  };
  auto host = ModelHost::Load(options);
  EXPECT_TRUE(host.ok()) << host.status().message();
  return std::move(host).value();
}

void RunStalledStep(int64_t delay_ms, int64_t grace_ms) {
  const auto host = LoadStalling(delay_ms, grace_ms);
  Engine engine(*host, {});
  Client client("client", Prompt(20, 1), Greedy(50));
  EXPECT_TRUE(engine.Submit(client.request()).ok());
  EXPECT_TRUE(client.WaitForFinish());
}

TEST(WatchdogDeathTest, ARankThatNeverEndsItsStepEndsTheProcessAfterEveryRankIsInTheLog) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      RunStalledStep(/*delay_ms=*/60'000, /*grace_ms=*/300), testing::ExitedWithCode(70),
      "event=watchdog error=\"the step exceeded --watchdog-timeout of 0.2 s\"\n"
      ".*event=watchdog_rank rank=0 host=0 state=in operation=\"[a-z]+ wait\" layer=[-0-9]+ "
      "for_s=[0-9.]+.*\n"
      ".*event=watchdog_rank rank=1 host=0 state=[a-z]+ operation=.* layer=[-0-9]+ "
      "for_s=[0-9.]+.*\n"
      ".*event=watchdog_exit error=\"rank 1 does not end its step\" exit_code=70");
}

TEST(Watchdog, TheEngineIsUnhealthyBeforeTheStepHasEndedAndThenTellsTheClient) {
  testing::internal::CaptureStderr();
  {
    const auto host = LoadStalling(/*delay_ms=*/1500, /*grace_ms=*/kWaitMs);
    Engine engine(*host, {});
    EXPECT_TRUE(engine.healthy());
    Client client("client", Prompt(20, 1), Greedy(50));
    EXPECT_TRUE(engine.Submit(client.request()).ok());
    const Deadline deadline = Deadline::AfterMs(kWaitMs);
    while (engine.healthy() && !deadline.Passed()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_FALSE(engine.failed()) << "the step has not ended";
    EXPECT_TRUE(host->ranks().stalled());
    EXPECT_EQ(client.finishes(), 0);
    Client late("late", Prompt(20, 1), Greedy(50));
    EXPECT_EQ(engine.Submit(late.request()).code(), StatusCode::kUnavailable);
    EXPECT_TRUE(client.WaitForFinish());
    EXPECT_EQ(client.result().reason, FinishReason::kError);
    EXPECT_NE(client.result().status.message().find("--watchdog-timeout of 0.2 s"),
              std::string::npos)
        << client.result().status.message();
    EXPECT_TRUE(engine.failed());
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("event=watchdog_rank rank=0 "), std::string::npos) << log;
  EXPECT_NE(log.find("event=watchdog_rank rank=1 "), std::string::npos) << log;
  EXPECT_EQ(log.find("event=watchdog_exit"), std::string::npos) << log;
}

}  // namespace
}  // namespace causeway
