// Hosts as processes: this program starts itself once for each rank, over loopback. What a rank
// says comes back through a pipe.
//
//   gloo_hosts_test --host MODE RANK SIZE ADDRESS TOKEN TIMEOUT_MS    one rank
//   gloo_hosts_test --measure                                         prints speeds
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "base/check.h"
#include "net/socket.h"
#include "net/store.h"
#include "parallel/gloo_communicator.h"

namespace causeway {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// ---- One rank, in a process of its own.

// Every rank sends every other `bytes` that tell sender, receiver and round; the wrong ones
// counted.
class Rounds {
 public:
  Rounds(Communicator& comm, int64_t bytes) : comm_(comm), bytes_(bytes) {
    const size_t size = static_cast<size_t>(comm.size());
    out_.resize(size * static_cast<size_t>(bytes));
    in_.resize(out_.size());
    for (size_t peer = 0; peer < size; ++peer) {
      to_.push_back({out_.data() + peer * static_cast<size_t>(bytes), bytes});
      from_.push_back({in_.data() + peer * static_cast<size_t>(bytes), bytes});
    }
  }

  int64_t Run(int round) {
    for (int peer = 0; peer < comm_.size(); ++peer) Fill(out_, peer, comm_.rank(), peer, round);
    comm_.Exchange({"kv_exchange", round % 61}, to_, from_);
    int64_t wrong = 0;
    std::vector<char> expected(in_.size());
    for (int peer = 0; peer < comm_.size(); ++peer) Fill(expected, peer, peer, comm_.rank(), round);
    for (size_t i = 0; i < in_.size(); ++i) wrong += in_[i] != expected[i];
    return wrong;
  }

  void Exchange() { comm_.Exchange({"measure"}, to_, from_); }

 private:
  void Fill(std::vector<char>& memory, int slot, int sender, int receiver, int round) const {
    char* const to = memory.data() + slot * bytes_;
    for (int64_t i = 0; i < bytes_; ++i) {
      to[i] = static_cast<char>(sender * 37 + receiver * 11 + round * 5 + i % 253);
    }
  }

