// The hosts of a server as processes on loopback. All are watched together: when one fails, the
// others get a short time to say what they saw, and are then killed.
#include "app/host_processes.h"

#include <chrono>
#include <filesystem>
#include <memory>
#include <thread>

#include "app/program.h"
#include "base/deadline.h"
#include "net/socket.h"

namespace causeway {
namespace {

// How long hosts get to say that they have lost one.
constexpr int64_t kGraceMs = 2000;

// The last line that is not empty, without what main puts before a message.
std::string LastLine(std::string text) {
  const size_t end = text.find_last_not_of('\n');
  text.resize(end == std::string::npos ? 0 : end + 1);
  const size_t newline = text.rfind('\n');
  if (newline != std::string::npos) text.erase(0, newline + 1);
  const std::string prefix = "causeway: error: ";
  if (text.starts_with(prefix)) text.erase(0, prefix.size());
  return text;
}

std::string EndOf(int code, const std::string& line) {
  const std::string how =
      code > 128 ? Text("died of signal ", code - 128) : Text("exit code ", code);
  return line.empty() ? how : Text(how, ": ", line);
}

}  // namespace

StatusOr<std::string> FreeLoopbackAddress() {
  CAUSEWAY_ASSIGN_OR_RETURN(const Socket socket, ListenAt("127.0.0.1:0"));
  return Text("127.0.0.1:", PortOf(socket));
}

std::vector<std::string> HostFlags(int hosts, int host, const std::string& address) {
  return {"--nnodes",           std::to_string(hosts), "--node-rank",
          std::to_string(host), "--dist-init-addr",    address};
}

Status RunHosts(const std::string& program, int hosts, const std::vector<std::string>& arguments,
                const std::string& directory, int64_t timeout_ms) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string address, FreeLoopbackAddress());
  Deadline deadline = Deadline::AfterMs(timeout_ms);
  std::vector<std::unique_ptr<Program>> running;  // its end kills those that still run
  for (int host = 0; host < hosts; ++host) {
    const std::string files = Text(directory, "/host", host);
    std::filesystem::create_directories(files);
    std::vector<std::string> all = arguments;
    for (std::string& flag : HostFlags(hosts, host, address)) all.push_back(std::move(flag));
    running.push_back(std::make_unique<Program>(program, files, std::move(all)));
  }

  // -1: still runs.
  std::vector<int> codes(running.size(), -1);
  bool failed = false;
  for (;;) {
    bool all_ended = true;
    bool first_failure = false;
    for (size_t host = 0; host < running.size(); ++host) {
      codes[host] = running[host]->Wait(Deadline::AfterMs(0));
      all_ended = all_ended && codes[host] >= 0;
      first_failure = first_failure || (codes[host] > 0 && !failed);
    }
    if (all_ended) break;
    if (first_failure) {
      failed = true;
      if (deadline.RemainingMs() > kGraceMs) deadline = Deadline::AfterMs(kGraceMs);
    }
    if (deadline.Passed()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }

  std::string errors;
  const auto add = [&](size_t host, const std::string& what) {
    errors += Text(errors.empty() ? "" : "; ", "host ", host, " of ", hosts, ": ", what);
  };
  // After a failure, those that still ran were only waiting: they have nothing to say.
  for (size_t host = 0; host < running.size(); ++host) {
    if (codes[host] > 0) {
      add(host, EndOf(codes[host], LastLine(running[host]->Stderr())));
    } else if (codes[host] < 0 && !failed) {
      const std::string line = LastLine(running[host]->Stderr());
      add(host, Text("still runs after ", 1e-3 * static_cast<double>(timeout_ms), " s",
                     line.empty() ? "" : ": ", line));
    }
  }
  if (errors.empty()) return Status();
  return failed ? InternalError(errors) : DeadlineExceeded(errors);
}

}  // namespace causeway
