// `causeway eval layouts` over several processes, run as a user runs it.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/host_processes.h"
#include "app/program.h"
#include "base/check.h"
#include "checkpoint/temporary_directory.h"

namespace causeway {
namespace {

using Words = std::vector<std::string>;

constexpr int64_t kDeadlineMs = 300'000;

void SleepMs(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class EvalTest : public testing::Test {
 protected:
  void SetUp() override {
    model_ = files_.File("model");
    auto made = Start({"make-model", "--preset", "tiny-v32", "--output", model_});
    ASSERT_EQ(made->Wait(Deadline::AfterMs(kDeadlineMs)), 0) << made->Stderr();
  }

  std::unique_ptr<Program> Start(const Words& arguments) {
    const std::string directory = files_.File(Text("process", started_++));
    std::filesystem::create_directory(directory);
    return std::make_unique<Program>(CAUSEWAY_BINARY, directory, arguments);
  }
  std::unique_ptr<Program> StartLayouts(const Words& flags) {
    return Start(Words{"eval", "layouts", "--model-path", model_, "--world", "4"} + flags);
  }
  static nlohmann::json JsonOf(Program& program) {
    EXPECT_EQ(program.Wait(Deadline::AfterMs(kDeadlineMs)), 0) << program.Stderr();
    const auto json = nlohmann::json::parse(program.Stdout(), nullptr, false);
    EXPECT_TRUE(json.is_object()) << program.Stdout();
    return json.is_object() ? json : nlohmann::json::object();
  }
  // Ends with an error that holds all of `parts`.
  static void ExpectError(Program& program, const Words& parts) {
    const int code = program.Wait(Deadline::AfterMs(kDeadlineMs));
    const std::string error = program.Stderr();
    EXPECT_GT(code, 0) << error;
    EXPECT_LT(code, 128) << error;
    for (const std::string& part : parts) {
      EXPECT_NE(error.find(part), std::string::npos) << "expected '" << part << "' in: " << error;
    }
  }
  // The processes that run as this host of a case with this test's model.
  std::vector<pid_t> Hosts(const std::string& host) const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::ifstream file(entry.path() / "cmdline");
      const std::string line{std::istreambuf_iterator<char>(file), {}};
      if (line.find(model_ + '\0') != std::string::npos &&
          line.find(std::string("--node-rank\0", 12) + host + '\0') != std::string::npos) {
        found.push_back(std::stoi(name));
      }
    }
    return found;
  }
  // Waits for the host of some case; 0 if none starts in time.
  pid_t WaitForHost(const std::string& host) const {
    const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
    while (!deadline.Passed()) {
      const auto pids = Hosts(host);
      if (!pids.empty()) return pids[0];
      SleepMs(5);
    }
    return 0;
  }
  // A case is short: signals host 1 of each until the program ends.
  void SignalHostsUntilTheEnd(Program& program, int number) const {
    const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
    while (!deadline.Passed() && program.Wait(Deadline::AfterMs(0)) < 0) {
      for (const pid_t pid : Hosts("1")) kill(pid, number);
      SleepMs(1);
    }
  }

  TemporaryDirectory files_;
  std::string model_;
  int started_ = 0;
};

#ifdef CAUSEWAY_GLOO

TEST_F(EvalTest, ASampleOverOneTwoAndFourProcessesGivesTheBitsOfOneRank) {
  auto program = StartLayouts({"--processes", "4,1,2", "--sample", "10", "--seed", "3", "--json"});
  const auto report = JsonOf(*program);
  EXPECT_EQ(report.at("ran"), 10);
  EXPECT_EQ(report.at("equal"), 10);
  EXPECT_EQ(report.at("seed"), 3);
  EXPECT_FALSE(report.contains("first_difference"));
  const auto& groups = report.at("processes");
  ASSERT_EQ(groups.size(), 3u);
  int64_t legal = 0;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(groups[i].at("processes"), 1 << i);
    EXPECT_GE(groups[i].at("ran"), 3) << "each number of processes gets its part";
    EXPECT_EQ(groups[i].at("ran"), groups[i].at("equal"));
    EXPECT_GT(groups[i].at("seconds").get<double>(), 0);
    legal += groups[i].at("legal").get<int64_t>();
  }
  EXPECT_EQ(report.at("legal"), legal);
}