  Communicator& comm_;
  const int64_t bytes_;
  std::vector<char> out_, in_;
  std::vector<Outgoing> to_;
  std::vector<Incoming> from_;
};

int Values(Communicator& comm) {
  int64_t wrong = 0;
  for (const int64_t bytes : {0, 1, 1000, 20'000, 3'000'001}) {
    Rounds rounds(comm, bytes);
    for (int round = 0; round < 8; ++round) {
      wrong += rounds.Run(round);
      comm.Barrier({"between", round});
    }
  }
  std::printf("wrong bytes: %ld\n", static_cast<long>(wrong));
  return wrong == 0 ? 0 : 1;
}

// Until something fails.
int Forever(Communicator& comm) {
  Rounds small(comm, 5000);
  Rounds large(comm, 1'500'000);
  std::printf("ready\n");
  std::fflush(stdout);
  for (int round = 0;; ++round) {
    const int64_t wrong = (round % 2 == 0 ? small : large).Run(round);
    if (wrong > 0) std::printf("wrong bytes: %ld\n", static_cast<long>(wrong));
    comm.Barrier({"between", round});
  }
}

int Measure(Communicator& comm) {
  struct Seconds {
    double best;
    double median;
  };
  const auto time = [&](size_t times, const auto& body) {
    std::vector<double> seconds(times);
    for (double& each : seconds) {
      comm.Barrier({"start"});
      const auto begin = Clock::now();
      body();
      each = SecondsSince(begin);
    }
    std::sort(seconds.begin(), seconds.end());
    return Seconds{seconds.front(), seconds[times / 2]};
  };
  const bool tells = comm.rank() == 0;
  const auto [best, median] = time(2000, [&] { comm.Barrier({"measure"}); });
  if (tells) {
    std::printf("%d hosts: barrier: best %.1f us, median %.1f us\n", comm.size(), best * 1e6,
                median * 1e6);
  }
  for (const int64_t bytes : {1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 32 << 20}) {
    Rounds rounds(comm, bytes);
    const size_t times = bytes <= (1 << 20) ? 300 : static_cast<size_t>((256 << 20) / bytes);
    const auto exchange = time(times, [&] { rounds.Exchange(); });
    const double sent = 1e-6 * static_cast<double>(bytes * (comm.size() - 1));
    if (tells) {
      std::printf(
          "%d hosts: exchange of %8ld bytes with each: best %8.1f us, %5.0f MB/s; "
          "median %8.1f us, %5.0f MB/s each way\n",
          comm.size(), static_cast<long>(bytes), exchange.best * 1e6, sent / exchange.best,
          exchange.median * 1e6, sent / exchange.median);
    }
  }
  return 0;
}

int RunHost(const std::string& mode, const GlooOptions& options) {
  const auto begin = Clock::now();
  auto comm = MakeGlooCommunicator(options);
  if (!comm.ok()) {
    std::printf("no group after %.2f s: %s\n", SecondsSince(begin),
                comm.status().message().c_str());
    return 2;
  }
  auto step = Clock::now();
  try {
    if (mode == "values") return Values(**comm);
    if (mode == "forever") return Forever(**comm);
    if (mode == "measure") return Measure(**comm);
    if (mode == "idle") {  // a failure that has nothing to do with a collective, at rank 1
      (*comm)->Barrier({"start"});
      if (options.rank == 1) throw StepFailed("rank 1: out of pages");
      (*comm)->Barrier({"idle"});
    }
  } catch (const StepFailed& failure) {
    std::printf("failed: %s\n", failure.what());
    std::fflush(stdout);
    (*comm)->Abort(failure.what());  // as RankWorker does
    return 3;
  }
  std::printf("unknown mode after %.1f s\n", SecondsSince(step));
  return 4;
}

// ---- The processes, seen from the test.

class Host {
 public:
  Host(const std::string& mode, int rank, int size, const std::string& address,
       const std::string& token, int64_t timeout_ms) {
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0, errno);
    const std::vector<std::string> words = {"/proc/self/exe", "--host", mode,  Text(rank),
                                            Text(size),       address,  token, Text(timeout_ms)};
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_ = fork();
    CHECK(pid_ >= 0, errno);
    if (pid_ == 0) {  // nothing but system calls until the program begins anew
      dup2(ends[1], STDOUT_FILENO);
      execv(arguments[0], arguments.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = Socket(ends[0]);
  }
  Host(Host&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)),
        output_(std::move(other.output_)),
        text_(std::move(other.text_)) {}
  ~Host() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  void Signal(int signal) const { kill(pid_, signal); }

  // Reads until `what` was said (or the output's end where it is empty); false after 60 s.
  bool ReadUntil(const std::string& what) {
    const Deadline deadline = Deadline::AfterMs(60'000);
    while (what.empty() || text_.find(what) == std::string::npos) {
      pollfd entry{output_.fd(), POLLIN, 0};
      if (poll(&entry, 1, static_cast<int>(deadline.RemainingMs())) <= 0) return false;
      char chunk[4096];
      const ssize_t got = read(output_.fd(), chunk, sizeof chunk);
      if (got <= 0) return what.empty();
      text_.append(chunk, static_cast<size_t>(got));
    }
    return true;
  }

  // Its exit code, or -1 where it hung or a signal ended it. Its whole output in text().
  int Finish() {
    if (!ReadUntil("")) return -1;
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  const std::string& text() const { return text_; }

 private:
  pid_t pid_ = -1;
  Socket output_;
  std::string text_;
};

std::string FreeAddress() {
  auto listener = ListenAt("127.0.0.1:0");
  CHECK(listener.ok(), listener.status().message());
  return Text("127.0.0.1:", PortOf(*listener));
}

std::vector<Host> Start(const std::string& mode, int size, int64_t timeout_ms) {
  const std::string address = FreeAddress();
  std::vector<Host> hosts;
  for (int rank = 0; rank < size; ++rank) {
    hosts.emplace_back(mode, rank, size, address, "token", timeout_ms);
  }
  return hosts;
}

class GlooHostsTest : public testing::TestWithParam<int> {};

TEST_P(GlooHostsTest, MeetAndExchangeEveryByte) {
  for (Host& host : Start("values", GetParam(), 60'000)) {
    EXPECT_EQ(host.Finish(), 0);
    EXPECT_EQ(host.text(), "wrong bytes: 0\n");
  }
}

TEST_P(GlooHostsTest, AHostThatIsKilledIsNamedByAllOthersLongBeforeTheTimeOut) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(Text("seed ", seed));
  std::mt19937 random(seed);
  for (int repeat = 0; repeat < 6; ++repeat) {
    std::vector<Host> hosts = Start("forever", GetParam(), 30'000);
    for (Host& host : hosts) ASSERT_TRUE(host.ReadUntil("ready")) << host.text();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
    const size_t victim = random() % hosts.size();
    hosts[victim].Signal(SIGKILL);
    const auto begin = Clock::now();
    for (size_t rank = 0; rank < hosts.size(); ++rank) {
      if (rank == victim) continue;
      EXPECT_EQ(hosts[rank].Finish(), 3) << hosts[rank].text();
      EXPECT_NE(hosts[rank].text().find(Text("lost rank ", victim)), std::string::npos)
          << hosts[rank].text();
    }
    EXPECT_LT(SecondsSince(begin), 15.0);
  }
}

TEST_P(GlooHostsTest, AHostThatStallsIsNamedAtTheDeadline) {
  constexpr int64_t kTimeoutMs = 700;
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(Text("seed ", seed));
  std::mt19937 random(seed);
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::vector<Host> hosts = Start("forever", GetParam(), kTimeoutMs);
    for (Host& host : hosts) ASSERT_TRUE(host.ReadUntil("ready")) << host.text();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
    const size_t victim = random() % hosts.size();
    hosts[victim].Signal(SIGSTOP);
    const auto begin = Clock::now();
    for (size_t rank = 0; rank < hosts.size(); ++rank) {
      if (rank == victim) continue;
      EXPECT_EQ(hosts[rank].Finish(), 3) << hosts[rank].text();
      EXPECT_NE(hosts[rank].text().find("passed its deadline"), std::string::npos)
          << hosts[rank].text();
      EXPECT_TRUE(hosts[rank].text().find(Text("rank ", victim)) != std::string::npos ||
                  hosts[rank].text().find(Text(", ", victim)) != std::string::npos)
          << hosts[rank].text();
    }
    EXPECT_GE(SecondsSince(begin), 1e-3 * kTimeoutMs - 0.1);
    EXPECT_LT(SecondsSince(begin), 15.0);
  }
}

TEST_P(GlooHostsTest, AFailureOnOneHostReachesTheOthersWithItsReason) {
  std::vector<Host> hosts = Start("idle", GetParam(), 30'000);
  for (Host& host : hosts) {
    EXPECT_EQ(host.Finish(), 3);
    EXPECT_NE(host.text().find("rank 1: out of pages"), std::string::npos) << host.text();
  }
}

INSTANTIATE_TEST_SUITE_P(Hosts, GlooHostsTest, testing::Values(2, 4));

// ---- Meeting.

GlooOptions Options(int rank, int size, const std::string& address) {
  GlooOptions options;
  options.rank = rank;
  options.size = size;
  options.init_addr = address;
  options.token = "token";
  options.rendezvous_timeout_ms = 20'000;
  options.timeout_ms = 20'000;
  return options;
}

// Makes all ends at once in threads of this process; each one's error, empty where it met the rest.
std::vector<std::string> Meet(const std::vector<GlooOptions>& all) {
  std::vector<std::string> errors(all.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < all.size(); ++i) {
    threads.emplace_back([&, i] { errors[i] = MakeGlooCommunicator(all[i]).status().message(); });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

TEST(GlooRendezvous, RanksThatDoNotComeAreNamedAtTheDeadline) {
  const std::string address = FreeAddress();
  std::vector<GlooOptions> all = {Options(0, 4, address), Options(2, 4, address)};
  for (GlooOptions& each : all) each.rendezvous_timeout_ms = 400;
  const auto begin = Clock::now();
  const auto errors = Meet(all);
  EXPECT_LT(SecondsSince(begin), 10.0);
  EXPECT_TRUE(
      errors[0].starts_with(Text("--dist-init-addr ", address, ": rank 0 of 4: waited 0.4 s")))
      << errors[0];
  EXPECT_NE(errors[0].find("for rank 1, 3, which did not join"), std::string::npos) << errors[0];
  EXPECT_NE(errors[1], "");
}

TEST(GlooRendezvous, WithoutRankZeroTheOthersSayThatNothingIsThere) {
  GlooOptions options = Options(1, 2, FreeAddress());
  options.rendezvous_timeout_ms = 300;
  const std::string error = Meet({options})[0];
  EXPECT_NE(error.find("for rank 0, which serves there once it is started"), std::string::npos)
      << error;
  EXPECT_NE(error.find("Connection refused"), std::string::npos) << error;
}

TEST(GlooRendezvous, AStrangerWithAWrongTokenIsToldSoAndTheRightOnesStillMeet) {
  const std::string address = FreeAddress();
  GlooOptions stranger = Options(1, 2, address);
  stranger.token = "guess";
  std::thread first([&] { EXPECT_EQ(Meet({Options(0, 2, address)})[0], ""); });
  const std::string error = Meet({stranger})[0];
  EXPECT_EQ(error,
            Text("--dist-init-addr ", address, ": rank 1 of 2: the token is not this server's"));
  EXPECT_EQ(Meet({Options(1, 2, address)})[0], "");
  first.join();
}

TEST(GlooRendezvous, RanksThatWereStartedDifferentlySayBothValues) {
  struct Case {
    void (*change)(GlooOptions&);
    const char* theirs;  // rank 0's, as rank 1 says it
    const char* ours;
  };
  for (const Case& each :
       {Case{[](GlooOptions& o) { o.size = 3; }, "a number of hosts of 2", "3"},
        Case{[](GlooOptions& o) { o.version = "9.9"; }, "Causeway " CAUSEWAY_VERSION, "9.9"},
        Case{[](GlooOptions& o) { o.config = "cp=8\ntp=1"; }, "flags or model cp=4\ntp=2",
             "cp=8\ntp=1"}}) {
    const std::string address = FreeAddress();
    std::vector<GlooOptions> all = {Options(0, 2, address), Options(1, 2, address)};
    for (GlooOptions& options : all) options.config = "cp=4\ntp=2";
    each.change(all[1]);
    const auto errors = Meet(all);
    EXPECT_NE(errors[0].find("rank 1 was started with"), std::string::npos) << errors[0];
    EXPECT_NE(errors[1].find(Text("rank 0 was started with ", each.theirs, ", this rank with ",
                                  each.ours, "; expected the same")),
              std::string::npos)
        << errors[1];
  }
}

TEST(GlooRendezvous, WrongOptionsAreNamed) {
  const std::string address = FreeAddress();
  EXPECT_NE(Meet({Options(2, 2, address)})[0].find("found rank 2 of 2 hosts"), std::string::npos);
  EXPECT_NE(Meet({Options(0, 2, "nowhere")})[0].find("expected HOST:PORT"), std::string::npos);
  EXPECT_NE(Meet({Options(0, 2, "0.0.0.0:1")})[0].find("as the others reach it"),
            std::string::npos);
  EXPECT_NE(Meet({Options(0, 2, "192.0.2.1:9")})[0].find("can't listen at 192.0.2.1:9"),
            std::string::npos);
  std::vector<GlooOptions> all = {Options(0, 2, address), Options(1, 2, address)};
  for (GlooOptions& each : all) each.interface = "nonet7";
  for (const std::string& error : Meet(all)) {
    EXPECT_NE(error.find("no network 'nonet7'"), std::string::npos) << error;
  }
}

TEST(GlooRendezvous, TheNetworkMayBeGivenByNameOrAddress) {
  for (const char* interface : {"lo", "127.0.0.1"}) {
    const std::string address = FreeAddress();
    std::vector<GlooOptions> all = {Options(0, 2, address), Options(1, 2, address)};
    for (GlooOptions& each : all) each.interface = interface;
    for (const std::string& error : Meet(all)) EXPECT_EQ(error, "");
  }
}

TEST(GlooRendezvous, AHostAloneNeedsNoAddress) {
  auto alone = MakeGlooCommunicator(GlooOptions());
  ASSERT_TRUE(alone.ok());
  char from = 'x';
  char to = 'y';
  (*alone)->Barrier({"alone"});
  (*alone)->Exchange({"alone"}, std::vector<Outgoing>{{&from, 1}}, std::vector<Incoming>{{&to, 1}});
  EXPECT_EQ(to, 'x');
}

}  // namespace
}  // namespace causeway

int main(int argc, char** argv) {
  using namespace causeway;
  if (argc == 8 && std::strcmp(argv[1], "--host") == 0) {
    GlooOptions options = Options(std::atoi(argv[3]), std::atoi(argv[4]), argv[5]);
    options.token = argv[6];
    options.timeout_ms = std::atoll(argv[7]);
    return RunHost(argv[2], options);
  }
  if (argc == 2 && std::strcmp(argv[1], "--measure") == 0) {
    for (const int size : {2, 4}) {
      for (Host& host : Start("measure", size, 60'000)) {
        if (host.Finish() != 0) std::printf("failed\n");
        std::printf("%s", host.text().c_str());
      }
    }
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
