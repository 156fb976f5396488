#include "parallel/communicator.h"

#include "base/check.h"

namespace causeway {

void Communicator::Arrive(CollectiveName name) {
  CHECK(!arrived_, "rank ", rank_, " arrives twice at ", name.operation);
  arrived_ = true;
  if (size_ > 1) DoArrive(name);
}

void Communicator::Wait(CollectiveName name) {
  CHECK(arrived_, "rank ", rank_, " waits for ", name.operation, " without having arrived");
  arrived_ = false;
  if (size_ > 1) DoWait(name, Deadline::AfterMs(timeout_ms_));
}

void Communicator::Abort(const std::string& reason) { DoAbort(reason); }

}  // namespace causeway
