// The running server under many clients at once: streams that come, leave and die.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <thread>

#include "app/program.h"
#include "checkpoint/temporary_directory.h"
#include "net/http_client.h"
#include "net/http_crowd.h"

namespace causeway {
namespace {

using Json = nlohmann::json;

constexpr int64_t kDeadlineMs = 300'000;
constexpr uint32_t kSeed = 20261126;
constexpr size_t kStreams = 540;
constexpr int kConcurrent = 500;
// What a second round of the same load may add to the resident memory: the allocator's slack.
constexpr int64_t kMemoryMargin = 16 << 20;
constexpr int kKills = 1000;
constexpr int kKillsAtOnce = 4;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // they keep freed memory for themselves
#else
constexpr bool kSanitized = false;
#endif

struct Question {
  std::string path;
  std::string body;
  int leave_after = 0;  // events after which the client goes; 0: it reads all
};

// Of each of a question's answers: the token ids of native ones, the text of others.
struct Outcome {
  std::map<int64_t, std::string> answers;
  std::string error;
  bool left = false;
};

// Takes events off `input` and what they say into `outcome`; how many there were.
int TakeEvents(std::string& input, Outcome& outcome) {
  int events = 0;
  size_t begin = 0;
  for (size_t end; (end = input.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
    const std::string data = input.substr(begin + 6, end - begin - 6);  // after "data: "
    if (data == "[DONE]") continue;
    ++events;
    const Json event = Json::parse(data, nullptr, /*allow_exceptions=*/false);
    if (event.is_object() && event.contains("output_ids")) {
      outcome.answers[event.value("index", 0)] = event["output_ids"].dump();
    } else if (event.is_object() && event.contains("choices")) {
      for (const Json& choice : event["choices"]) {
        outcome.answers[choice["index"].get<int64_t>()] += choice["text"].get<std::string>();
      }
    } else {
      outcome.error = data;
    }
  }
  input.erase(0, begin);
  return events;
}

// "[1,2]" begins "[1,2,3]".
bool Begins(std::string part, const std::string& whole) {
  if (part.ends_with(']')) part.pop_back();
  return whole.starts_with(part);
}

class ServeLoad : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_files_ = std::make_unique<TemporaryDirectory>();
    Program make(CAUSEWAY_BINARY, model_files_->path(),
                 {"make-model", "--preset", "tiny-v32", "--output", Model()});
    ASSERT_EQ(make.Wait(Deadline::AfterMs(kDeadlineMs)), 0) << make.Stderr();
  }
  static void TearDownTestSuite() { model_files_.reset(); }
  static std::string Model() { return model_files_->File("model"); }

