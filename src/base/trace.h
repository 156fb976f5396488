// Where the time goes: zones per rank, kept as sums per operation and, if asked, as a
// Chrome/Perfetto trace with a lane per rank.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

// Nanoseconds of the steady clock: comparable within one process only.
inline int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The zones of one rank. Used by that rank's thread only; read when no step runs, but for now().
class TraceLane {
 public:
  struct Event {
    const char* name;  // a string literal
    int32_t layer;     // -1 outside layers
    int64_t begin_ns;  // steady clock
    int64_t end_ns;
  };
  struct Sum {
    const char* name;
    int64_t ns = 0;
    int64_t calls = 0;
  };

  // What the rank does at a moment.
  struct Now {
    const char* name = nullptr;  // null: nothing so far
    int32_t layer = -1;
    bool inside = false;   // else the zone of that name was the last one, and has ended
    int64_t since_ns = 0;  // when it began, or ended
  };

  explicit TraceLane(bool keep_events = false) : keep_events_(keep_events) {}

  // From now on; sums are kept in any case.
  void KeepEvents(bool keep) { keep_events_ = keep; }
  // From any thread; where the rank moves on meanwhile, parts of it may be of the next zone.
  Now now() const;

  // Adds to the sum of `name`, and keeps the event if events are kept.
  void Record(const char* name, int32_t layer, int64_t begin_ns, int64_t end_ns);
  const std::vector<Sum>& sums() const { return sums_; }  // in order of first use
  const std::vector<Event>& events() const { return events_; }
  void Clear() {
    sums_.clear();
    events_.clear();
  }
  void ClearEvents() { events_ = {}; }

 private:
  friend class TraceZone;
  // Says what now() is, and returns what it was.
  Now Set(const Now& now);

  bool keep_events_;
  std::vector<Sum> sums_;
  std::vector<Event> events_;
  // Now, part by part.
  std::atomic<const char*> name_{nullptr};
  std::atomic<int32_t> layer_{-1};
  std::atomic<bool> inside_{false};
  std::atomic<int64_t> since_ns_{0};
};

// Records the time from construction to destruction. `name` must be a string literal.
class TraceZone {
 public:
  TraceZone(TraceLane& lane, const char* name, int32_t layer = -1)
      : lane_(lane),
        name_(name),
        layer_(layer),
        begin_ns_(NowNs()),
        outer_(lane.Set({name, layer, true, begin_ns_})) {}
  ~TraceZone() {
    const int64_t end_ns = NowNs();
    lane_.Record(name_, layer_, begin_ns_, end_ns);
    lane_.Set(outer_.inside ? outer_ : TraceLane::Now{name_, layer_, false, end_ns});
  }
  TraceZone(const TraceZone&) = delete;
  TraceZone& operator=(const TraceZone&) = delete;

 private:
  TraceLane& lane_;
  const char* name_;
  int32_t layer_;
  int64_t begin_ns_;
  TraceLane::Now outer_;
};

// A lane of a trace file.
struct TraceTrack {
  std::string name;
  std::vector<TraceLane::Event> events;
};

// Writes a new file of Chrome trace JSON; an error says why it can't.
Status WriteTracks(const std::string& path, const std::vector<TraceTrack>& tracks);

// Writes the lanes as Chrome trace JSON (load in ui.perfetto.dev); lane i is named "rank i".
Status WriteTrace(const std::string& path, const std::vector<const TraceLane*>& lanes);

}  // namespace causeway
