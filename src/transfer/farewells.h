// What a decode host still has to say of rooms that it has given up before they were opened.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "transfer/link.h"
#include "transfer/receiver.h"

namespace causeway {

// By prefill server ("HOST:PORT" of its host 0): told when there is a connection, forgotten if it
// does not come. Bounded. With LinkLoop's lock held.
class Farewells {
 public:
  void Say(const std::string& server, const RoomClose& close) {
    std::vector<RoomClose>& rooms = rooms_[server];
    if (rooms.size() < kMostOfAServer) rooms.push_back(close);
  }
  void Forget(const std::string& server) { rooms_.erase(server); }
  // `next_ticket`: each takes one, which no opening has.
  void Send(const std::string& server, Link& link, uint64_t& next_ticket) {
    const auto found = rooms_.find(server);
    if (found == rooms_.end()) return;
    for (const RoomClose& close : found->second) {
      link.Send(CancelMessage{{close.room, next_ticket++}, close.why.code(), close.why.message()});
    }
    rooms_.erase(found);
  }

 private:
  static constexpr size_t kMostOfAServer = 4096;
  std::map<std::string, std::vector<RoomClose>> rooms_;
};

}  // namespace causeway
