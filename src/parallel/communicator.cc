// What every communicator owes its callers, checked once for all backends: the order of arrive and
// wait, sizes, the deadline, and the count of what was sent.
#include "parallel/communicator.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace causeway {

extern const char kCausewayVersion[] = CAUSEWAY_VERSION;

std::string NameOf(CollectiveName name) {
  return name.layer < 0 ? name.operation : Text(name.operation, " of layer ", name.layer);
}

void Communicator::Arrive(CollectiveName name) {
  // Bugs of the caller, whatever the backend is, so CHECK.
  CHECK(!arrived_, "rank ", rank_, " arrives twice at ", name.operation);
  arrived_ = true;
  DoArrive(name);
}

void Communicator::Wait(CollectiveName name) {
  CHECK(arrived_, "rank ", rank_, " waits for ", name.operation, " without having arrived");
  arrived_ = false;
  DoWait(name, Deadline::AfterMs(timeout_ms_));
}

void Communicator::Exchange(CollectiveName name, std::span<const Outgoing> to,
                            std::span<const Incoming> from) {
  const Deadline deadline = Deadline::AfterMs(timeout_ms_);
  const size_t size = static_cast<size_t>(size_);
  const size_t own = static_cast<size_t>(rank_);
  CHECK(!arrived_, "rank ", rank_, " exchanges in ", name.operation, " inside a split barrier");
  CHECK(to.size() == size && from.size() == size, to.size(), " and ", from.size(), " pieces for ",
        size_, " ranks in ", name.operation);
  CHECK(to[own].bytes == from[own].bytes, to[own].bytes, " bytes to and ", from[own].bytes,
        " bytes from rank ", rank_, " itself in ", name.operation);
  int64_t sent = 0;
  for (size_t peer = 0; peer < size; ++peer) {
    CHECK(to[peer].bytes >= 0 && from[peer].bytes >= 0, name.operation);
    if (peer != own) sent += to[peer].bytes;
  }
  // A linear search: a step has a dozen operations.
  auto traffic = std::find_if(traffic_.begin(), traffic_.end(), [&](const Traffic& each) {
    return each.operation == name.operation;
  });
  if (traffic == traffic_.end()) traffic = traffic_.insert(traffic_.end(), {name.operation});
  ++traffic->calls;
  traffic->bytes += sent;
  // A piece for oneself never reaches the backend. Memory may overlap.
  if (to[own].bytes > 0) {
    std::memmove(from[own].data, to[own].data, static_cast<size_t>(to[own].bytes));
  }
  DoExchange(name, to, from, deadline);
}

void Communicator::Abort(const std::string& reason) { DoAbort(reason); }

}  // namespace causeway
