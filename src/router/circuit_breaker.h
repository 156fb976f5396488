// Keeps requests away from a worker that fails them.
//
//   closed --(failures in a row, within the window)--> open --(time)--> half-open
//   half-open --(successes in a row)--> closed,  half-open --(a failure)--> open
#pragma once

#include <cstdint>
#include <deque>

#include "base/deadline.h"

namespace causeway {

struct BreakerOptions {
  int failure_threshold = 5;
  int success_threshold = 2;
  int64_t timeout_ms = 30'000;  // from open to half-open
  int64_t window_ms = 60'000;   // older failures are forgotten
  bool disabled = false;
};

// Every request that Allows let pass must Begin and then end in one of the other three. The time is
// the caller's.
class CircuitBreaker {
 public:
  enum class State { kClosed = 0, kOpen = 1, kHalfOpen = 2 };
  using Time = Deadline::Clock::time_point;

  explicit CircuitBreaker(const BreakerOptions& options) : options_(options) {}

  State state(Time now) const;
  // Whether one more request may be sent. Half-open, only as many at once as successes are needed.
  bool Allows(Time now) const;
  void Begin(Time now);
  void Succeeded(Time now);
  void Failed(Time now);
  // It says nothing about the worker: the client went away, or the other half of a pair failed.
  void Dropped();

  int failures() const { return static_cast<int>(failures_.size()); }  // in a row
  int64_t successes() const { return successes_; }                     // in a row
  int64_t times_opened() const { return times_opened_; }

 private:
  void Open(Time now);

  const BreakerOptions options_;
  bool open_ = false;  // or half-open, later than half_open_at_
  Time half_open_at_{};
  std::deque<Time> failures_;
  int64_t successes_ = 0;
  int probes_ = 0;  // requests begun half-open and not ended
  int64_t times_opened_ = 0;
};

const char* NameOf(CircuitBreaker::State state);

}  // namespace causeway
