#include "transfer/reporter.h"

#include <utility>

namespace causeway {
namespace {
constexpr int64_t kConnectMs = 60'000;  // then it begins anew
}  // namespace

void Reporter::SetAddress(std::string address) {
  const bool first = address_.empty();
  address_ = std::move(address);
  if (first) Connect();
}

void Reporter::Connect() {
  loop_.Connect(address_, Deadline::AfterMs(kConnectMs), [this](StatusOr<Socket> socket) {
    if (!socket.ok()) {
      // A name that can't be resolved, most of all; whoever waits for reports has a deadline.
      if (socket.status().code() != StatusCode::kInvalidArgument) Connect();
      return;
    }
    Link& link = loop_.Add(std::move(*socket));
    link_ = link.id();
    link.Send(hello_);
  });
}

void Reporter::Report(ReportMessage report) {
  Link* const link = ready_ ? loop_.Find(link_) : nullptr;
  if (link != nullptr) {
    link->Send(report);
  } else {
    waiting_.push_back(std::move(report));
  }
}

Status Reporter::OnHello(Link& link, const HelloMessage& hello) {
  if (hello.server != hello_.server || hello.host != 0) {
    return InvalidArgument(
        Text(address_, " is host ", hello.host, " of another server; expected host 0 of this one"));
  }
  link.set_ready();
  ready_ = true;
  for (const ReportMessage& report : waiting_) link.Send(report);
  waiting_.clear();
  return Status();
}

void Reporter::OnLost() {
  link_ = 0;
  // Who turned us away would do so again.
  if (std::exchange(ready_, false)) Connect();
}

}  // namespace causeway
