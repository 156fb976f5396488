// A communicator that misbehaves on purpose: how tests see what a late, lost or failing rank does
// to the others.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "parallel/communicator.h"

namespace causeway {

// What goes wrong at one rank's end, and from when on. Collectives count from 0.
struct Fault {
  enum class Kind {
    kNone,
    kDelay,        // every arrival and every exchange is late by delay_ms
    kNeverArrive,  // the rank hangs: it holds its thread until Abort or its own deadline
    kThrow,        // the arrival or exchange throws StepFailed
  };
  Kind kind = Kind::kNone;
  int64_t from = 0;
  int64_t delay_ms = 0;
};

// Wraps one rank's end of any backend.
class FaultCommunicator : public Communicator {
 public:
  FaultCommunicator(std::unique_ptr<Communicator> inner, Fault fault);

 private:
  void DoArrive(CollectiveName name) override;
  void DoWait(CollectiveName name, Deadline deadline) override;
  void DoExchange(CollectiveName name, std::span<const Outgoing> to, std::span<const Incoming> from,
                  Deadline deadline) override;
  void DoAbort(const std::string& reason) override;

  bool Active(Fault::Kind kind) const { return fault_.kind == kind && count_ > fault_.from; }
  // What a fault does at the start of a collective; false where the rank never arrives.
  bool Begin(CollectiveName name);
  [[noreturn]] void Hang(CollectiveName name, Deadline deadline);

  const std::unique_ptr<Communicator> inner_;
  const Fault fault_;
  int64_t count_ = 0;  // collectives so far, this one included
  std::mutex mutex_;
  std::condition_variable wake_;
  bool aborted_ = false;  // guarded by mutex_
};

}  // namespace causeway
