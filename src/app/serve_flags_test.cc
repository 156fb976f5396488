// What `causeway serve` says of its flags, and of those that it does not have.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <utility>
#include <vector>

#include "app/nearest_flag.h"
#include "app/program.h"
#include "base/check.h"
#include "checkpoint/temporary_directory.h"

namespace causeway {
namespace {

struct Output {
  int code = 0;
  std::string out;
  std::string err;
};

Output RunProgram(std::vector<std::string> arguments) {
  const TemporaryDirectory files;
  Program program(CAUSEWAY_BINARY, files.path(), std::move(arguments));
  Output result;
  result.code = program.Wait(Deadline::AfterMs(60'000));
  result.out = program.Stdout();
  result.err = program.Stderr();
  return result;
}

// Runs `serve` with these flags and expects an error that holds each of `parts`.
void ExpectError(std::vector<std::string> flags, const std::vector<std::string>& parts) {
  flags.insert(flags.begin(), {"serve", "--model-path", "/nowhere"});
  const Output result = RunProgram(flags);
  EXPECT_GT(result.code, 0);
  EXPECT_LT(result.code, 128) << "died of a signal";
  for (const std::string& part : parts) {
    EXPECT_NE(result.err.find(part), std::string::npos)
        << "expected \"" << part << "\" in: " << result.err;
  }
}

void ExpectHelpOfEveryFlag(const std::string& command, size_t flags) {
  const Output help = RunProgram({command, "--help"});
  ASSERT_EQ(help.code, 0) << help.err;
  // An entry begins with two blanks and a dash; further lines of it are indented more.
  std::vector<std::string> entries;
  std::istringstream lines(help.out);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("  -")) {
      entries.push_back(line);
    } else if (!entries.empty() && line.starts_with("   ")) {
      entries.back() += " " + line;
    }
  }
  EXPECT_GT(entries.size(), flags) << help.out;
  for (const std::string& entry : entries) {
    if (entry.find("--help") != std::string::npos) continue;
    // CLI11 writes the default behind the name: "--port INT=30000".
    const std::string name = entry.substr(2, entry.find("  ", 3) - 2);
    const bool said = name.find('=') != std::string::npos ||
                      entry.find("default: ") != std::string::npos ||
                      entry.find(" REQUIRED") != std::string::npos;
    EXPECT_TRUE(said) << entry;
    EXPECT_GE(std::count(entry.begin() + 2, entry.end(), ' '), 4) << "no help: " << entry;
  }
}

TEST(ServeFlagsTest, EveryFlagSaysItsDefaultOrThatItIsRequired) {
  ExpectHelpOfEveryFlag("serve", 60);
  ExpectHelpOfEveryFlag("route", 60);
}

TEST(ServeFlagsTest, TheNearestNameIsTheOneWithTheFewestMistakes) {
  const std::vector<std::string> names = {"--port", "--host", "--tp", "--max-running-requests"};
  EXPECT_EQ(NearestName("--prot", names), "--port");
  EXPECT_EQ(NearestName("--hosts", names), "--host");
  EXPECT_EQ(NearestName("--max_running_request", names), "--max-running-requests");
  EXPECT_EQ(NearestName("--max-run", names), "--max-running-requests") << "a beginning";
  EXPECT_EQ(NearestName("--colour-of-the-sky", names), std::nullopt);
  EXPECT_EQ(NearestName("", {}), std::nullopt);
}

TEST(ServeFlagsTest, AnUnknownFlagSuggestsTheNearest) {
  ExpectError({"--cp-sise", "2"}, {"no flag --cp-sise", "did you mean --cp-size?"});
  ExpectError({"--max-queued-request=3"}, {"--max-queued-request;", "--max-queued-requests?"});
  ExpectError({"--make-coffee"}, {"serve has no flag --make-coffee", "causeway serve --help"});
  // Misspelt, the required flag is missing, which is not what should be said.
  const Output result = RunProgram({"serve", "--model-pat", "/nowhere"});
  EXPECT_NE(result.err.find("did you mean --model-path?"), std::string::npos) << result.err;
  EXPECT_GT(result.code, 0);
}

TEST(ServeFlagsTest, ValuesThatCannotBeHadAreRefusedWithTheReason) {
  ExpectError({"--device", "npu"}, {"--device is 'npu'", "this build has: cpu"});
  ExpectError({"--device", "cuda"}, {"--device is 'cuda'", "this build has: cpu"});
  ExpectError({"--page-size", "1"}, {"--page-size is 1", "expected 64"});
  ExpectError({"--load-format", "dummy"}, {"--load-format is 'dummy'", "safetensors"});
  ExpectError({"--pp-size", "2"}, {"--pp-size is 2", "expected 1"});
  ExpectError({"--dcp-size", "4"}, {"--dcp-size is 4", "expected 1"});
  ExpectError({"--port", "70000"}, {"--port"});
  ExpectError({"--max-body-bytes", "1"}, {"--max-body-bytes"});
  ExpectError({"--log-level", "loud"}, {"--log-level"});
  ExpectError({"--on-lost-host", "wait"}, {"--on-lost-host"});
  for (const char* name : {"nosuch0", "lo,nosuch0:1", "../net", ",lo"}) {
    ExpectError({"--disaggregation-mode", "prefill", "--disaggregation-ib-device", name},
                {"--disaggregation-ib-device", "/sys/class/infiniband"});
  }
}

TEST(ServeFlagsTest, BadFilesOfKeysAndCertificatesAreNamedBeforeTheModelIsLoaded) {
  const TemporaryDirectory files;
  ExpectError({"--api-key-file", "/nowhere/keys"}, {"--api-key-file", "/nowhere/keys"});
  ExpectError({"--api-key-file", files.Put("keys", "a b\n")}, {"--api-key-file: ", "line 1"});
  ExpectError({"--ssl-certfile", "/nowhere/cert"}, {"--ssl-certfile", "belong together"});
  ExpectError({"--ssl-certfile", "/nowhere/cert", "--ssl-keyfile", "/nowhere/key"},
              {"--ssl-certfile: can't read /nowhere/cert"});
}

TEST(ServeFlagsTest, FlagsOfSglangThatChangeNothingAreAccepted) {
  // The model is missing, and that is all that is wrong.
  ExpectError({"--trust-remote-code",
               "--disable-cuda-graph",
               "--cuda-graph-max-bs",
               "8",
               "--attention-backend",
               "dsa",
               "--dsa-prefill-backend",
               "flashmla_sparse",
               "--nsa-decode-backend",
               "fa3",
               "--skip-server-warmup",
               "--quantization",
               "modelslim",
               "--disable-shared-experts-fusion",
               "--base-gpu-id",
               "0",
               "--load-balance-method",
               "round_robin",
               "--prefill-round-robin-balance",
               "--enable-dp-attention",
               "--enable-prefill-cp",
               "--cp-strategy",
               "interleave",
               "--moe-dense-tp-size",
               "1",
               "--enable-mixed-chunk",
               "--tokenizer-worker-num",
               "4",
               "--page-size",
               "64",
               "--device",
               "cpu",
               "--load-format",
               "auto",
               "--port",
               "0"},
              {"/nowhere/config.json"});
}

}  // namespace
}  // namespace causeway