TEST_F(EvalTest, ProcessesKeepTheirCachesInTheTypesThatTheFlagsName) {
  auto program = StartLayouts({"--processes", "1,2", "--sample", "6", "--kv-cache-dtype", "int8",
                               "--index-cache-dtype", "int8", "--json"});
  const auto report = JsonOf(*program);
  EXPECT_EQ(report.at("ran"), 6);
  EXPECT_EQ(report.at("equal"), 6);
}

TEST_F(EvalTest, ACaseByHandGivesTheBitsOfOneRankOnOneHostAndOnTwo) {
  const Words base = {"eval", "case", "--model-path", model_, "--json"};
  const auto single = JsonOf(*Start(base));
  const Words flags = {"--tp",
                       "4",
                       "--cp-size",
                       "2",
                       "--ep-size",
                       "2",
                       "--dp-size",
                       "1",
                       "--cp-partition",
                       "zigzag",
                       "--moe-a2a-backend",
                       "alltoall",
                       "--chunked-prefill-size",
                       "7"};
  EXPECT_EQ(JsonOf(*Start(base + flags)).at("logits_hash"), single.at("logits_hash"));
  const auto address = FreeLoopbackAddress();
  ASSERT_TRUE(address.ok()) << address.status().message();
  auto first = Start(base + flags + HostFlags(2, 0, *address));
  auto second = Start(base + flags + HostFlags(2, 1, *address));
  const auto report = JsonOf(*first);
  EXPECT_EQ(report.at("logits_hash"), single.at("logits_hash"));
  EXPECT_EQ(report.at("flags"),
            "--tp 4 --cp-size 2 --dp-size 1 --ep-size 2 --nnodes 2 --moe-a2a-backend alltoall "
            "--cp-partition zigzag --threads-per-rank 1 --chunked-prefill-size 7");
  EXPECT_EQ(second->Wait(Deadline::AfterMs(kDeadlineMs)), 0) << second->Stderr();
}

TEST_F(EvalTest, AHostThatIsKilledIsNamedWithTheFlagsOfItsCase) {
  auto program = StartLayouts({"--processes", "2", "--sample", "0"});
  SignalHostsUntilTheEnd(*program, SIGKILL);
  ExpectError(*program,
              {"--tp ", "--nnodes 2", "--chunked-prefill-size ", "host 1 of 2: died of signal 9"});
  EXPECT_EQ(program->Stdout(), "");
}

TEST_F(EvalTest, AHostThatStallsEndsItsCaseInTime) {
  auto program = StartLayouts({"--processes", "2", "--sample", "0", "--case-timeout", "4"});
  SignalHostsUntilTheEnd(*program, SIGSTOP);
  // Most often host 0 gives up first and says for whom it waited.
  ExpectError(*program, {"--nnodes 2", "host 1"});
  EXPECT_TRUE(Hosts("1").empty()) << "the stalled host outlives the command";
}

TEST_F(EvalTest, NoHostOutlivesTheCommand) {
  setenv("TMPDIR", files_.path().c_str(), 1);  // for what a killed program leaves there
  auto program = StartLayouts({"--processes", "4", "--sample", "0"});
  unsetenv("TMPDIR");
  ASSERT_NE(WaitForHost("3"), 0) << program->Stderr();
  program->Signal(SIGKILL);
  program->Wait(Deadline::AfterMs(kDeadlineMs));
  const Deadline deadline = Deadline::AfterMs(10'000);
  const auto some_host = [&] {
    for (const char* host : {"0", "1", "2", "3"}) {
      if (!Hosts(host).empty()) return true;
    }
    return false;
  };
  while (some_host() && !deadline.Passed()) SleepMs(20);
  EXPECT_FALSE(some_host());
}

TEST_F(EvalTest, MoreProcessesThanRanksAreRefused) {
  ExpectError(
      *Start({"eval", "layouts", "--model-path", model_, "--world", "2", "--processes", "1,4"}),
      {"--processes is 4", "--world, 2"});
}

#else

TEST_F(EvalTest, ABuildWithoutGlooRefusesSeveralProcesses) {
  ExpectError(*StartLayouts({"--processes", "1,2"}),
              {"--processes is 2", "no Gloo", "libgloo-dev"});
}

#endif

TEST_F(EvalTest, OtherNumbersOfProcessesAreRefused) {
  for (const char* bad : {"0", "3", "8", "-1", "x", "1,3", "2,x"}) {
    const std::string all = bad;
    const std::string found = all.substr(all.find(',') + 1);
    ExpectError(*StartLayouts({"--processes", bad}), {"--processes: " + found + " ", "1,2,4"});
  }
}

}  // namespace
}  // namespace causeway
