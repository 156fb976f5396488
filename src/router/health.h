// Whether a worker answers its health checks.
#pragma once

#include <cstdint>
#include <string>

namespace causeway {

struct HealthOptions {
  int failure_threshold = 3;
  int success_threshold = 2;
  int64_t timeout_ms = 5'000;
  int64_t interval_ms = 60'000;
  // Between checks of a worker that is not up.
  int64_t retry_interval_ms = 1'000;
  int64_t startup_timeout_ms = 1'800'000;  // then it is reported, and checked on
  std::string endpoint = "/health";
  bool disabled = false;  // every worker counts as up
};

// starting -> up at the first good check; up -> down after failure_threshold bad ones in a row, and
// back after success_threshold good ones.
class WorkerHealth {
 public:
  enum class State { kStarting, kUp, kDown };

  explicit WorkerHealth(const HealthOptions& options)
      : failure_threshold_(options.failure_threshold),
        success_threshold_(options.success_threshold),
        state_(options.disabled ? State::kUp : State::kStarting) {}

  State state() const { return state_; }
  bool up() const { return state_ == State::kUp; }
  // The outcome of a check. True if the state has changed.
  bool Report(bool good) {
    in_a_row_ = good == last_good_ ? in_a_row_ + 1 : 1;
    last_good_ = good;
    State next = state_;
    if (good && (state_ == State::kStarting || in_a_row_ >= success_threshold_)) next = State::kUp;
    if (!good && state_ == State::kUp && in_a_row_ >= failure_threshold_) next = State::kDown;
    const bool changed = next != state_;
    state_ = next;
    return changed;
  }

 private:
  const int failure_threshold_;
  const int success_threshold_;
  State state_;
  bool last_good_ = false;
  int in_a_row_ = 0;
};

}  // namespace causeway
