#include "router/circuit_breaker.h"

#include <algorithm>

namespace causeway {

CircuitBreaker::State CircuitBreaker::state(Time now) const {
  if (!open_) return State::kClosed;
  return now < half_open_at_ ? State::kOpen : State::kHalfOpen;
}

bool CircuitBreaker::Allows(Time now) const {
  switch (state(now)) {
    case State::kClosed:
      return true;
    case State::kOpen:
      return false;
    case State::kHalfOpen:
      return probes_ < options_.success_threshold;
  }
  return true;
}

void CircuitBreaker::Begin(Time now) {
  if (state(now) == State::kHalfOpen) ++probes_;
}

void CircuitBreaker::Succeeded(Time now) {
  Dropped();
  ++successes_;
  failures_.clear();
  // A success that began before it opened does not close it.
  if (state(now) == State::kHalfOpen && successes_ >= options_.success_threshold) {
    open_ = false;
    probes_ = 0;
  }
}

void CircuitBreaker::Failed(Time now) {
  Dropped();
  successes_ = 0;
  failures_.push_back(now);
  const Time oldest = now - std::chrono::milliseconds(options_.window_ms);
  while (failures_.front() < oldest) failures_.pop_front();
  if (options_.disabled) return;
  const State before = state(now);
  if (before == State::kHalfOpen ||
      (before == State::kClosed && failures() >= options_.failure_threshold)) {
    Open(now);
  }
  while (failures() > options_.failure_threshold) failures_.pop_front();
}

void CircuitBreaker::Dropped() { probes_ = std::max(0, probes_ - 1); }

void CircuitBreaker::Open(Time now) {
  open_ = true;
  half_open_at_ = now + std::chrono::milliseconds(options_.timeout_ms);
  successes_ = 0;
  probes_ = 0;
  ++times_opened_;
}

const char* NameOf(CircuitBreaker::State state) {
  switch (state) {
    case CircuitBreaker::State::kClosed:
      return "closed";
    case CircuitBreaker::State::kOpen:
      return "open";
    case CircuitBreaker::State::kHalfOpen:
      return "half_open";
  }
  return "unknown";
}

}  // namespace causeway
