#include "base/trace.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>

namespace causeway {

void TraceLane::Record(const char* name, int32_t layer, int64_t begin_ns, int64_t end_ns) {
  // One literal may lie at several addresses, one for each source file that uses it.
  auto sum = std::find_if(sums_.begin(), sums_.end(), [&](const Sum& s) {
    return s.name == name || std::strcmp(s.name, name) == 0;
  });
  if (sum == sums_.end()) sum = sums_.insert(sums_.end(), Sum{name});
  sum->ns += end_ns - begin_ns;
  ++sum->calls;
  if (keep_events_) events_.push_back({name, layer, begin_ns, end_ns});
}

TraceLane::Now TraceLane::now() const {
  return {.name = name_.load(std::memory_order_relaxed),
          .layer = layer_.load(std::memory_order_relaxed),
          .inside = inside_.load(std::memory_order_relaxed),
          .since_ns = since_ns_.load(std::memory_order_relaxed)};
}

TraceLane::Now TraceLane::Set(const Now& now) {
  const Now before = this->now();
  name_.store(now.name, std::memory_order_relaxed);
  layer_.store(now.layer, std::memory_order_relaxed);
  inside_.store(now.inside, std::memory_order_relaxed);
  since_ns_.store(now.since_ns, std::memory_order_relaxed);
  return before;
}

namespace {

// A track of a file, wherever its events are.
struct TrackView {
  std::string name;
  const std::vector<TraceLane::Event>* events;
};

// False if the file takes no more.
bool Write(std::FILE* file, const std::vector<TrackView>& tracks) {
  // Times begin at 0 with the first event of any track; the clock's own origin means nothing.
  int64_t origin = std::numeric_limits<int64_t>::max();
  for (const TrackView& track : tracks) {
    for (const TraceLane::Event& e : *track.events) origin = std::min(origin, e.begin_ns);
  }
  std::fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[", file);
  const char* separator = "\n";  // between events: a track's name is one too
  for (size_t i = 0; i < tracks.size(); ++i) {
    std::fprintf(file,
                 "%s{\"ph\":\"M\",\"pid\":0,\"tid\":%zu,\"name\":\"thread_name\","
                 "\"args\":{\"name\":\"%s\"}}",
                 separator, i, tracks[i].name.c_str());
    separator = ",\n";
    for (const TraceLane::Event& e : *tracks[i].events) {
      // "ts" and "dur" are in microseconds.
      std::fprintf(file,
                   ",\n{\"ph\":\"X\",\"pid\":0,\"tid\":%zu,\"name\":\"%s\",\"ts\":%.3f,"
                   "\"dur\":%.3f,\"args\":{\"layer\":%d}}",
                   i, e.name, static_cast<double>(e.begin_ns - origin) * 1e-3,
                   static_cast<double>(e.end_ns - e.begin_ns) * 1e-3, e.layer);
    }
  }
  std::fputs("\n]}\n", file);
  std::fflush(file);  // a full disk shows here at the latest
  return std::ferror(file) == 0;
}

}  // namespace

Status WriteTrace(const std::string& path, const std::vector<const TraceLane*>& lanes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "w"),
                                                             &std::fclose);
  std::vector<TrackView> tracks;
  for (size_t rank = 0; rank < lanes.size(); ++rank) {
    tracks.push_back({Text("rank ", rank), &lanes[rank]->events()});
  }
  if (file == nullptr || !Write(file.get(), tracks)) {
    return InvalidArgument(Text("--trace: can't write ", path));
  }
  return Status();
}

Status WriteTracks(const std::string& path, const std::vector<TraceTrack>& tracks) {
  // x: what others put there, a link for example, is not written through.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wx"),
                                                             &std::fclose);
  std::vector<TrackView> views;
  for (const TraceTrack& track : tracks) views.push_back({track.name, &track.events});
  if (file == nullptr || !Write(file.get(), views)) {
    return InvalidArgument(Text("can't write ", path, ": ", std::strerror(errno)));
  }
  return Status();
}

}  // namespace causeway
