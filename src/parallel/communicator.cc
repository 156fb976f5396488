#include "parallel/communicator.h"

#include "base/check.h"

namespace causeway {

std::string NameOf(CollectiveName name) {
  return name.layer < 0 ? name.operation : Text(name.operation, " of layer ", name.layer);
}

void Communicator::Arrive(CollectiveName name) {
  CHECK(!arrived_, "rank ", rank_, " arrives twice at ", name.operation);
  arrived_ = true;
  DoArrive(name);
}

void Communicator::Wait(CollectiveName name) {
  CHECK(arrived_, "rank ", rank_, " waits for ", name.operation, " without having arrived");
  arrived_ = false;
  DoWait(name, Deadline::AfterMs(timeout_ms_));
}

void Communicator::Abort(const std::string& reason) { DoAbort(reason); }

}  // namespace causeway
