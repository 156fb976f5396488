// For tests: what one thread waits for and another brings about.
#pragma once

#include <condition_variable>
#include <mutex>

#include "base/deadline.h"

namespace causeway {

// A flag that another thread waits for.
class Event {
 public:
  void Set() {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  bool Wait(Deadline deadline) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, deadline.at(), [this] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

}  // namespace causeway
