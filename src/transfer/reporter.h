// Reporter: how another host of a server tells its host 0 that its part of a room has ended.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "transfer/link_loop.h"

namespace causeway {

// One connection to host 0's transfer port, made again when it is lost. All calls with the loop's
// lock held.
class Reporter {
 public:
  // `hello`: what this host says of itself. Both must outlive this.
  Reporter(LinkLoop& loop, HelloMessage hello) : loop_(loop), hello_(std::move(hello)) {}

  // Where host 0 listens. Connects.
  void SetAddress(std::string address);
  // Sent now, or when there is a connection.
  void Report(ReportMessage report);
  // Whether the link is this one; then the owner passes on what concerns it.
  bool Owns(const Link& link) const { return link.id() == link_; }
  Status OnHello(Link& link, const HelloMessage& hello);
  void OnLost();

 private:
  void Connect();

  LinkLoop& loop_;
  const HelloMessage hello_;
  std::string address_;
  uint64_t link_ = 0;  // 0: none
  bool ready_ = false;
  std::vector<ReportMessage> waiting_;
};

}  // namespace causeway
