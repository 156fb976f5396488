// Where the time goes: zones per rank, kept as sums per operation and, if asked, as a
// Chrome/Perfetto trace with a lane per rank.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

// The zones of one rank. Used by that rank's thread only; read when no step runs.
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

  explicit TraceLane(bool keep_events = false) : keep_events_(keep_events) {}

  // Adds to the sum of `name`, and keeps the event if events are kept.
  void Record(const char* name, int32_t layer, int64_t begin_ns, int64_t end_ns);
  const std::vector<Sum>& sums() const { return sums_; }  // in order of first use
  const std::vector<Event>& events() const { return events_; }
  void Clear() {
    sums_.clear();
    events_.clear();
  }

 private:
  const bool keep_events_;
  std::vector<Sum> sums_;
  std::vector<Event> events_;
};

// Nanoseconds of the steady clock: comparable within one process only.
inline int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Records the time from construction to destruction. `name` must be a string literal.
class TraceZone {
 public:
  TraceZone(TraceLane& lane, const char* name, int32_t layer = -1)
      : lane_(lane), name_(name), layer_(layer), begin_ns_(NowNs()) {}
  ~TraceZone() { lane_.Record(name_, layer_, begin_ns_, NowNs()); }
  TraceZone(const TraceZone&) = delete;
  TraceZone& operator=(const TraceZone&) = delete;

 private:
  TraceLane& lane_;
  const char* name_;
  int32_t layer_;
  int64_t begin_ns_;
};

// Writes the lanes as Chrome trace JSON (load in ui.perfetto.dev); lane i is named "rank i".
Status WriteTrace(const std::string& path, const std::vector<const TraceLane*>& lanes);

}  // namespace causeway
