#include "engine/profiler.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "base/log.h"

namespace causeway {
namespace {

// Events of all lanes together, after which a profile that nobody stops ends: 128 MB of memory.
constexpr size_t kMostEvents = 4'000'000;

// A name that no other profile has.
std::string NewPath(const ProfileOptions& options) {
  static std::atomic<int64_t> count{0};
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  return Text(options.output_dir, "/", options.prefix, options.prefix.empty() ? "" : "-",
              "causeway-", ms, "-", getpid(), "-", count.fetch_add(1), ".trace.json");
}

}  // namespace

Profiler::~Profiler() {
  if (profile_.has_value()) Stop({});
  if (writer_.joinable()) writer_.join();
}

void Profiler::Start(const ProfileOptions& options, const ProfileReply& reply) {
  if (profile_.has_value()) {
    return reply(InvalidArgument(Text("a profile is under way, to be written to ", profile_->path,
                                      "; /stop_profile ends it")));
  }
  if (writing_.load()) return reply(Unavailable("the last profile is still being written"));
  std::error_code error;
  std::filesystem::create_directories(options.output_dir, error);
  // Now, and not after the steps: a folder that can't be written is the client's to know.
  if (access(options.output_dir.c_str(), W_OK | X_OK) != 0) {
    return reply(InvalidArgument(
        Text("output_dir ", options.output_dir, " is no folder that the server can write")));
  }
  profile_ = {.options = options, .path = NewPath(options)};
  LogLine("profile_started").Add("path", profile_->path);
  reply(profile_->path);
}

void Profiler::StepBegins() {
  const int64_t step = step_++;
  if (!profile_.has_value() || profile_->begin_ns != 0 || step < profile_->options.start_step) {
    return;
  }
  profile_->begin_ns = NowNs();
  profile_->events_before = Events();  // of --trace
  lane_.KeepEvents(true);
  ranks_.KeepEvents(true);
}

void Profiler::StepEnded() {
  if (!profile_.has_value() || profile_->begin_ns == 0) return;
  ++profile_->steps;
  if (profile_->steps == profile_->options.num_steps ||
      Events() - profile_->events_before >= kMostEvents) {
    Stop({});
  }
}

size_t Profiler::Events() const {
  size_t events = lane_.events().size();
  for (const TraceLane* lane : ranks_.lanes()) events += lane->events().size();
  return events;
}

void Profiler::Stop(ProfileReply reply) {
  if (!profile_.has_value()) {
    if (reply) reply(InvalidArgument("no profile is under way; /start_profile begins one"));
    return;
  }
  if (writer_.joinable()) writer_.join();  // it has ended: Start has seen to that
  std::vector<TraceTrack> tracks;
  // A profile that no step was in has no events, but its file is there.
  if (profile_->begin_ns != 0) tracks = ranks_.TakeEvents(profile_->begin_ns);
  tracks.push_back({"engine", lane_.events()});
  lane_.ClearEvents();
  lane_.KeepEvents(false);
  writing_.store(true);
  writer_ = std::thread([this, tracks = std::move(tracks), path = profile_->path,
                         steps = profile_->steps, reply = std::move(reply)] {
    const Status status = WriteTracks(path, tracks);
    LogLine line("profile_written");
    line.Add("path", path).Add("steps", steps);
    if (!status.ok()) line.Add("error", status.message());
    writing_.store(false);
    if (!reply) return;
    reply(status.ok() ? StatusOr<std::string>(path) : StatusOr<std::string>(status));
  });
  profile_.reset();
}

}  // namespace causeway
