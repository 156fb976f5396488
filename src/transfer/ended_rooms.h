// EndedRooms: how rooms have ended, of the last few thousand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>

#include "base/status.h"

namespace causeway {

class EndedRooms {
 public:
  // How it ended; null: it has not, or too long ago.
  const Status* Find(uint64_t room) const {
    const auto found = rooms_.find(room);
    return found == rooms_.end() ? nullptr : &found->second;
  }
  void Set(uint64_t room, const Status& status) {
    rooms_[room] = status;
    order_.push_back(room);
    if (order_.size() <= kMost) return;
    rooms_.erase(order_.front());
    order_.pop_front();
  }
  void Erase(uint64_t room) { rooms_.erase(room); }

 private:
  static constexpr size_t kMost = 4096;
  std::unordered_map<uint64_t, Status> rooms_;
  std::deque<uint64_t> order_;  // of Set
};

}  // namespace causeway
