// The ranks of this host (of all hosts, on one): one thread each, one Forward each, run in lockstep
// step by step.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/trace.h"
#include "cache/kv_cache.h"
#include "engine/host_counts.h"
#include "kernels/op_table.h"
#include "model/batch.h"
#include "model/rope.h"
#include "model/weights.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "parallel/read_counts.h"

namespace causeway {

struct RankGroupOptions {
  Layout layout;
  const OpTable* ops = nullptr;
  bool keep_trace_events = false;
  bool pin_threads = true;  // each thread to a CPU of its own (PlaceRanks), if there are enough
  int64_t collective_timeout_ms = 120'000;
  int64_t watchdog_timeout_ms = 300'000;  // a step that takes longer ends the process
  // How long ranks get then to leave their collectives, before it ends without waiting for them.
  int64_t abort_grace_ms = 10'000;
  // This process among the hosts of the layout, and its end of their group (null on one host); the
  // group must outlive the ranks.
  int host = 0;
  Communicator* hosts = nullptr;
  // What each rank talks through instead of its end of the group of the host's ranks; empty: that
  // end. Tests put faults in here.
  std::function<std::unique_ptr<Communicator>(std::unique_ptr<Communicator>)> wrap_communicator;
};

class RankWorker;
class StepBroadcaster;

// Owned and called by one thread. weights, cache and rope must outlive it.
class RankGroup {
 public:
  RankGroup(const Weights& weights, const KvCache& cache, const RopeTable& rope,
            const RankGroupOptions& options);
  ~RankGroup();

  // Partitions the batch, runs it on every rank and returns when all are done. After an error the
  // group must not be used again (DESIGN section 7): the process is to end. On several hosts only
  // host 0 calls it; the others Follow. `meanwhile` runs on the caller's thread while the ranks
  // compute.
  Status RunStep(const Batch& batch, StepOutput& output,
                 const std::function<void()>& meanwhile = {});
  // Runs the steps that host 0 sends until it ends (ok) or something fails.
  Status Follow();

  const Layout& layout() const { return options_.layout; }
  DType mode() const { return weights_.mode(); }
  const std::vector<const TraceLane*>& lanes() const { return lanes_; }
  // What each rank of this host read of what others of this host wrote.
  const std::vector<const ReadCounts*>& reads() const { return reads_; }
  // Clears traces and counters, of all hosts. On several hosts only host 0 calls this and Counts,
  // and after an error the group must not be used again.
  // Fails only between hosts.
  Status ClearTraces();
  // What each host has counted since; the gathering itself is not in it.
  StatusOr<std::vector<HostCounts>> Counts();
  // Called in every step from now on (Forward::SetLayerHook), by this host's first rank. Between
  // steps only.
  void SetLayerHook(LayerHook hook);
  // Between steps: the other hosts get the note, by their hook, before the next step.
  Status Note(const std::string& note);
  using NoteHook = std::function<Status(const std::string& note)>;
  void SetNoteHook(NoteHook hook) { note_hook_ = std::move(hook); }
  // Scratch memory of the rank that holds most, beside weights and KV.
  int64_t scratch_bytes() const;
  // The largest bound on it that the steps so far had (model/scratch.h).
  int64_t scratch_bound() const;
  // The events of this host's ranks are kept from now on, or not any more but for --trace.
  void KeepEvents(bool keep);
  // Those that began at or after `since_ns`, of each rank; without --trace they are kept no longer.
  std::vector<TraceTrack> TakeEvents(int64_t since_ns);
  // A step has exceeded the watchdog's time-out: the process is about to end. From any thread.
  bool stalled() const { return stalled_.load(); }
  // Not ok after a failed step, and on host 0 of several once another host was lost between steps.
  // From any thread.
  Status failure() const;
  // The slices of each rank of the world in the last step.
  const StepSlices& last_partition() const { return slices_; }

 private:
  // The step on the ranks of this host, until all are done or the watchdog has ended them.
  Status RunHere(const Batch& batch, StepOutput& output,
                 const std::function<void()>& meanwhile = {});
  // Writes a line of the log for every rank of this host: what it does, and for how long.
  void LogRanks() const;
  int RankOf(size_t worker) const;  // in the world
  void ClearHere();
  HostCounts CountsHere() const;
  // Keeps the first failure for failure(), and passes the status on.
  Status Remember(Status status);

  const Weights& weights_;
  const RankGroupOptions options_;
  const TokenCost cost_;
  std::vector<std::unique_ptr<RankWorker>> workers_;
  std::vector<const TraceLane*> lanes_;
  std::vector<const ReadCounts*> reads_;
  StepSlices slices_;
  std::unique_ptr<StepBroadcaster> broadcaster_;  // on host 0 of several
  NoteHook note_hook_;
  std::atomic<bool> stalled_{false};
  mutable std::mutex failure_mutex_;
  Status failure_;  // of the first step or gathering that failed; guarded by failure_mutex_
};

}  // namespace causeway
