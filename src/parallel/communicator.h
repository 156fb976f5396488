// Communicator: how the ranks of a group talk. Collectives only; every rank of the group calls the
// same ones in the same order. One of the four virtual seams (STYLE.md).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/deadline.h"

namespace causeway {

// What a rank says it is doing, for the error when a peer is late: operation and layer.
struct CollectiveName {
  const char* operation = "";
  int32_t layer = -1;  // -1: outside the layers
};
std::string NameOf(CollectiveName name);  // "kv_exchange of layer 3"; "logits_exchange"

// What Exchange moves between this rank and one peer. Zero bytes travel nowhere.
struct Outgoing {
  const void* data = nullptr;
  int64_t bytes = 0;
};
struct Incoming {
  void* data = nullptr;
  int64_t bytes = 0;
};

// What the exchanges of one operation have sent so far.
struct Traffic {
  std::string operation;
  int64_t calls = 0;
  int64_t bytes = 0;  // sent to peers; what a rank sends to itself does not count
  bool operator==(const Traffic&) const = default;
};

// One rank's end of a group. Used by that rank's thread only. Public methods check, keep the
// deadline and compare the digest of (operation, layer, size) between ranks in debug builds;
// private virtuals move bytes. All throw StepFailed, naming rank, operation and layer, when a peer
// fails, is past the deadline, or has called Abort.
class Communicator {
 public:
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int64_t timeout_ms() const { return timeout_ms_; }

  // Split-phase barrier: Arrive says that all this rank's earlier writes to shared memory are done
  // and returns at once; Wait returns when every rank has arrived, and then their writes are
  // visible. At most one split barrier is open at a time, and every Arrive has one Wait.
  void Arrive(CollectiveName name);
  void Wait(CollectiveName name);
  void Barrier(CollectiveName name) {
    Arrive(name);
    Wait(name);
  }

  // Sends to[i] to peer i and receives from[i] from it, for all peers at once; to[rank()] is copied
  // to from[rank()]. Both spans have size() entries, and both sides know every size: a peer that
  // sends or expects another one is named in the error. On return all incoming bytes are there and
  // nobody reads the outgoing ones any more; neither may be touched in between. Not inside a split
  // barrier. It orders nothing else: it need not be a barrier where no bytes travel.
  void Exchange(CollectiveName name, std::span<const Outgoing> to, std::span<const Incoming> from);

  // By operation, in the order of their first exchange.
  // Since the last ClearTraffic, of this rank alone.
  const std::vector<Traffic>& traffic() const { return traffic_; }
  void ClearTraffic() { traffic_.clear(); }

  // Makes every present and later collective of the group throw StepFailed with this reason. From
  // any thread.
  void Abort(const std::string& reason);

 protected:
  Communicator(int rank, int size, int64_t timeout_ms)
      : rank_(rank), size_(size), timeout_ms_(timeout_ms) {}

 private:
  // Called by the methods above, after their checks. `deadline`: timeout_ms from the call.
  virtual void DoArrive(CollectiveName name) = 0;
  virtual void DoWait(CollectiveName name, Deadline deadline) = 0;
  // The entries at rank() are done with already.
  virtual void DoExchange(CollectiveName name, std::span<const Outgoing> to,
                          std::span<const Incoming> from, Deadline deadline) = 0;
  virtual void DoAbort(const std::string& reason) = 0;

  const int rank_;
  const int size_;
  const int64_t timeout_ms_;
  bool arrived_ = false;
  std::vector<Traffic> traffic_;
};

// A group of `size` ranks that are threads of this process: spin, then yield, then sleep.
// result[i] is rank i's end; the ends share state that lives until the last is destroyed.
// Errors call them first_rank, first_rank + rank_step, ...
std::vector<std::unique_ptr<Communicator>> MakeThreadsCommunicators(int size, int64_t timeout_ms,
                                                                    int first_rank = 0,
                                                                    int rank_step = 1);

}  // namespace causeway