  // Starts the server, instead of one that runs, and waits until it listens.
  void Serve(const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"serve", "--model-path",    Model(), "--port",
                                          "0",     "--enable-metrics"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    server_.reset();
    files_.emplace();  // a log of its own
    server_.emplace(CAUSEWAY_BINARY, files_->path(), std::move(arguments));
    WaitFor("the start", [this] { return Log().find("://127.0.0.1:") != std::string::npos; });
    const std::string log = Log();
    port_ = std::atoi(log.c_str() + log.find("://127.0.0.1:") + 13);
    ASSERT_GT(port_, 0) << log;
  }
  std::string Log() const { return server_->Stderr(); }
  void WaitFor(const char* what, const std::function<bool()>& condition) {
    while (!condition() && server_->Wait(Deadline::AfterMs(0)) < 0 && !deadline_.Passed()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    EXPECT_TRUE(condition()) << what << "; the log ends: " << Tail(Log());
  }
  static std::string Tail(const std::string& text) {
    return text.substr(text.size() - std::min<size_t>(text.size(), 1000));
  }

  std::string Call(const char* method, const char* path, const std::string& body = "") {
    auto client = HttpClient::Connect("127.0.0.1", port_, deadline_);
    if (!client.ok()) return client.status().message();
    auto reply = client->Call(method, path, body, deadline_);
    EXPECT_TRUE(reply.ok() && reply->status == 200)
        << path << ": " << (reply.ok() ? reply->body : reply.status().message());
    return reply.ok() ? reply->body : "";
  }
  Json CallJson(const char* method, const char* path, const std::string& body = "") {
    return Json::parse(Call(method, path, body), nullptr, /*allow_exceptions=*/false);
  }

  // The sum of a metric's series.
  double Metric(const std::string& name) {
    std::istringstream lines(Call("GET", "/metrics"));
    double sum = 0;
    bool found = false;
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with(name + "{")) continue;
      sum += std::stod(line.substr(line.rfind(' ')));
      found = true;
    }
    EXPECT_TRUE(found) << name;
    return sum;
  }
  // Nothing runs or waits, and all pages are free, but for what only the prefix cache keeps.
  void WaitForRest() {
    WaitFor("no requests and no pages in use", [this] {
      const Json load = CallJson("GET", "/v1/loads").at("loads").at(0);
      return load.at("num_running_reqs") == 0 && load.at("num_waiting_reqs") == 0 &&
             load.at("num_used_tokens") == 0;
    });
    for (const char* name :
         {"sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:num_used_tokens"}) {
      EXPECT_EQ(Metric(name), 0) << name;
    }
    EXPECT_EQ(Metric("sglang:kv_available_tokens"), Metric("sglang:max_total_num_tokens"));
  }
  int64_t ResidentBytes() const {
    std::ifstream status(Text("/proc/", server_->pid(), "/status"));
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("VmRSS:")) return std::stoll(line.substr(6)) * 1024;
    }
    ADD_FAILURE() << "the server has no VmRSS";
    return 0;
  }
  int64_t OpenFiles() const {
    const std::filesystem::directory_iterator files(Text("/proc/", server_->pid(), "/fd"));
    return std::distance(begin(files), end(files));
  }

  // Mixed lengths, shared beginnings, both APIs, greedy and seeded, several answers, and clients
  // that leave.
  std::vector<Question> Questions(int64_t vocab) const {
    std::mt19937 random(kSeed);
    const auto below = [&](uint32_t count) { return static_cast<int>(random() % count); };
    const auto tokens = [&](int count) {
      std::vector<int> out;
      for (int i = 0; i < count; ++i) out.push_back(below(static_cast<uint32_t>(vocab)));
      return out;
    };
    std::vector<std::vector<int>> beginnings;
    for (int i = 0; i < 6; ++i) beginnings.push_back(tokens(100 + below(200)));
    std::vector<Question> out;
    for (size_t i = 0; i < kStreams; ++i) {
      std::vector<int> prompt;
      if (i % 3 != 0) prompt = beginnings[static_cast<size_t>(below(6))];
      const std::vector<int> rest = tokens(1 + below(i % 40 == 0 ? 700 : 60));
      prompt.insert(prompt.end(), rest.begin(), rest.end());
      const int length = 4 + below(22);
      const bool greedy = below(2) == 0;
      const int n = i % 15 == 0 ? 3 : 1;
      const int seed = below(1 << 30);
      Json body = {{"stream", true}};
      Json sampling = {{"n", n}, {"ignore_eos", i % 2 == 0}};
      if (greedy) {
        sampling["temperature"] = 0;
      } else {
        sampling.update({{"temperature", 0.9}, {"top_p", 0.95}, {"frequency_penalty", 0.2}});
      }
      Question question;
      if (i % 4 == 3) {
        question.path = "/v1/completions";
        body.update(sampling);
        body.update({{"prompt", prompt}, {"max_tokens", length}, {"seed", seed}});
      } else {
        question.path = "/generate";
        sampling.update({{"max_new_tokens", length}, {"sampling_seed", seed}});
        body.update({{"input_ids", prompt}, {"sampling_params", sampling}});
      }
      question.body = body.dump();
      if (i % 7 == 5) question.leave_after = 1 + below(6);
      out.push_back(std::move(question));
    }
    return out;
  }

  // All at once. `most`: how many streams were open together.
  std::vector<Outcome> Ask(const std::vector<Question>& questions, bool may_leave, int& most) {
    std::vector<CrowdCall> calls;
    for (const Question& question : questions) {
      calls.push_back({FormatRequest("POST", question.path, "localhost", {{"Connection", "close"}},
                                     question.body)});
    }
    std::vector<Outcome> out(questions.size());
    std::vector<std::string> input(questions.size());
    std::vector<int> events(questions.size()), status(questions.size());
    int open = 0;
    most = 0;
    CrowdEvents on;
    on.on_head = [&](size_t i, int code) {
      status[i] = code;
      most = std::max(most, ++open);
    };
    on.on_data = [&](size_t i, std::string_view piece) {
      input[i] += piece;
      if (status[i] != 200) return true;
      events[i] += TakeEvents(input[i], out[i]);
      out[i].left =
          may_leave && questions[i].leave_after > 0 && events[i] >= questions[i].leave_after;
      return !out[i].left;
    };
    on.on_end = [&](size_t i, const Status& end) {
      if (status[i] != 0) --open;
      if (!end.ok()) out[i].error = end.message();
      if (status[i] != 200) out[i].error += Text(" HTTP ", status[i], " ", input[i]);
    };
    const Status run = RunCrowd({.port = port_, .timeout_ms = deadline_.RemainingMs()}, calls, on);
    EXPECT_TRUE(run.ok()) << run.message();
    return out;
  }

  // Errors of `found`, and answers that differ from those of `alone`.
  static void ExpectSame(const std::vector<Outcome>& found, const std::vector<Outcome>& alone) {
    // One failed stream is enough to read.
    for (size_t i = 0; i < found.size() && !HasFailure(); ++i) {
      EXPECT_EQ(found[i].error, "") << "stream " << i;
      EXPECT_FALSE(found[i].answers.empty()) << "stream " << i;
      if (!found[i].left) {
        EXPECT_EQ(found[i].answers, alone[i].answers) << "stream " << i;
        continue;
      }
      for (const auto& [index, answer] : found[i].answers) {
        EXPECT_TRUE(Begins(answer, alone[i].answers.at(index)))
            << "stream " << i << ": " << answer << " of " << alone[i].answers.at(index);
      }
    }
  }

  static inline std::unique_ptr<TemporaryDirectory> model_files_;
  std::optional<TemporaryDirectory> files_;
  const Deadline deadline_ = Deadline::AfterMs(kDeadlineMs);
  std::optional<Program> server_;
  int port_ = 0;
};

