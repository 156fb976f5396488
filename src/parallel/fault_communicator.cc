// A fault is in force from a given collective on: thrown before it, delayed, or never arrived at.
#include "parallel/fault_communicator.h"

#include <chrono>
#include <thread>

#include "base/check.h"

namespace causeway {

FaultCommunicator::FaultCommunicator(std::unique_ptr<Communicator> inner, Fault fault)
    : Communicator(inner->rank(), inner->size(), inner->timeout_ms()),
      inner_(std::move(inner)),
      fault_(fault) {}

bool FaultCommunicator::Begin(CollectiveName name) {
  ++count_;
  if (Active(Fault::Kind::kThrow)) {
    throw StepFailed(Text("rank ", rank(), ": injected fault in ", NameOf(name)));
  }
  if (Active(Fault::Kind::kDelay)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(fault_.delay_ms));
  }
  return !Active(Fault::Kind::kNeverArrive);
}

void FaultCommunicator::Hang(CollectiveName name, Deadline deadline) {
  std::unique_lock lock(mutex_);
  // Also without an abort it ends at the deadline: a fault must not hang a test.
  wake_.wait_until(lock, deadline.at(), [this] { return aborted_; });
  throw StepFailed(Text("rank ", rank(), ": injected fault: never arrived in ", NameOf(name)));
}

void FaultCommunicator::DoArrive(CollectiveName name) {
  // A rank that never arrives fails in Wait, where the deadline is.
  if (Begin(name)) inner_->Arrive(name);
}

void FaultCommunicator::DoWait(CollectiveName name, Deadline deadline) {
  if (Active(Fault::Kind::kNeverArrive)) Hang(name, deadline);
  inner_->Wait(name);
}

void FaultCommunicator::DoExchange(CollectiveName name, std::span<const Outgoing> to,
                                   std::span<const Incoming> from, Deadline deadline) {
  if (!Begin(name)) Hang(name, deadline);
  inner_->Exchange(name, to, from);
}

void FaultCommunicator::DoAbort(const std::string& reason) {
  inner_->Abort(reason);  // first, so that this is the reason and not what the woken rank throws
  {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
  }
  wake_.notify_all();
}

}  // namespace causeway
