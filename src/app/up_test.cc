// `causeway up` as a process: what it starts, mends and ends.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/program.h"
#include "base/check.h"
#include "checkpoint/temporary_directory.h"
#include "net/http_client.h"

namespace causeway {
namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

constexpr char kQuestion[] =
    R"({"prompt":"How many eggs does she sell, and for how much, and to whom, on which day?",
        "max_tokens":24,"temperature":0,"ignore_eos":true})";

// The processes whose command lines have a text; words end with a zero byte there.
std::vector<pid_t> ProcessesWith(const std::string& text) {
  std::vector<pid_t> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string words{std::istreambuf_iterator<char>(file), {}};
    if (words.find(text) != std::string::npos) out.push_back(pid);
  }
  return out;
}

class UpTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_files_ = std::make_unique<TemporaryDirectory>();
    Program make(CAUSEWAY_BINARY, model_files_->path(),
                 {"make-model", "--preset", "tiny-v32", "--output", Model()});
    ASSERT_EQ(make.Wait(Deadline::AfterMs(60'000)), 0) << make.Stderr();
  }
  static void TearDownTestSuite() { model_files_.reset(); }
  static std::string Model() { return model_files_->File("model"); }

  UpTest() {
    for (const char* name : {"up", "one", "logs"}) fs::create_directories(files_.File(name));
  }
  Program Up(Arguments flags) const {
    flags.insert(flags.begin(),
                 {"up", "--model-path", Model(), "--port", "0", "--log-dir", files_.File("logs")});
    return {CAUSEWAY_BINARY, files_.File("up"), flags};
  }
  // The port of the URL that a program prints on its standard output or in its log, behind `mark`.
  int PortOf(Program& program, const std::string& mark) const {
    while (!deadline_.Passed() && program.Wait(Deadline::AfterMs(10)) < 0) {
      const std::string said = program.Stdout() + program.Stderr();
      const size_t at = said.find(mark);
      if (at != std::string::npos) return std::atoi(said.c_str() + at + mark.size());
    }
    ADD_FAILURE() << "expected '" << mark << "' in " << program.Stdout() << program.Stderr();
    return 0;
  }
  int PortOfUp(Program& up) const { return PortOf(up, "serving on http://127.0.0.1:"); }
  HttpClient Client(int port) const {
    auto client = HttpClient::Connect("127.0.0.1", port, deadline_);
    EXPECT_TRUE(client.ok()) << client.status().message();
    return std::move(client).value();
  }
  HttpReply Ask(int port) const {
    const auto reply = Client(port).Call("POST", "/v1/completions", kQuestion, deadline_);
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return reply.ok() ? *reply : HttpReply();
  }
  static std::string TextOf(const HttpReply& reply) {
    EXPECT_EQ(reply.status, 200) << reply.body;
    const auto json = nlohmann::json::parse(reply.body, nullptr, false);
    return json.is_object() && json.contains("choices") ? json["choices"][0]["text"] : "";
  }
  // What one server says that does both.
  std::string OneServersText() const {
    Program one(CAUSEWAY_BINARY, files_.File("one"),
                {"serve", "--model-path", Model(), "--port", "0"});
    return TextOf(Ask(PortOf(one, "event=serving url=http://127.0.0.1:")));
  }
  void ExpectAllGone(const std::vector<pid_t>& pids) const {
    for (const pid_t pid : pids) EXPECT_EQ(kill(pid, 0), -1) << "there is still a process " << pid;
    EXPECT_TRUE(ProcessesWith(Model()).empty());
    EXPECT_TRUE(ProcessesWith(files_.path()).empty());
  }

  static inline std::unique_ptr<TemporaryDirectory> model_files_;
  const TemporaryDirectory files_;
  const Deadline deadline_ = Deadline::AfterMs(60'000);
};

TEST_F(UpTest, AnswersAreThoseOfOneServerAlsoAfterAPartWasKilled) {
  const std::string expected = OneServersText();
  ASSERT_FALSE(expected.empty());
  Program up = Up({"--prefill", "--cp-size 2", "--decode", "--tp 2"});
  const int port = PortOfUp(up);
  EXPECT_EQ(TextOf(Ask(port)), expected);

  for (const std::string part : {"decode", "prefill"}) {
    const std::vector<pid_t> pids = ProcessesWith(std::string("mode\0", 5) + part);
    std::vector<pid_t> own;
    for (const pid_t pid : ProcessesWith(Model())) {
      if (std::ranges::find(pids, pid) != pids.end()) own.push_back(pid);
    }
    ASSERT_EQ(own.size(), 1u) << part;
    kill(own[0], SIGKILL);
    HttpReply reply = Ask(port);
    while (reply.status != 200 && !deadline_.Passed()) {
      EXPECT_TRUE(reply.status == 502 || reply.status == 503) << reply.status << reply.body;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      reply = Ask(port);
    }
    EXPECT_EQ(TextOf(reply), expected) << part;
    EXPECT_NE(up.Stderr().find("event=part_restarts name=" + part + "-0"), std::string::npos)
        << up.Stderr();
    EXPECT_TRUE(fs::exists(files_.File("logs/" + part + "-0/stderr.before"))) << part;
  }
  up.Signal(SIGTERM);
  EXPECT_EQ(up.Wait(deadline_), 0) << up.Stderr();
  ExpectAllGone({});
}

TEST_F(UpTest, CtrlCEndsAllPartsAfterTheAnswerThatIsUnderWay) {
  Program up = Up({"--stop-timeout", "30"});
  const int port = PortOfUp(up);
  std::vector<pid_t> pids = ProcessesWith(Model());
  EXPECT_EQ(pids.size(), 3u) << "up, prefill and decode";
  const std::string body =
      R"({"prompt":"on","stream":true,"max_tokens":1000,"temperature":0,"ignore_eos":true})";
  HttpClient client = Client(port);
  ASSERT_TRUE(
      client.SendBytes(FormatRequest("POST", "/v1/completions", "h", {}, body), deadline_).ok());
  const auto head = client.ReadHead(deadline_);
  ASSERT_TRUE(head.ok()) << head.status().message();
  ASSERT_EQ(head->status, 200);

  // As a terminal does: to all of the foreground's process group.
  ASSERT_EQ(kill(-up.pid(), SIGINT), 0);
  std::string stream;
  for (;;) {
    const auto piece = client.ReadBody(deadline_);
    ASSERT_TRUE(piece.ok()) << piece.status().message();
    if (piece->empty()) break;
    stream += *piece;
  }
  EXPECT_NE(stream.find("\"finish_reason\":\"length\""), std::string::npos)
      << stream.substr(0, 900);
  EXPECT_NE(stream.find("[DONE]"), std::string::npos);
  EXPECT_EQ(up.Wait(deadline_), 0) << up.Stderr();
  EXPECT_EQ(up.Stderr().find("part_killed"), std::string::npos) << up.Stderr();
  ExpectAllGone(pids);
}

TEST_F(UpTest, ASecondSignalEndsWhatTheFirstWaitsFor) {
  Program up = Up({"--stop-timeout", "1000"});
  const int port = PortOfUp(up);
  const std::string body =
      R"({"prompt":"on","stream":true,"max_tokens":60000,"temperature":0,"ignore_eos":true})";
  HttpClient client = Client(port);
  ASSERT_TRUE(
      client.SendBytes(FormatRequest("POST", "/v1/completions", "h", {}, body), deadline_).ok());
  ASSERT_TRUE(client.ReadHead(deadline_).ok());
  up.Signal(SIGINT);
  EXPECT_EQ(up.Wait(Deadline::AfterMs(500)), -1) << "an answer is under way";
  up.Signal(SIGINT);
  EXPECT_EQ(up.Wait(Deadline::AfterMs(5'000)), 0) << up.Stderr();
  ExpectAllGone({});
}

TEST_F(UpTest, APartThatCannotStartSaysWhyAndEndsAll) {
  struct Case {
    Arguments flags;
    Arguments parts;
  };
  for (const Case& bad : {
           Case{{"--prefill", "--cp-siz 2"}, {"prefill-0 ended with exit code 2", "--cp-siz"}},
           Case{{"--decode", "--device npu"}, {"decode-0 ended with exit code 1", "npu", "cpu"}},
           Case{{"--router", "--policy bucket"}, {"router ended with exit code", "--policy"}},
       }) {
    Program up = Up(bad.flags);
    EXPECT_EQ(up.Wait(deadline_), 1) << up.Stdout();
    for (const std::string& part : bad.parts) {
      EXPECT_NE(up.Stderr().find(part), std::string::npos) << part << " in " << up.Stderr();
    }
    ExpectAllGone({});
  }
}

}  // namespace
}  // namespace causeway
