// Hosts played by shell scripts: what is said of those that fail, and that none is waited for in
// vain.
#include "app/host_processes.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "app/program.h"
#include "base/check.h"
#include "checkpoint/temporary_directory.h"

namespace causeway {
namespace {

constexpr int64_t kTimeoutMs = 60'000;

class HostProcesses : public testing::Test {
 protected:
  // Each host is a shell that runs the script; $host is its number. Takes its time.
  Status Run(int hosts, const std::string& script, int64_t timeout_ms = kTimeoutMs) {
    const auto begin = std::chrono::steady_clock::now();
    // The flags of the host follow: the first is $0.
    const Status status =
        RunHosts("/bin/sh", hosts, {"-c", "host=$3; " + script}, files_.path(), timeout_ms);
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return status;
  }
  std::string Contents(const std::string& name) const {
    std::ifstream file(files_.File(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }

  TemporaryDirectory files_;
  double seconds_ = 0;
};

TEST_F(HostProcesses, EveryHostGetsItsNumberAndTheSameAddress) {
  const Status status = Run(4, "echo $0 $1 $2 $4 $5; echo $host >&2");
  EXPECT_TRUE(status.ok()) << status.message();
  const std::string first = Contents("host0/stdout");
  EXPECT_TRUE(first.starts_with("--nnodes 4 --node-rank --dist-init-addr 127.0.0.1:")) << first;
  for (int host = 0; host < 4; ++host) {
    EXPECT_EQ(Contents(Text("host", host, "/stdout")), first) << host;
    EXPECT_EQ(Contents(Text("host", host, "/stderr")), Text(host, "\n"));
  }
}

TEST_F(HostProcesses, AFailureNamesTheHostItsCodeAndItsLastLineAndEndsTheOthers) {
  const Status status =
      Run(2,
          "if [ $host = 1 ]; then echo first >&2; echo 'causeway: error: no luck' >&2; echo >&2; "
          "exit 3; fi; exec sleep 100");
  EXPECT_EQ(status.message(), "host 1 of 2: exit code 3: no luck");
  EXPECT_LT(seconds_, 20);
}

TEST_F(HostProcesses, AllHostsThatFailAreNamed) {
  const Status status = Run(2,
                            "if [ $host = 0 ]; then sleep 0.2; echo lost host 1 >&2; exit 1; fi;"
                            "kill -9 $$");
  EXPECT_EQ(status.message(),
            "host 0 of 2: exit code 1: lost host 1; host 1 of 2: died of signal 9");
}

TEST_F(HostProcesses, AHostThatDoesNotEndIsKilledAndNamedWithWhatItSaidLast) {
  const Status status = Run(2, "if [ $host = 1 ]; then echo half way >&2; exec sleep 100; fi", 300);
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(), "host 1 of 2: still runs after 0.3 s: half way");
  EXPECT_LT(seconds_, 20);
}

TEST_F(HostProcesses, WhatAnEarlierProgramHasLeftIsNotAProgramsOutput) {
  for (const char* name : {"stdout", "stderr"}) files_.Put(name, "old");
  Program program("/bin/sh", files_.path(), {"-c", "read line; echo new >&2"});
  EXPECT_EQ((program.Stdout() + program.Stderr()).find("old"), std::string::npos);
  EXPECT_EQ(program.Wait(Deadline::AfterMs(kTimeoutMs)), 0);
  EXPECT_EQ(program.Stdout(), "");
  EXPECT_EQ(program.Stderr(), "new\n");
}

TEST_F(HostProcesses, AProgramThatIsNotThereIsAnError) {
  const Status status = RunHosts("/nowhere/causeway", 2, {}, files_.path(), kTimeoutMs);
  EXPECT_EQ(status.message(),
            "host 0 of 2: exit code 127: the program can't be executed; "
            "host 1 of 2: exit code 127: the program can't be executed");
}

}  // namespace
}  // namespace causeway
