// A point in time that a wait must not pass.
#pragma once

#include <chrono>
#include <cstdint>

namespace causeway {

// Of the steady clock: setting the system's time moves no deadline.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  static Deadline After(std::chrono::nanoseconds duration) {
    return Deadline(Clock::now() + std::chrono::duration_cast<Clock::duration>(duration));
  }
  static Deadline AfterMs(int64_t ms) { return After(std::chrono::milliseconds(ms)); }
  // `ms` after a point in time.
  static Deadline At(Clock::time_point begin, int64_t ms) {
    return Deadline(begin + std::chrono::milliseconds(ms));
  }

  bool Passed() const { return Clock::now() >= at_; }
  Clock::time_point at() const { return at_; }
  // Rounded down to whole milliseconds; 0 once it has passed.
  int64_t RemainingMs() const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(at_ - Clock::now());
    return left.count() > 0 ? left.count() : 0;
  }

 private:
  explicit Deadline(Clock::time_point at) : at_(at) {}
  Clock::time_point at_;
};

}  // namespace causeway
