// Several hosts, each a process of the binary on loopback: they give the bits of one process, and
// when one of them dies or stalls the others end with an error that says so.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "app/host_processes.h"
#include "app/program.h"
#include "base/check.h"
#include "checkpoint/temporary_directory.h"
#include "net/http_client.h"
#include "net/socket.h"

namespace causeway {
namespace {

using Words = std::vector<std::string>;
using Clock = std::chrono::steady_clock;

constexpr int64_t kDeadlineMs = 120'000;
// From the last deadline of a host to its end, on a busy machine.
constexpr double kSlackSeconds = 6;
const std::string kFixtures = CAUSEWAY_SOURCE_DIR "/testdata/golden/";

Words Split(const std::string& text) {
  std::istringstream in(text);
  Words words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void SleepMs(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

std::string FreeAddress() {
  const auto address = FreeLoopbackAddress();
  CHECK(address.ok(), address.status().message());
  return *address;
}

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class HostsTest : public testing::Test {
 protected:
  void SetUp() override {
#ifndef CAUSEWAY_GLOO
    GTEST_SKIP() << "this build has no Gloo, so it serves on one host only";
#endif
  }

  // A process with outputs of its own.
  std::unique_ptr<Program> Start(const Words& arguments) {
    const std::string directory = files_.File(Text("process", started_++));
    std::filesystem::create_directory(directory);
    return std::make_unique<Program>(CAUSEWAY_BINARY, directory, arguments);
  }
  std::vector<std::unique_ptr<Program>> StartHosts(int count, const Words& arguments) {
    const std::string address = FreeAddress();
    std::vector<std::unique_ptr<Program>> hosts;
    for (int host = 0; host < count; ++host) {
      hosts.push_back(Start(arguments + HostFlags(count, host, address)));
    }
    return hosts;
  }

  // Runs and expects success; the report's hash.
  std::string Hash(Program& program) {
    EXPECT_EQ(program.Wait(Deadline::AfterMs(kDeadlineMs)), 0) << program.Stderr();
    const auto json = nlohmann::json::parse(program.Stdout(), nullptr, false);
    return json.is_object() ? json.value("logits_hash", "no hash") : "no report";
  }

  // Waits for the end with an error: no signal, no hang, one line that names a host. How long it
  // took from `begin`.
  double ExpectError(Program& program, Clock::time_point begin, double seconds,
                     const std::string& what) {
    const int code = program.Wait(Deadline::AfterMs(static_cast<int64_t>(seconds * 1e3)));
    const double took = SecondsSince(begin);
    const std::string error = program.Stderr();
    EXPECT_NE(code, -1) << what << ": still runs after " << took << " s: " << error;
    EXPECT_NE(code, 0) << what << ": exit code 0: " << error;
    EXPECT_LT(code, 128) << what << ": died of a signal: " << error;
    EXPECT_EQ(Count(error, "error: "), 1) << what << ": " << error;
    EXPECT_NE(error.find("host "), std::string::npos) << what << ": names no host: " << error;
    return took;
  }

  static int Count(const std::string& text, const std::string& part) {
    int count = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
    return count;
  }

  // Written once: a process may be reading it.
  std::string TokensFile(int count) const {
    const std::string name = Text("tokens", count, ".json");
    if (std::filesystem::exists(files_.File(name))) return files_.File(name);
    nlohmann::json tokens;
    for (int i = 0; i < count; ++i) tokens.push_back((i * 7919 + 13) % 512);
    return files_.Put(name, nlohmann::json{{"tokens", tokens}}.dump());
  }

  TemporaryDirectory files_;
  int started_ = 0;
};

struct Case {
  int hosts;
  const char* model;
  const char* flags;
};

// Context and tensor parallelism within and over hosts, data parallelism, experts on some or all
// ranks by both backends, every partition, chunks, numeric mode and format.
const Case kCases[] = {
    {2, "v32-tiny-bf16", "--cp-size 2"},
    {2, "v32-tiny-bf16", "--cp-size 2 --ep-size 1"},
    {2, "v32-tiny-bf16", "--cp-size 4 --cp-partition zigzag --chunked-prefill-size 37"},
    {2, "v32-tiny-bf16", "--tp 2"},
    {2, "v3-tiny-bf16", "--tp 4 --ep-size 2 --moe-a2a-backend alltoall"},
    {2, "v32-tiny-bf16", "--tp 4 --cp-size 2 --moe-a2a-backend alltoall --ep-size 4"},
    {2, "v3-tiny-bf16", "--tp 8 --cp-size 2 --ep-size 8 --cp-partition contiguous"},
    {2, "v32-tiny-bf16", "--tp 2 --dp-size 2"},
    {2, "v32-tiny-bf16", "--tp 4 --dp-size 2 --ep-size 4 --moe-a2a-backend allgather"},
    {2, "v32-tiny-bf16", "--cp-size 2 --dtype float32 --threads-per-rank 2"},
    {2, "v32-tiny-fp8", "--cp-size 2 --moe-a2a-backend alltoall"},
    {2, "v32-tiny-fp8", "--tp 4 --cp-size 2 --dp-size 2 --chunked-prefill-size 64"},
    {2, "v32-tiny-fp8", "--tp 4"},
    {2, "v3-tiny-bf16", "--tp 4 --cp-size 2 --ep-size 4"},
    {2, "v3-tiny-bf16", "--cp-size 6 --ep-size 2 --cp-partition zigzag --chunked-prefill-size 50"},
    {2, "v3-tiny-int8", "--cp-size 2 --cp-partition contiguous"},
    {2, "v3-tiny-int8", "--tp 4 --ep-size 4 --moe-a2a-backend alltoall"},
    {2, "v2-tiny-f32", "--cp-size 2 --dtype float32"},
    {2, "v2-tiny-group-f32", "--tp 2 --moe-a2a-backend alltoall --chunked-prefill-size 20"},
    {2, "v32-tiny-bf16", "--cp-size 2 --index-cache-dtype int8"},
    {2, "v32-tiny-bf16", "--tp 4 --cp-size 2 --chunked-prefill-size 37 --index-cache-dtype int8"},
    {2, "v3-tiny-int8", "--cp-size 2 --kv-cache-dtype int8"},
    {2, "v32-tiny-bf16",
     "--tp 4 --cp-size 2 --chunked-prefill-size 37 --kv-cache-dtype int8 --index-cache-dtype int8"},
    {4, "v32-tiny-bf16", "--tp 4 --cp-size 2 --kv-cache-dtype int8"},
    {4, "v32-tiny-bf16", "--cp-size 4"},
    {4, "v32-tiny-fp8", "--tp 4 --ep-size 4 --moe-a2a-backend alltoall"},
    {4, "v32-tiny-bf16", "--tp 8 --cp-size 2 --dp-size 2 --ep-size 8 --cp-partition zigzag"},
    {4, "v32-tiny-bf16", "--cp-size 8 --ep-size 1 --chunked-prefill-size 48"},
    {4, "v32-tiny-fp8", "--tp 4 --cp-size 2 --ep-size 2"},
    {4, "v32-tiny-fp8", "--tp 4 --dp-size 4 --dtype float32"},
    {4, "v3-tiny-bf16", "--tp 8 --cp-size 2 --moe-a2a-backend alltoall"},
    {4, "v3-tiny-int8", "--tp 8 --cp-size 4 --cp-partition contiguous --chunked-prefill-size 64"},
    {4, "v2-tiny-f32", "--tp 4 --cp-size 4 --ep-size 4"},
};

TEST_F(HostsTest, TwoAndFourHostsGiveTheBitsOfOneProcess) {
  const std::string tokens = TokensFile(150);   // over index_topk, and over two pages
  std::map<std::string, std::string> expected;  // by model and what else decides over bits
  for (const Case& each : kCases) {
    const std::string what = Text(each.hosts, " hosts, ", each.model, ", ", each.flags);
    const Words base = {"logits",   "--model-path", kFixtures + each.model,
                        "--tokens", tokens,         "--json"};
    Words numeric;
    for (const Words& flag : {Words{"--dtype", "float32"}, Words{"--index-cache-dtype", "int8"},
                              Words{"--kv-cache-dtype", "int8"}}) {
      if (Text(each.flags).find(Text(flag[0], " ", flag[1])) != std::string::npos) {
        numeric = numeric + flag;
      }
    }
    std::string& hash =
        expected[Text(each.model, numeric.size(), numeric.empty() ? "" : numeric[0])];
    if (hash.empty()) hash = Hash(*Start(base + numeric));
    auto hosts = StartHosts(each.hosts, base + Split(each.flags));
    EXPECT_EQ(Hash(*hosts[0]), hash) << what;
    for (size_t host = 1; host < hosts.size(); ++host) {
      EXPECT_EQ(hosts[host]->Wait(Deadline::AfterMs(kDeadlineMs)), 0)
          << what << ", host " << host << ": " << hosts[host]->Stderr();
      EXPECT_EQ(hosts[host]->Stdout(), "") << what;
    }
  }
}

TEST_F(HostsTest, ABenchmarkCountsWhatCrossesHostsAndTheExpertsOfAllHosts) {
  const Words bench =
      Split(Text("bench prefill --repeat 2 --input-len 150 --expert-balance "
                 "--chunked-prefill-size 100 --model-path ",
                 kFixtures, "v32-tiny-fp8"));
  const auto report = [](Program& program) {
    EXPECT_EQ(program.Wait(Deadline::AfterMs(kDeadlineMs)), 0) << program.Stderr();
    return nlohmann::json::parse(program.Stdout(), nullptr, false);
  };
  const auto alone = report(*Start(bench + Words{"--json"}));
  ASSERT_TRUE(alone.is_object());
  EXPECT_FALSE(alone.contains("host_volumes"));
  for (const int count : {2, 4}) {
    auto hosts = StartHosts(count, bench + Split(Text("--cp-size ", count, " --json")));
    const auto json = report(*hosts[0]);
    ASSERT_TRUE(json.is_object()) << hosts[0]->Stderr();
    EXPECT_EQ(json["expert_balance"]["counts"], alone["expert_balance"]["counts"]);
    EXPECT_EQ(json["expert_balance"]["parts"].size(), static_cast<size_t>(count));
    std::map<std::string, nlohmann::json> rows;
    for (const auto& row : json["host_volumes"]) rows[row["operation"]] = row;
    // Experts cut over the hosts, every token seen by all of them: only what comes back depends on
    // the experts that were chosen.
    for (const char* operation :
         {"kv_exchange", "expert_dispatch", "hidden_exchange", "logits_exchange"}) {
      ASSERT_TRUE(rows.contains(operation)) << operation << json.dump();
      EXPECT_EQ(rows[operation]["bytes"], rows[operation]["predicted_bytes"]) << operation;
      EXPECT_EQ(rows[operation]["host_seconds"].size(), static_cast<size_t>(count)) << operation;
      EXPECT_GT(rows[operation]["host_seconds"].at(0), 0) << operation;
    }
    EXPECT_NEAR(rows["expert_combine"]["bytes"].get<double>() /
                    rows["expert_combine"]["predicted_bytes"].get<double>(),
                1, 0.5);
    EXPECT_GT(rows["control"]["bytes"], (count - 1) * 150 * 4) << "host 0 tells the others the ids";
    EXPECT_FALSE(rows["control"].contains("predicted_bytes"));
  }
  auto hosts = StartHosts(2, bench + Split("--cp-size 2"));
  EXPECT_EQ(hosts[0]->Wait(Deadline::AfterMs(kDeadlineMs)), 0) << hosts[0]->Stderr();
  EXPECT_NE(hosts[0]->Stdout().find("sent to other hosts"), std::string::npos);
}

// Groups of hosts with other numbers of tokens, blocks and passes than their neighbours.
TEST_F(HostsTest, TensorParallelGroupsOverHostsMayHaveUnequalWork) {
  const auto logits = [&](const std::string& model, const std::string& flags) {
    return Words{"logits",          "--json",   "--model-path",
                 kFixtures + model, "--tokens", TokensFile(700)} +
           Split(flags);
  };
  for (const std::string model : {"v32-tiny-fp8", "v3-tiny-int8"}) {
    const std::string expected = Hash(*Start(logits(model, "")));
    // One group has all tokens; one has more than a block, the other none of the last chunk.
    for (const std::string flags :
         {"--tp 4 --dp-size 2",
          "--tp 4 --cp-size 2 --cp-partition contiguous --chunked-prefill-size 699"}) {
      auto hosts = StartHosts(4, logits(model, flags));
      EXPECT_EQ(Hash(*hosts[0]), expected) << model << " " << flags;
    }
  }
}

// Runs for longer than any of the tests below looks at it.
Words LongBench(const std::string& layout) {
  return Split(Text("bench prefill --repeat 1000 --input-len 600 --model-path ", kFixtures,
                    "v32-tiny-fp8 ", layout));
}

const char* const kTwoHostLayouts[] = {"--cp-size 2", "--tp 2",
                                       "--tp 4 --cp-size 2 --moe-a2a-backend alltoall --ep-size 4",
                                       "--tp 2 --dp-size 2 --moe-a2a-backend allgather"};
const char* const kFourHostLayouts[] = {"--cp-size 4", "--tp 4",
                                        "--tp 4 --cp-size 2 --moe-a2a-backend alltoall"};

TEST_F(HostsTest, WhicheverHostIsKilledWheneverTheOthersEndWithAnError) {
  constexpr int kKills = 50;
  constexpr double kRendezvousSeconds = 2;
  constexpr double kCollectiveSeconds = 5;
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const auto below = [&](int count) { return static_cast<int>(random() % unsigned(count)); };
  double worst = 0;
  for (int kill = 0; kill < kKills && !HasFailure(); ++kill) {
    const int count = below(3) == 0 ? 4 : 2;
    const std::string layout = count == 4 ? kFourHostLayouts[below(3)] : kTwoHostLayouts[below(4)];
    auto hosts = StartHosts(count, LongBench(layout) + Split("--dist-timeout 5 "
                                                             "--dist-rendezvous-timeout 2"));
    const int victim = below(count);
    const int after_ms = below(5) == 0 ? below(80) : 80 + below(900);
    SleepMs(after_ms);
    const auto begin = Clock::now();
    hosts[static_cast<size_t>(victim)]->Signal(SIGKILL);
    EXPECT_EQ(hosts[static_cast<size_t>(victim)]->Wait(Deadline::AfterMs(5000)), 128 + SIGKILL)
        << hosts[static_cast<size_t>(victim)]->Stderr();
    for (int host = 0; host < count; ++host) {
      if (host == victim) continue;
      const double limit = kRendezvousSeconds + kCollectiveSeconds + kSlackSeconds;
      worst =
          std::max(worst, ExpectError(*hosts[static_cast<size_t>(host)], begin, limit,
                                      Text("kill ", kill, " of host ", victim, " of ", count,
                                           " after ", after_ms, " ms, ", layout, ", host ", host)));
    }
  }
  std::printf("the slowest host ended %.2f s after the kill\n", worst);
}

TEST_F(HostsTest, WhenAHostStallsTheOthersEndAfterTheTimeOutAndItEndsWhenItGoesOn) {
  double worst = 0;
  for (int stop = 0; stop < 6 && !HasFailure(); ++stop) {
    const int count = stop % 3 == 2 ? 4 : 2;
    const int victim = stop % count;
    const std::string layout = count == 4 ? kFourHostLayouts[stop % 3] : kTwoHostLayouts[stop % 4];
    auto hosts = StartHosts(count, LongBench(layout) + Split("--dist-timeout 1 "
                                                             "--dist-rendezvous-timeout 20"));
    SleepMs(1000 + 97 * stop);
    Program& stalled = *hosts[static_cast<size_t>(victim)];
    const auto begin = Clock::now();
    stalled.Signal(SIGSTOP);
    for (int host = 0; host < count; ++host) {
      if (host == victim) continue;
      worst =
          std::max(worst, ExpectError(*hosts[static_cast<size_t>(host)], begin, 1 + kSlackSeconds,
                                      Text("stop ", stop, " of host ", victim, " of ", count, ", ",
                                           layout, ", host ", host)));
    }
    stalled.Signal(SIGCONT);
    ExpectError(stalled, Clock::now(), 1 + kSlackSeconds, Text("stop ", stop, ", gone on"));
  }
  std::printf("the slowest host ended %.2f s after the stop\n", worst);
}

// A server whose model answers text.
class ServeHostsTest : public HostsTest {
 protected:
  void SetUp() override {
    HostsTest::SetUp();
    if (IsSkipped()) return;
    model_ = files_.File("model");
    auto made = Start({"make-model", "--preset", "tiny-v32", "--output", model_});
    ASSERT_EQ(made->Wait(Deadline::AfterMs(kDeadlineMs)), 0) << made->Stderr();
  }

  Words Serve() const {
    return {"serve", "--model-path",     model_, "--port", "0", "--served-model-name",
            "tiny",  "--context-length", "8192"};
  }
  // Host 0 serves once it says where; its port.
  static int PortOfServer(const Program& server) {
    const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
    while (!deadline.Passed()) {
      const std::string log = server.Stderr();
      const size_t at = log.find("http://127.0.0.1:");
      if (at != std::string::npos && log.find('\n', at) != std::string::npos) {
        return std::atoi(log.c_str() + at + 17);
      }
      SleepMs(10);
    }
    return 0;
  }
  static StatusOr<HttpReply> Ask(int port, int max_tokens, bool stream) {
    const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
    auto client = HttpClient::Connect("127.0.0.1", port, deadline);
    if (!client.ok()) return client.status();
    return client->Call(
        "POST", "/v1/completions",
        Text(R"({"model":"tiny","prompt":"two and two","ignore_eos":true,"temperature":0,)",
             R"("max_tokens":)", max_tokens, R"(,"stream":)", stream ? "true" : "false", "}"),
        deadline, {{"Content-Type", "application/json"}});
  }
  static std::string Answer(int port) {
    const auto reply = Ask(port, 24, /*stream=*/false);
    if (!reply.ok()) return reply.status().message();
    const auto json = nlohmann::json::parse(reply->body, nullptr, false);
    return reply->status == 200 && json.is_object() ? json["choices"][0]["text"].dump()
                                                    : reply->body;
  }

  std::string model_;
};

TEST_F(ServeHostsTest, TwoHostsAnswerAsOneAndBothEndCleanlyOnSigterm) {
  auto single = Start(Serve());
  const std::string expected = Answer(PortOfServer(*single));
  ASSERT_EQ(expected[0], '"') << expected;
  for (const size_t signalled : {2, 1}) {  // SIGTERM to both, and to host 0 alone
    auto hosts = StartHosts(2, Serve() + Split("--cp-size 2 --dist-timeout 20"));
    EXPECT_EQ(Answer(PortOfServer(*hosts[0])), expected) << hosts[0]->Stderr();
    for (size_t host = 0; host < signalled; ++host) hosts[host]->Signal(SIGTERM);
    for (auto& host : hosts) {
      EXPECT_EQ(host->Wait(Deadline::AfterMs(kDeadlineMs)), 0) << signalled << host->Stderr();
      EXPECT_EQ(Count(host->Stderr(), "error"), 0) << signalled << host->Stderr();
    }
  }
}

TEST_F(ServeHostsTest, HostsShareTheMemoryThatAFractionGivesAndMustAgreeOnTheFraction) {
  auto hosts = StartHosts(2, Serve() + Split("--cp-size 2 --mem-fraction-static 0.002"));
  const std::string answer = Answer(PortOfServer(*hosts[0]));
  EXPECT_EQ(answer[0], '"') << answer << hosts[0]->Stderr();
  EXPECT_EQ(Count(hosts[0]->Stderr(), "mem_fraction_static=0.002 memory_bytes="), 1)
      << hosts[0]->Stderr();
  hosts[0]->Signal(SIGTERM);
  for (auto& host : hosts) EXPECT_EQ(host->Wait(Deadline::AfterMs(kDeadlineMs)), 0);
  const std::string address = FreeAddress();
  auto first =
      Start(Serve() + HostFlags(2, 0, address) + Split("--cp-size 2 --mem-fraction-static 0.002"));
  auto second =
      Start(Serve() + HostFlags(2, 1, address) + Split("--cp-size 2 --mem-fraction-static 0.003"));
  for (auto& host : {&first, &second}) {
    EXPECT_EQ((*host)->Wait(Deadline::AfterMs(kDeadlineMs)), 1);
    for (const char* value : {"--mem-fraction-static 0.002", "--mem-fraction-static 0.003"}) {
      EXPECT_GE(Count((*host)->Stderr(), value), 1) << (*host)->Stderr();
    }
  }
}

// Keys lie on the hosts of one group: a hit must not be found by the other.
TEST_F(ServeHostsTest, APrefixHitOfDataParallelHostsGivesTheAnswersOfOneHost) {
  std::mt19937 random(5);
  nlohmann::json body = {
      {"model", "tiny"}, {"max_tokens", 20}, {"temperature", 0}, {"ignore_eos", true}};
  for (int i = 0; i < 6; ++i) {
    std::vector<int> prompt;
    for (int p = 0; p < 150; ++p) prompt.push_back(static_cast<int>(random() % 1000));
    body["prompt"].push_back(prompt);
  }
  const auto ask = [&](int port) {
    const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
    auto client = HttpClient::Connect("127.0.0.1", port, deadline);
    if (!client.ok()) return nlohmann::json(client.status().message());
    const auto reply = client->Call("POST", "/v1/completions", body.dump(), deadline,
                                    {{"Content-Type", "application/json"}});
    if (!reply.ok()) return nlohmann::json(reply.status().message());
    return nlohmann::json::parse(reply->body, nullptr, false);
  };
  const auto texts = [](const nlohmann::json& answer) {
    std::string out;
    if (!answer.is_object() || !answer.contains("choices")) return answer.dump();
    for (const auto& choice : answer["choices"]) out += choice["text"].dump() + "\n";
    return out;
  };
  auto single = Start(Serve() + Words{"--disable-radix-cache"});
  const nlohmann::json expected = ask(PortOfServer(*single));
  ASSERT_TRUE(expected.contains("usage")) << expected.dump();
  EXPECT_EQ(expected["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  auto hosts = StartHosts(2, Serve() + Split("--dp-size 2 --dist-timeout 20"));
  const int port = PortOfServer(*hosts[0]);
  for (const int64_t hit : {0, 6 * 128, 6 * 128}) {
    const nlohmann::json answer = ask(port);
    ASSERT_EQ(texts(answer), texts(expected));
    EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], hit);
  }
  // In another order they would go to the other groups, but for their keys.
  std::reverse(body["prompt"].begin(), body["prompt"].end());
  const nlohmann::json answer = ask(port);
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 6 * 128);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(answer["choices"][i]["text"], expected["choices"][5 - i]["text"]);
  }
  for (auto& host : hosts) host->Signal(SIGTERM);
}

TEST_F(ServeHostsTest, ARequestOfALostHostGetsAnErrorAndTheServerEnds) {
  for (const bool stream : {false, true}) {
    auto hosts = StartHosts(2, Serve() + Split("--cp-size 2 --dist-timeout 5 --on-lost-host exit"));
    const int port = PortOfServer(*hosts[0]);
    ASSERT_GT(port, 0) << hosts[0]->Stderr();
    std::thread killer([&] {
      SleepMs(700);
      hosts[1]->Signal(SIGKILL);
    });
    const auto reply = Ask(port, 8000, stream);
    killer.join();
    ASSERT_TRUE(reply.ok()) << reply.status().message() << hosts[0]->Stderr();
    EXPECT_EQ(reply->status, stream ? 200 : 500) << reply->body.substr(0, 1000);
    EXPECT_NE(reply->body.find("\"error\""), std::string::npos)
        << reply->body.substr(reply->body.size() > 1000 ? reply->body.size() - 1000 : 0);
    EXPECT_NE(reply->body.find("host 1"), std::string::npos)
        << reply->body.substr(reply->body.size() > 1000 ? reply->body.size() - 1000 : 0);
    ExpectError(*hosts[0], Clock::now(), 5 + kSlackSeconds, "the server");
  }
}

TEST_F(ServeHostsTest, AnIdleServerNoticesALostHostOnItsOwn) {
  for (const int victim : {1, 0}) {
    auto hosts = StartHosts(2, Serve() + Split("--cp-size 2 --dist-timeout 4 --on-lost-host exit"));
    ASSERT_GT(PortOfServer(*hosts[0]), 0) << hosts[0]->Stderr();
    SleepMs(300);
    hosts[static_cast<size_t>(victim)]->Signal(SIGKILL);
    const double took = ExpectError(*hosts[static_cast<size_t>(1 - victim)], Clock::now(),
                                    4 + kSlackSeconds, Text("host ", 1 - victim));
    std::printf("host %d ended %.2f s after host %d\n", 1 - victim, took, victim);
  }
}

TEST_F(ServeHostsTest, AKilledHostIsAllThatHasToBeRestarted) {
  auto single = Start(Serve());
  const std::string expected = Answer(PortOfServer(*single));
  ASSERT_EQ(expected[0], '"') << expected;
  const std::string address = FreeAddress();
  const Words flags = Serve() + Split("--tp 3 --dp-size 3 --dist-timeout 4");
  std::vector<std::unique_ptr<Program>> hosts;
  for (int host = 0; host < 3; ++host) hosts.push_back(Start(flags + HostFlags(3, host, address)));
  const int port = PortOfServer(*hosts[0]);
  ASSERT_GT(port, 0) << hosts[0]->Stderr();
  EXPECT_EQ(Answer(port), expected) << hosts[0]->Stderr();
  for (const int victim : {1, 0}) {
    auto& killed = hosts[static_cast<size_t>(victim)];
    killed->Signal(SIGKILL);
    killed = Start(flags + HostFlags(3, victim, address) + Words{"--port", std::to_string(port)});
    const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
    std::string answer;
    while (answer != expected && !deadline.Passed()) {
      SleepMs(100);
      answer = Answer(port);
    }
    EXPECT_EQ(answer, expected) << victim << hosts[0]->Stderr();
    // Of the processes that run now.
    const std::vector<int> rejoined = victim == 1 ? std::vector{1, 0, 1} : std::vector{0, 1, 2};
    for (size_t host = 0; host < 3; ++host) {
      EXPECT_EQ(Count(hosts[host]->Stderr(), "event=rejoining"), rejoined[host])
          << "host " << host << " after " << victim << ": " << hosts[host]->Stderr();
    }
  }
  hosts[0]->Signal(SIGTERM);
  for (auto& host : hosts) {
    EXPECT_EQ(host->Wait(Deadline::AfterMs(kDeadlineMs)), 0) << host->Stderr();
  }
}

// While the others wait for it, nothing keeps them from being stopped.
TEST_F(ServeHostsTest, HostsThatWaitForALostOneEndOnSigterm) {
  for (const size_t victim : {1, 0}) {
    auto hosts = StartHosts(2, Serve() + Split("--cp-size 2 --dist-timeout 4"));
    ASSERT_GT(PortOfServer(*hosts[0]), 0) << hosts[0]->Stderr();
    hosts[victim]->Signal(SIGKILL);
    Program& other = *hosts[1 - victim];
    const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
    while (Count(other.Stderr(), "event=rejoining") == 0 && !deadline.Passed()) SleepMs(20);
    EXPECT_EQ(Count(other.Stderr(), "event=rejoining"), 1) << other.Stderr();
    other.Signal(SIGTERM);
    EXPECT_EQ(other.Wait(deadline), 128 + SIGTERM) << other.Stderr();
  }
}

class HostErrorsTest : public HostsTest {
 protected:
  Words Logits(int world = 2) const {
    const std::string ranks = std::to_string(world);
    return Split("logits --json --model-path " + kFixtures + "v32-tiny-bf16") +
           Words{"--tokens", TokensFile(40), "--tp", ranks, "--cp-size", ranks};
  }
  // Ends in time with an error that holds all of `parts`.
  static void ExpectMessage(Program& program, const Words& parts) {
    const int code = program.Wait(Deadline::AfterMs(20'000));
    const std::string error = program.Stderr();
    EXPECT_GT(code, 0) << error;
    EXPECT_LT(code, 128) << error;
    for (const std::string& part : parts) {
      EXPECT_NE(error.find(part), std::string::npos) << "expected '" << part << "' in: " << error;
    }
    EXPECT_EQ(program.Stdout(), "");
  }
};

TEST_F(HostErrorsTest, FlagsThatCantWorkAreNamedAtOnce) {
  ExpectMessage(*Start(Logits() + Split("--nnodes 2")), {"--nnodes 2 needs --dist-init-addr"});
  ExpectMessage(*Start(Logits() + HostFlags(2, 2, FreeAddress())),
                {"--node-rank is 2; with --nnodes 2 it must be 0 to 1"});
  ExpectMessage(*Start(Logits() + HostFlags(2, -1, FreeAddress())), {"--node-rank is -1"});
  ExpectMessage(*Start(Logits() + HostFlags(2, 0, "127.0.0.1")), {"--dist-init-addr", "127.0.0.1"});
  ExpectMessage(*Start(Logits() + HostFlags(3, 0, FreeAddress())), {"--nnodes must divide the 2"});
  ExpectMessage(
      *Start(Logits() + HostFlags(2, 0, FreeAddress()) + Split("--dist-interface nosuch0")),
      {"nosuch0"});
  const auto taken = ListenAt("127.0.0.1:0");
  ASSERT_TRUE(taken.ok());
  const std::string address = Text("127.0.0.1:", PortOf(*taken));
  ExpectMessage(*Start(Logits() + HostFlags(2, 0, address)),
                {"--dist-init-addr " + address, "in use"});
}

TEST_F(HostErrorsTest, HostsThatDisagreeSayBothValues) {
  const std::string address = FreeAddress();
  auto first = Start(Logits() + HostFlags(2, 0, address));
  auto second = Start(Logits() + HostFlags(2, 1, address) + Split("--cp-partition zigzag"));
  ExpectMessage(*first, {"host 1 was started with flags or model", "zigzag", "balanced"});
  ExpectMessage(*second, {"host 0 was started with flags or model", "zigzag", "balanced"});
  const std::string other = FreeAddress();
  auto bf16 = Start(Logits() + HostFlags(2, 0, other));
  auto int8 = Start(Logits() + HostFlags(2, 1, other) + Split("--kv-cache-dtype int8"));
  ExpectMessage(*bf16, {"KV cache bfloat16", "KV cache int8"});
  ExpectMessage(*int8, {"KV cache bfloat16", "KV cache int8"});
}

TEST_F(HostErrorsTest, AStrangersTokenIsRefused) {
  const std::string address = FreeAddress();
  setenv("CAUSEWAY_DIST_TOKEN", "ours", 1);
  auto first = Start(Logits() + HostFlags(2, 0, address) + Split("--dist-rendezvous-timeout 3"));
  setenv("CAUSEWAY_DIST_TOKEN", "theirs", 1);
  auto second = Start(Logits() + HostFlags(2, 1, address) + Split("--dist-rendezvous-timeout 20"));
  unsetenv("CAUSEWAY_DIST_TOKEN");
  ExpectMessage(*second, {"host 1", "token"});
  ExpectMessage(*first, {"host 1, which did not join"});
}

TEST_F(HostErrorsTest, AMissingHostIsNamedWhenItsTimeIsOver) {
  const std::string address = FreeAddress();
  const Words timeout = Split("--dist-rendezvous-timeout 2");
  const auto begin = Clock::now();
  auto first = Start(Logits(4) + HostFlags(4, 0, address) + timeout);
  auto second = Start(Logits(4) + HostFlags(4, 2, address) + timeout);
  ExpectMessage(*first, {"host 0 of 4", "for host 1, 3, which did not join"});
  ExpectMessage(*second, {"host 2 of 4", "host"});
  EXPECT_LT(SecondsSince(begin), 2 + kSlackSeconds);
  auto alone =
      Start(Logits() + HostFlags(2, 1, FreeAddress()) + Split("--dist-rendezvous-timeout 1"));
  ExpectMessage(*alone, {"for host 0, which serves there once it is started"});
}

TEST_F(HostErrorsTest, AStepOfSlurmNeedsNoFlags) {
  // The port follows from the job: one that is free now.
  int job = static_cast<int>(std::random_device{}() % 10'000);
  while (!ListenAt(Text("127.0.0.1:", 20'000 + job)).ok()) job = (job + 1) % 10'000;
  const std::map<std::string, std::string> step = {{"SLURM_STEP_NUM_NODES", "2"},
                                                   {"SLURM_STEP_NUM_TASKS", "2"},
                                                   {"SLURM_JOB_ID", std::to_string(job)},
                                                   {"SLURM_STEP_NODELIST", "127.0.0.[1-2]"}};
  const std::string expected = Hash(*Start(Logits()));
  for (const auto& [name, value] : step) setenv(name.c_str(), value.c_str(), 1);
  std::vector<std::unique_ptr<Program>> hosts;
  for (const char* node : {"0", "1"}) {
    setenv("SLURM_NODEID", node, 1);
    hosts.push_back(Start(Logits()));
  }
  unsetenv("SLURM_NODEID");
  for (const auto& [name, value] : step) unsetenv(name.c_str());
  EXPECT_EQ(Hash(*hosts[0]), expected);
  EXPECT_NE(hosts[0]->Stdout().find("2 hosts"), std::string::npos) << hosts[0]->Stdout();
  EXPECT_EQ(hosts[1]->Wait(Deadline::AfterMs(kDeadlineMs)), 0) << hosts[1]->Stderr();
}

}  // namespace
}  // namespace causeway
