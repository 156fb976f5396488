// How many requests may be under way, how fast they may begin, and who waits for it.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <vector>

#include "base/deadline.h"

namespace causeway {

struct GateOptions {
  int64_t max_concurrent = -1;  // at most 0: no limit
  int64_t queue_size = 100;     // 0: none waits
  int64_t queue_timeout_ms = 60'000;
  // Requests that may begin in a second, in the mean; a burst may have as many, or as
  // max_concurrent if that is more. 0: no limit.
  int64_t tokens_per_second = 0;
};

// The time is the caller's.
class RequestGate {
 public:
  using Time = Deadline::Clock::time_point;
  enum class Verdict { kGo, kWait, kFull };

  RequestGate(const GateOptions& options, Time now);

  // kGo: the request is under way, until Leave. kWait: it waits by its number, which is one that
  // nobody else waits by.
  Verdict Enter(uint64_t number, Time now);
  void Leave();
  // Gives up a place in the queue; false if the request does not wait.
  bool GiveUp(uint64_t number);

  // Those that waited and are under way now, in the order in which they came.
  std::vector<uint64_t> Admit(Time now);
  // Those that have waited for too long; they wait no more.
  std::vector<uint64_t> Expire(Time now);

  int64_t running() const { return running_; }
  int64_t waiting() const { return static_cast<int64_t>(queue_.size()); }

 private:
  // Takes a place and a token if there are.
  bool Take(Time now);

  struct Waiting {
    uint64_t number;
    Time since;
  };
  const GateOptions options_;
  int64_t running_ = 0;
  double tokens_ = 0;
  double most_tokens_ = 0;
  Time filled_at_;
  std::list<Waiting> queue_;
};

}  // namespace causeway