TEST_F(ServeLoad, FiveHundredStreamsAtOnceGetWhatEachGetsAloneAndLeaveNothingBehind) {
  int most = 0;
  // One request after another, and nothing of one is used for another.
  Serve({"--max-running-requests", "1", "--max-queued-requests", "4096", "--disable-radix-cache",
         "--disable-overlap-schedule"});
  const auto vocab = CallJson("GET", "/model_info").at("vocab_size").get<int64_t>();
  const std::vector<Question> questions = Questions(vocab);
  const std::vector<Outcome> alone = Ask(questions, /*may_leave=*/false, most);
  ExpectSame(alone, alone);  // no errors
  const struct {
    const char* name;
    std::vector<std::string> flags;
    bool retracts;
  } kSetups[] = {{"one rank, all streams in every step",
                  {"--max-running-requests", "1024", "--max-queued-requests", "4096"},
                  false},
                 // Too small a cache for the 64 that may run: some are retracted.
                 {"cp 2, few pages, small chunks",
                  {"--cp-size", "2", "--threads-per-rank", "1", "--max-total-tokens", "8192",
                   "--max-queued-requests", "4096", "--chunked-prefill-size", "256",
                   "--schedule-conservativeness", "0"},
                  true}};
  for (const auto& setup : kSetups) {
    SCOPED_TRACE(setup.name);
    Serve(setup.flags);
    const int64_t files = OpenFiles();
    int64_t first_bytes = 0;
    for (int round = 0; round < 2; ++round) {
      ExpectSame(Ask(questions, /*may_leave=*/true, most), alone);
      EXPECT_GE(most, kConcurrent);
      WaitForRest();
      WaitFor("closed connections", [&] { return OpenFiles() <= files; });
      const int64_t bytes = ResidentBytes();
      if (round == 0) first_bytes = bytes;
      std::printf("%s, round %d: %d of %zu streams open at once, %.1f MB resident after\n",
                  setup.name, round + 1, most, questions.size(), static_cast<double>(bytes) * 1e-6);
      EXPECT_TRUE(kSanitized || bytes - first_bytes < kMemoryMargin)
          << "resident memory grew from " << first_bytes << " to " << bytes << " bytes";
    }
    EXPECT_GT(Metric("sglang:cached_tokens_total"), 0);
    EXPECT_EQ(Metric("sglang:num_retracted_requests_total") > 0, setup.retracts);
    // What only the cache kept does not count as used; a flush gives it back.
    const Json prompt = Json::parse(questions[1].body).at("input_ids");
    const std::string again =
        Json{{"input_ids", prompt}, {"sampling_params", {{"max_new_tokens", 1}}}}.dump();
    const auto cached = [&] {
      return CallJson("POST", "/generate", again).at("meta_info").at("cached_tokens").get<int>();
    };
    cached();  // it may have been evicted
    EXPECT_GT(cached(), 0);
    Call("POST", "/flush_cache");
    EXPECT_EQ(cached(), 0);
    WaitForRest();
  }
}

