// HostExchange: what hosts send each other in a step, beside the work of experts: new keys, hidden
// rows and logits. Who sends what follows from the step's slices alone, so both sides know it.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/kv_cache.h"
#include "model/batch.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"

namespace causeway {

// The tokens of one slice.
struct SliceTokens {
  const Extend* extend;
  Slice slice;
};

// The slices whose keys `from` sends to `to`: those that ranks of `from` compute (for a TP group
// over several hosts, its first host) for a data-parallel group that has ranks on `to`, where none
// of them computes the slice.
std::vector<SliceTokens> KeysToSend(const Layout& layout, const Batch& batch,
                                    const StepSlices& slices, int from, int to);

// The host whose rank norms each wanted row of `output`.
std::vector<int> HostsOfRows(const Layout& layout, const Batch& batch, const StepSlices& slices,
                             const StepOutput& output);

// This host's side. Called on the communication thread, while the host's ranks wait or compute what
// does not depend on it. All throw StepFailed.
class HostExchange {
 public:
  HostExchange(const Layout& layout, int host, const KvCache& cache)
      : layout_(layout), host_(host), cache_(cache) {}

  // The keys of one layer: sends what other hosts' ranks will read, and stores what comes in the
  // pages of this host's cache.
  void Keys(Communicator& hosts, CollectiveName name, const Batch& batch, const StepSlices& slices);
  // Every host gets all hidden rows.
  void Hidden(Communicator& hosts, CollectiveName name, const Batch& batch,
              const StepSlices& slices, const StepOutput& output);
  // Host 0 gets the logits of the ids [columns of each host).
  void Logits(Communicator& hosts, CollectiveName name, const std::vector<Range>& columns,
              const StepOutput& output);

 private:
  const Layout& layout_;
  const int host_;
  const KvCache& cache_;
  std::vector<std::vector<char>> outgoing_;  // to each host; kept, so that steps allocate nothing
  std::vector<std::vector<char>> incoming_;
};

}  // namespace causeway
