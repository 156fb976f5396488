// causeway up: prefill servers, decode servers and their router on this machine, each a process of
// its own, until a signal says stop. A part that dies is started again, where it was.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "app/blocked_signals.h"
#include "app/command.h"
#include "app/demo_model.h"
#include "app/program.h"
#include "base/log.h"
#include "net/http_client.h"

namespace causeway {
namespace {

constexpr int64_t kPollMs = 100;
// Before a part that has died is started again; doubled each time, up to a limit, and forgotten
// once it has lived for a while.
constexpr int64_t kFirstBackoffMs = 500;
constexpr int64_t kMostBackoffMs = 30'000;
constexpr int64_t kStableMs = 60'000;
constexpr int64_t kHealthMs = 5'000;

using Arguments = std::vector<std::string>;

struct UpFlags {
  std::string model_path;
  Arguments prefill;  // the flags of one server each
  Arguments decode;
  std::string router;
  std::string host = "127.0.0.1";
  int port = 30000;
  std::string log_dir;
  int64_t startup_timeout = 600;  // seconds
  int64_t stop_timeout = 40;
};

// The value of "key=" in the first line of a log that begins with this event.
std::string ValueIn(const std::string& log, const std::string& event, const std::string& key) {
  const size_t line = log.find("event=" + event + " ");
  const size_t end = log.find('\n', line);
  if (line == std::string::npos || end == std::string::npos) return "";  // or not all of it yet
  const std::string text = log.substr(line, end - line);
  const size_t at = text.find(" " + key + "=");
  if (at == std::string::npos) return "";
  const size_t begin = at + key.size() + 2;
  return text.substr(begin, text.find(' ', begin) - begin);
}

// One process. Ports that it has chosen at its first start are its ports from then on.
class Part {
 public:
  // `ready`: the event of its log that says it serves.
  Part(std::string name, const std::string& log_dir, Arguments arguments, std::string ready)
      : name_(std::move(name)),
        directory_(log_dir + "/" + name_),
        arguments_(std::move(arguments)),
        ready_(std::move(ready)) {}

  const std::string& name() const { return name_; }
  const std::string& url() const { return url_; }
  const std::string& bootstrap_port() const { return bootstrap_port_; }
  void Signal(int number) const {
    if (program_) program_->Signal(number);
  }
  // As Program::Wait; 0 where there is no process.
  int Wait(Deadline deadline) { return program_ ? program_->Wait(deadline) : 0; }

  Status Start() {
    std::error_code error;
    std::filesystem::create_directories(directory_, error);
    if (error) return Unavailable(Text("can't make ", directory_, ": ", error.message()));
    // The last words of one that has died are kept.
    std::filesystem::rename(directory_ + "/stderr", directory_ + "/stderr.before", error);
    Arguments arguments = arguments_;
    if (!url_.empty()) {
      arguments.push_back("--port");
      arguments.push_back(url_.substr(url_.rfind(':') + 1));
    }
    if (!bootstrap_port_.empty()) {
      arguments.push_back("--disaggregation-bootstrap-port");
      arguments.push_back(bootstrap_port_);
    }
    program_ = std::make_unique<Program>("/proc/self/exe", directory_, arguments);
    started_ = Deadline::Clock::now();
    return Status();
  }

  // Whether it serves by now; from then on its ports are known. An error if it has ended.
  StatusOr<bool> Serves() {
    if (!url_.empty()) return true;
    const int code = program_->Wait(Deadline::AfterMs(0));  // before its last words are read
    const std::string log = program_->Stderr();
    if (code >= 0) {
      return InternalError(Text(name_, " ended with exit code ", code, ": ", LastError(log)));
    }
    bootstrap_port_ = ValueIn(log, ready_, "bootstrap_port");
    url_ = ValueIn(log, ready_, "url");
    if (url_.empty()) return false;
    LogLine("part_serves").Add("name", name_).Add("url", url_);
    return true;
  }

  // Starts it again if it has died, not at once if that happens often.
  Status Tend() {
    const auto now = Deadline::Clock::now();
    if (program_) {
      const int code = program_->Wait(Deadline::AfterMs(0));
      if (code < 0) return Status();
      const bool stable = now - started_ > std::chrono::milliseconds(kStableMs);
      backoff_ms_ = stable ? kFirstBackoffMs : std::min(2 * backoff_ms_, kMostBackoffMs);
      restart_ = now + std::chrono::milliseconds(backoff_ms_);
      LogLine("part_died")
          .Add("name", name_)
          .Add("exit_code", code)
          .Add("error", LastError(program_->Stderr()))
          .Add("restart_in_ms", backoff_ms_);
      program_.reset();
    }
    if (now < restart_) return Status();
    LogLine("part_restarts").Add("name", name_);
    return Start();
  }