// What a killed client runs: opens streams, reads a little of each, says so, and waits.
[[noreturn]] void DieInMidStream(int port, int streams, const std::string& request, int ready) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
  std::vector<HttpClient> clients;
  for (int i = 0; i < streams; ++i) {
    auto client = HttpClient::Connect("127.0.0.1", port, deadline);
    if (!client.ok() || !client->SendBytes(request, deadline).ok()) _exit(1);
    clients.push_back(std::move(*client));
  }
  for (HttpClient& client : clients) {
    const auto head = client.ReadHead(deadline);
    if (!head.ok() || head->status != 200 || !client.ReadBody(deadline).ok()) _exit(1);
  }
  if (write(ready, "r", 1) != 1) _exit(1);
  for (;;) pause();
}

TEST_F(ServeLoad, AThousandClientsKilledInMidStreamLeaveAllCountersAtZero) {
  Serve({"--cp-size", "2", "--threads-per-rank", "1", "--log-level", "warning"});
  const std::vector<Question> questions = {
      {"/generate", R"({"input_ids":[5,6,7],"stream":true,"sampling_params":)"
                    R"({"temperature":0,"max_new_tokens":20,"ignore_eos":true}})"},
      {"/v1/completions", R"({"prompt":[9,8,7],"stream":true,"max_tokens":20,"seed":3})"}};
  int most = 0;
  const std::vector<Outcome> before = Ask(questions, /*may_leave=*/false, most);
  ExpectSame(before, before);
  WaitForRest();
  const int64_t files = OpenFiles();
  const std::string request = FormatRequest(
      "POST", "/v1/completions", "h", {},
      R"({"prompt":"on","stream":true,"max_tokens":60000,"ignore_eos":true,"temperature":1})");
  std::mt19937 random(kSeed);
  int in_stream = 0;
  for (int killed = 0; killed < kKills && !deadline_.Passed(); killed += kKillsAtOnce) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    std::vector<pid_t> clients;
    for (int i = 0; i < kKillsAtOnce; ++i) {
      const int streams = 1 + i % 2;
      clients.push_back(fork());
      ASSERT_GE(clients.back(), 0);
      if (clients.back() == 0) DieInMidStream(port_, streams, request, ready[1]);
    }
    close(ready[1]);
    // Every tenth time the signal comes earlier: in the request, or while it waits.
    if ((killed / kKillsAtOnce) % 10 == 9) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    } else {
      for (int i = 0; i < kKillsAtOnce; ++i) {
        char byte = 0;
        pollfd entry{.fd = ready[0], .events = POLLIN, .revents = 0};
        ASSERT_EQ(poll(&entry, 1, static_cast<int>(deadline_.RemainingMs())), 1);
        ASSERT_EQ(read(ready[0], &byte, 1), 1) << "a client failed; " << Tail(Log());
        ++in_stream;
      }
    }
    for (const pid_t client : clients) {
      kill(client, SIGKILL);
      int state = 0;
      ASSERT_EQ(waitpid(client, &state, 0), client);
      EXPECT_TRUE(WIFSIGNALED(state) && WTERMSIG(state) == SIGKILL) << state;
    }
    close(ready[0]);
  }
  EXPECT_GE(in_stream, kKills * 9 / 10);
  WaitForRest();
  WaitFor("closed connections", [&] { return OpenFiles() <= files; });
  std::printf("%d clients killed, %d of them while they read\n", kKills, in_stream);
  EXPECT_GT(Metric("sglang:num_aborted_requests_total"), in_stream);
  ExpectSame(Ask(questions, /*may_leave=*/false, most), before);
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->Wait(deadline_), 0) << Tail(Log());
}

class BenchServing : public ServeLoad {
 protected:
  // The results; null, with a failure, if the command fails.
  Json Bench(std::vector<std::string> flags) {
    const TemporaryDirectory files;
    const std::vector<std::string> all = {"bench",         "serving",
                                          "--base-url",    Text("http://127.0.0.1:", port_),
                                          "--output-file", files.File("results.json")};
    flags.insert(flags.begin(), all.begin(), all.end());
    Program bench(CAUSEWAY_BINARY, files.path(), flags);
    EXPECT_EQ(bench.Wait(deadline_), 0) << bench.Stderr();
    std::ifstream file(files.File("results.json"));
    return Json::parse(file, nullptr, /*allow_exceptions=*/false);
  }
};

