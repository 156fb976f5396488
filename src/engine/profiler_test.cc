#include "engine/profiler.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "engine/engine.h"
#include "engine/engine_client.h"

namespace causeway {
namespace {

using nlohmann::json;

class ProfilerTest : public testing::Test {
 protected:
  ProfilerTest()
      : host_(LoadModel(CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16", {.cp = 2})) {}
  ~ProfilerTest() override { std::filesystem::remove_all(dir_); }

  // The path, or the message of an error.
  std::string Start(Engine& engine, const ProfileOptions& options) const {
    return Wait([&](ProfileReply reply) { engine.StartProfile(options, std::move(reply)); });
  }
  static std::string Stop(Engine& engine) {
    return Wait([&](ProfileReply reply) { engine.StopProfile(std::move(reply)); });
  }
  template <typename Call>
  static std::string Wait(const Call& call) {
    auto promise = std::make_shared<std::promise<std::string>>();
    auto answer = promise->get_future();
    call([promise](const StatusOr<std::string>& path) {
      promise->set_value(path.ok() ? *path : path.status().message());
    });
    if (answer.wait_for(std::chrono::milliseconds(kWaitMs)) != std::future_status::ready) {
      return "no answer in time";
    }
    return answer.get();
  }
  static void Generate(Engine& engine, int64_t tokens) {
    Client client("client", Prompt(20, 1), Greedy(tokens));
    ASSERT_TRUE(engine.Submit(client.request()).ok());
    ASSERT_TRUE(client.WaitForFinish());
  }
  // The lanes' names and how often the engine ran a step; waits for the file.
  static std::pair<std::set<std::string>, int> Read(const std::string& path) {
    const Deadline deadline = Deadline::AfterMs(kWaitMs);
    json trace = json::value_t::discarded;
    while (trace.is_discarded() && !deadline.Passed()) {
      std::ifstream file(path);
      trace = json::parse(file, nullptr, /*allow_exceptions=*/false);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    std::set<std::string> lanes;
    int steps = 0;
    if (trace.is_discarded()) return {lanes, steps};
    for (const json& event : trace.at("traceEvents")) {
      if (event.at("ph") == "M") lanes.insert(event.at("args").at("name"));
      if (event.at("name") == "step") ++steps;
    }
    return {lanes, steps};
  }

  const std::string dir_ = Text(testing::TempDir(), "/profiler_test.", getpid());
  std::unique_ptr<ModelHost> host_;
};

TEST_F(ProfilerTest, HoldsTheStepsBetweenStartAndStopOfAllRanksAndTheEngine) {
  Engine engine(*host_, {});
  Generate(engine, 3);
  const std::string path = Start(engine, {.output_dir = dir_ + "/new/folder", .prefix = "mine"});
  EXPECT_EQ(path.find(dir_ + "/new/folder/mine-causeway-"), 0u) << path;
  Generate(engine, 5);
  EXPECT_EQ(Stop(engine), path);
  const auto [lanes, steps] = Read(path);
  EXPECT_EQ(lanes, (std::set<std::string>{"rank 0", "rank 1", "engine"}));
  EXPECT_EQ(steps, 5) << "not those before";
  Generate(engine, 3);
  EXPECT_TRUE(host_->ranks().lanes()[0]->events().empty()) << "nothing is kept any longer";
  // The next one has a file of its own.
  const std::string second = Start(engine, {.output_dir = dir_});
  EXPECT_NE(second, path);
  EXPECT_EQ(Stop(engine), second);
  EXPECT_EQ(Read(second).second, 0) << "no step, and a file all the same";
}

TEST_F(ProfilerTest, EndsByItselfAfterNumStepsAndBeginsAtStartStep) {
  Engine engine(*host_, {});
  const std::string path = Start(engine, {.output_dir = dir_, .start_step = 4, .num_steps = 3});
  Generate(engine, 4);  // steps 0 to 3
  EXPECT_FALSE(std::filesystem::exists(path));
  Generate(engine, 20);
  const auto [lanes, steps] = Read(path);
  EXPECT_EQ(lanes.size(), 3u);
  // Of three steps, the engine's own zone ends after the last has been counted, or is there.
  EXPECT_EQ(steps, 3);
}

TEST_F(ProfilerTest, WhatCanNotBeDoneIsSaid) {
  Engine engine(*host_, {});
  EXPECT_EQ(Stop(engine), "no profile is under way; /start_profile begins one");
  EXPECT_EQ(Start(engine, {.output_dir = "/proc/nowhere"}),
            "output_dir /proc/nowhere is no folder that the server can write");
  const std::string path = Start(engine, {.output_dir = dir_});
  EXPECT_EQ(Start(engine, {.output_dir = dir_}),
            Text("a profile is under way, to be written to ", path, "; /stop_profile ends it"));
  std::filesystem::remove_all(dir_);
  EXPECT_NE(Stop(engine).find(Text("can't write ", path, ": ")), std::string::npos);
}

TEST_F(ProfilerTest, AnEngineThatEndsWritesWhatIsUnderWayAndTheNextKeepsNothing) {
  std::string path;
  {
    Engine engine(*host_, {});
    path = Start(engine, {.output_dir = dir_});
    Generate(engine, 3);
  }
  EXPECT_EQ(Read(path).second, 3);
  Engine next(*host_, {});
  Generate(next, 3);
  EXPECT_TRUE(host_->ranks().lanes()[0]->events().empty());
  EXPECT_EQ(Stop(next), "no profile is under way; /start_profile begins one");
}

}  // namespace
}  // namespace causeway