 private:
  // The last line of a log that may say why the program has ended, or the last two.
  static std::string LastError(const std::string& log) {
    const size_t at = log.rfind("error");
    if (at == std::string::npos) {
      size_t begin = log.size();
      for (int lines = 0; begin > 0 && (log[begin - 1] != '\n' || lines++ < 2);) --begin;
      return log.substr(begin);
    }
    const size_t begin = log.rfind('\n', at) + 1;
    return log.substr(begin, log.find('\n', at) - begin);
  }

  const std::string name_;
  const std::string directory_;
  const Arguments arguments_;
  const std::string ready_;
  std::string url_;
  std::string bootstrap_port_;
  std::unique_ptr<Program> program_;
  Deadline::Clock::time_point started_;
  Deadline::Clock::time_point restart_;
  int64_t backoff_ms_ = kFirstBackoffMs / 2;
};

// Words of a flag that holds flags; quotes keep blanks.
Arguments Words(const std::string& text) {
  Arguments out;
  for (std::string& word : CLI::detail::split_up(text)) out.push_back(std::move(word));
  return out;
}

Arguments ServeArguments(const UpFlags& flags, const std::string& mode, const std::string& own) {
  Arguments out = {"serve",
                   "--model-path",
                   flags.model_path,
                   "--host",
                   "127.0.0.1",
                   "--port",
                   "0",
                   "--disaggregation-mode",
                   mode};
  if (mode == "prefill") {
    out.insert(out.end(), {"--disaggregation-bootstrap-port", "0"});
  }
  for (std::string& word : Words(own)) out.push_back(std::move(word));
  return out;
}

// All at once, so that one that can't start is found before another has read its checkpoint. False
// if a signal has come.
StatusOr<bool> WaitUntilAllServe(const std::vector<std::unique_ptr<Part>>& parts,
                                 const BlockedSignals& signals, Deadline deadline) {
  for (;;) {
    std::string waits;
    for (const auto& part : parts) {
      CAUSEWAY_ASSIGN_OR_RETURN(const bool serves, part->Serves());
      if (!serves) waits += Text(waits.empty() ? "" : ", ", part->name());
    }
    if (waits.empty()) return true;
    if (deadline.Passed()) {
      return DeadlineExceeded(
          Text("not serving after --startup-timeout: ", waits, "; see PART/stderr in --log-dir"));
    }
    if (signals.Wait(kPollMs)) return false;
  }
}

// Until the router, the last part, finds its workers well. False if a signal has come.
StatusOr<bool> WaitForHealth(const std::vector<std::unique_ptr<Part>>& parts,
                             const BlockedSignals& signals, Deadline deadline) {
  const std::string& url = parts.back()->url();
  const size_t colon = url.rfind(':');
  std::string host = url.substr(7, colon - 7);  // behind "http://"
  if (host.starts_with("[")) host = host.substr(1, host.size() - 2);
  const int port = std::stoi(url.substr(colon + 1));
  for (;;) {
    for (const auto& part : parts) CAUSEWAY_RETURN_IF_ERROR(part->Tend());
    auto client = HttpClient::Connect(host, port, Deadline::AfterMs(kHealthMs));
    if (client.ok()) {
      const auto reply = client->Call("GET", "/health", "", Deadline::AfterMs(kHealthMs));
      if (reply.ok() && reply->status == 200) return true;
    }
    if (deadline.Passed()) return DeadlineExceeded(Text("no health at ", url, "/health"));
    if (signals.Wait(kPollMs)) return false;
  }
}

// Waits until a part has ended. A signal moves the deadline to now: who presses Ctrl-C again is
// tired of waiting.
void WaitForEnd(Part& part, const BlockedSignals& signals, Deadline& deadline) {
  while (part.Wait(Deadline::AfterMs(0)) < 0 && !deadline.Passed()) {
    if (signals.Wait(kPollMs)) deadline = Deadline::AfterMs(0);
  }
}

// The router first, so that nobody gets a request that the others can't finish.
void Stop(std::vector<std::unique_ptr<Part>>& parts, const BlockedSignals& signals,
          int64_t seconds) {
  Deadline deadline = Deadline::After(std::chrono::seconds(seconds));
  Part& router = *parts.back();
  router.Signal(SIGTERM);
  WaitForEnd(router, signals, deadline);
  for (const auto& part : parts) {
    if (part.get() != &router) part->Signal(SIGTERM);
  }
  for (const auto& part : parts) {
    WaitForEnd(*part, signals, deadline);
    if (part->Wait(Deadline::AfterMs(0)) < 0) LogLine("part_killed").Add("name", part->name());
  }
}

class TemporaryLogs {
 public:
  StatusOr<std::string> Make() {
    std::string path = (std::filesystem::temp_directory_path() / "causeway-up-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) {
      return Unavailable(Text("can't make a directory for logs: ", std::strerror(errno)));
    }
    path_ = path;
    return path;
  }
  ~TemporaryLogs() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }

 private:
  std::string path_;
};

Status RunParts(const UpFlags& flags, const std::string& log_dir) {
  const BlockedSignals signals;
  const Deadline deadline = Deadline::After(std::chrono::seconds(flags.startup_timeout));
  std::vector<std::unique_ptr<Part>> parts;
  const auto add = [&](std::string name, Arguments arguments, const char* ready) {
    parts.push_back(std::make_unique<Part>(std::move(name), log_dir, std::move(arguments), ready));
    return parts.back()->Start();
  };
  for (size_t i = 0; i < flags.prefill.size(); ++i) {
    CAUSEWAY_RETURN_IF_ERROR(
        add(Text("prefill-", i), ServeArguments(flags, "prefill", flags.prefill[i]), "serving"));
  }
  for (size_t i = 0; i < flags.decode.size(); ++i) {
    CAUSEWAY_RETURN_IF_ERROR(
        add(Text("decode-", i), ServeArguments(flags, "decode", flags.decode[i]), "serving"));
  }
  // A part that has died is back before long, so its circuit breaker is tried again soon.
  Arguments route = {"route",
                     "--pd-disaggregation",
                     "--host",
                     flags.host,
                     "--port",
                     std::to_string(flags.port),
                     "--cb-timeout-duration-secs",
                     "1"};
  CAUSEWAY_ASSIGN_OR_RETURN(bool runs, WaitUntilAllServe(parts, signals, deadline));
  if (!runs) return Status();
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool prefills = i < flags.prefill.size();
    route.insert(route.end(), {prefills ? "--prefill" : "--decode", parts[i]->url()});
    if (prefills) route.push_back(parts[i]->bootstrap_port());
  }
  for (std::string& word : Words(flags.router)) route.push_back(std::move(word));
  CAUSEWAY_RETURN_IF_ERROR(add("router", std::move(route), "routing"));
  Part& router = *parts.back();
  CAUSEWAY_ASSIGN_OR_RETURN(runs, WaitUntilAllServe(parts, signals, deadline));
  if (runs) {
    CAUSEWAY_ASSIGN_OR_RETURN(runs, WaitForHealth(parts, signals, deadline));
  }
  if (runs) {
    std::printf(
        "serving on %s until Ctrl-C; logs in %s; try\n\n"
        "  curl -s %s/v1/completions -H 'Content-Type: application/json' \\\n"
        "    -d '{\"prompt\": \"Question: How many eggs?\", \"max_tokens\": 16}'\n\n",
        router.url().c_str(), log_dir.c_str(), router.url().c_str());
    std::fflush(stdout);
    while (!signals.Wait(kPollMs)) {
      for (const auto& part : parts) CAUSEWAY_RETURN_IF_ERROR(part->Tend());
    }
  }
  LogLine("stopping");
  Stop(parts, signals, flags.stop_timeout);
  return Status();
}

Status RunUp(UpFlags flags) {
  if (flags.model_path.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(flags.model_path, MakeDemoModel(kDemoDirectory));
  }
  if (flags.prefill.empty()) flags.prefill = {""};
  if (flags.decode.empty()) flags.decode = {""};
  TemporaryLogs logs;
  std::string log_dir = flags.log_dir;
  if (log_dir.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(log_dir, logs.Make());
  }
  return RunParts(flags, log_dir);
}

}  // namespace

void AddUp(CLI::App& app, Run& run) {
  auto flags = std::make_shared<UpFlags>();
  CLI::App* command = app.add_subcommand(
      "up", "Serve with prefill servers, decode servers and a router on this machine");
  command->add_option("--model-path", flags->model_path,
                      Text("The checkpoint of all servers; default: the demo model in ",
                           kDemoDirectory, ", which is made if need be"));
  // One string each, also where it begins with a dash.
  command
      ->add_option("--prefill", flags->prefill,
                   "Flags of a prefill server, as one word: --prefill \"--tp 2 --cp-size 2\"; once "
                   "for each server; default: one without any")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command
      ->add_option("--decode", flags->decode,
                   "The same of a decode server; default: one without any")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--router", flags->router, "Flags of the router, as one word; default: none");
  command->add_option("--host", flags->host, "Address of the router")->capture_default_str();
  command->add_option("--port", flags->port, "Port of the router; 0: any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option(
      "--log-dir", flags->log_dir,
      "Where each part's output goes, as PART/stderr, and PART/stderr.before that of "
      "the one which was started before it; default: a temporary directory that is "
      "removed at the end");
  command->add_option("--startup-timeout", flags->startup_timeout, "Seconds for all to serve")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--stop-timeout", flags->stop_timeout,
                   "Seconds for all to end after SIGINT or SIGTERM; then, or at a second signal, "
                   "they are killed")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->callback([flags, &run] { run = [flags] { return RunUp(*flags); }; });
}

}  // namespace causeway
