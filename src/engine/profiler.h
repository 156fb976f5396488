// The profile of some steps: what each rank and the engine did when, as a Perfetto trace.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <thread>

#include "base/trace.h"
#include "engine/rank_group.h"
#include "engine/request.h"

namespace causeway {

// Used by the engine thread, between steps. Files are written by a thread of their own: a large one
// must not hold up the next step.
class Profiler {
 public:
  // `ranks` must outlive this.
  explicit Profiler(RankGroup& ranks) : ranks_(ranks) {}
  // Writes the profile that is under way, and waits until its file is there.
  ~Profiler();

  // What the engine thread itself does.
  TraceLane& lane() { return lane_; }

  void Start(const ProfileOptions& options, const ProfileReply& reply);
  // Ends the profile, and replies when it is written.
  void Stop(ProfileReply reply);
  // Before and after each step: begins and ends what Start has asked for.
  void StepBegins();
  void StepEnded();

 private:
  struct Profile {
    ProfileOptions options;
    std::string path;
    int64_t begin_ns = 0;  // 0: start_step has not come
    int64_t steps = 0;     // in it so far
    size_t events_before = 0;
  };

  size_t Events() const;  // that are kept, of all lanes

  RankGroup& ranks_;
  TraceLane lane_;
  int64_t step_ = 0;  // how many have begun
  std::optional<Profile> profile_;
  std::atomic<bool> writing_{false};
  std::thread writer_;
};

}  // namespace causeway