TEST_F(BenchServing, EveryBackendGivesTimesThroughputAndCacheHits) {
  Serve({});
  for (const char* backend : {"native", "openai", "openai-chat"}) {
    SCOPED_TRACE(backend);
    const Json out = Bench({"--backend", backend, "--num-prompts", "24", "--random-input-len", "40",
                            "--random-output-len", "12", "--random-range-ratio", "1",
                            "--request-rate", "200", "--max-concurrency", "8"});
    ASSERT_TRUE(out.is_object());
    EXPECT_EQ(out["completed"], 24) << out["errors"];
    EXPECT_EQ(out["errors"], Json::object());
    EXPECT_LE(out["max_concurrent_requests"], 8);
    EXPECT_EQ(out["total_output_tokens"], 24 * 12);
    // Chats have words instead of ids, and what the chat format adds.
    if (backend != std::string("openai-chat")) {
      EXPECT_EQ(out["total_input_tokens"], 24 * 40);
    }
    for (const char* name : {"mean_ttft_ms", "p99_tpot_ms", "median_itl_ms", "p90_e2e_latency_ms",
                             "request_throughput", "output_throughput"}) {
      EXPECT_TRUE(out[name].is_number() && out[name] > 0) << name << ": " << out[name];
    }
    EXPECT_LE(out["mean_ttft_ms"], out["mean_e2e_latency_ms"]);
  }
  const Json shared =
      Bench({"--dataset-name", "generated-shared-prefix", "--gsp-num-groups", "2",
             "--gsp-prompts-per-group", "6", "--gsp-system-prompt-len", "256", "--gsp-question-len",
             "8", "--gsp-output-len", "4", "--disable-stream", "--max-concurrency", "1"});
  EXPECT_EQ(shared["completed"], 12) << shared["errors"];
  EXPECT_EQ(shared["total_input_tokens"], 12 * 264);
  // All but the first of each group find its beginning.
  EXPECT_GE(shared["total_cached_tokens"], 10 * 256);
  EXPECT_TRUE(shared["mean_ttft_ms"].is_null());
}

TEST_F(BenchServing, ErrorsAreCountedByKind) {
  Serve({"--max-running-requests", "1", "--max-queued-requests", "1", "--api-key", "word"});
  const Json out = Bench({"--api-key", "word", "--num-prompts", "20", "--random-input-len", "20",
                          "--random-output-len", "200", "--random-range-ratio", "1"});
  EXPECT_GT(out["completed"], 0);
  EXPECT_GT(out["errors"]["HTTP 503"]["count"], 0) << out["errors"];
  EXPECT_EQ(out["completed"].get<int>() + out["errors"]["HTTP 503"]["count"].get<int>(), 20);
  EXPECT_NE(out["errors"]["HTTP 503"]["example"].get<std::string>().find("queue is full"),
            std::string::npos)
      << out["errors"];
}

TEST_F(BenchServing, WhatCanNotBeMeasuredIsAnErrorThatNamesTheFlag) {
  Serve({"--api-key", "word"});
  const std::string url = Text("http://127.0.0.1:", port_);
  const struct {
    std::vector<std::string> flags;
    const char* message;
  } kCases[] = {
      {{"--base-url", "http://127.0.0.1:1"}, "no server at http://127.0.0.1:1 (--base-url)"},
      {{"--base-url", "https://127.0.0.1"}, "--base-url is https://127.0.0.1"},
      {{"--base-url", "http://127.0.0.1:0x"}, "its port is no number"},
      {{"--base-url", url}, "--api-key"},
      {{"--base-url", url, "--api-key", "word", "--random-input-len", "10000000"}, "at most"},
      {{"--base-url", url, "--request-rate", "0"}, "--request-rate is 0"},
      // Too many for the context: all requests fail.
      {{"--base-url", url, "--api-key", "word", "--num-prompts", "1", "--random-output-len",
        "1000000", "--random-range-ratio", "1"},
       "no request succeeded: HTTP 400: the prompt has"}};
  for (const auto& one : kCases) {
    const TemporaryDirectory files;
    std::vector<std::string> arguments = {"bench", "serving"};
    arguments.insert(arguments.end(), one.flags.begin(), one.flags.end());
    Program bench(CAUSEWAY_BINARY, files.path(), arguments);
    EXPECT_EQ(bench.Wait(deadline_), 1) << one.message;
    EXPECT_NE(bench.Stderr().find(one.message), std::string::npos)
        << one.message << " in: " << bench.Stderr();
  }
}

}  // namespace
}  // namespace causeway
