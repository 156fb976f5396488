// One rank: a thread with its team, operations, communicator, trace and forward pass.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/queue.h"
#include "base/thread_team.h"
#include "base/trace.h"
#include "kernels/op_set.h"
#include "model/forward.h"
#include "parallel/layout.h"
#include "parallel/rank_link.h"

namespace causeway {

// Through what a rank talks: `host` joins the ranks of its host; `tensor` those of its TP group on
// the host, or is null where the TP group fills whole hosts: then it is `host` too; `context` joins
// its ContextGroup, or is null where the rank is alone in that.
struct RankLinks {
  std::unique_ptr<RankLink> host;
  std::unique_ptr<RankLink> tensor;
  std::unique_ptr<RankLink> context;
};

class RankWorker {
 public:
  RankWorker(const Weights& weights, const KvCache& cache, const RopeTable& rope,
             const OpTable& table, const Layout& layout, int rank, std::vector<int> cpus,
             bool keep_trace_events, RankLinks links);
  ~RankWorker();

  // Hands the rank a step; all three must live until the step's status has come.
  // Returns at once. At most one step at a time.
  void Start(const Batch& batch, const StepSlices& slices, StepOutput& output);
  // The step's status; nothing if the deadline passes first.
  std::optional<Status> Finish(Deadline deadline);
  // Makes the rank's collectives throw. From any thread.
  void Abort(const std::string& reason);
  // After a failed step: waits until nothing of it runs any more.
  void Settle(Deadline deadline) { links_.host->Settle(deadline); }

  // Whether it has not ended its step, and what it does. From any thread.
  bool busy() const { return busy_.load(); }
  TraceLane::Now now() const { return trace_.now(); }

  // Between steps only.
  TraceLane& trace() { return trace_; }
  int64_t scratch_bytes() const { return forward_->scratch_bytes(); }
  int64_t scratch_bound() const { return forward_->scratch_bound(); }
  const ReadCounts& reads() const { return forward_->reads(); }
  const ExpertCounts& expert_counts() const { return forward_->expert_counts(); }
  TraceLane* action_times() const { return links_.host->action_times(); }  // null on one host
  void ClearCounters() { forward_->ClearCounters(); }
  // Between steps only.
  void SetLayerHook(LayerHook hook) { forward_->SetLayerHook(std::move(hook)); }

 private:
  struct Job {
    const Batch* batch;
    const StepSlices* slices;
    StepOutput* output;
  };

  // The rank's thread, until its queue is closed.
  void Loop();
  Status RunStep(const Job& job);

  const int rank_;
  const bool pinned_;
  TraceLane trace_;
  RankLinks links_;
  ThreadTeam team_;
  OpSet ops_;
  std::unique_ptr<Forward> forward_;
  // From the group's thread: at most one step, as the next is given after the status of the last.
  Queue<Job> jobs_{1};
  Queue<Status> done_{1};
  std::atomic<bool> busy_{false};
  std::thread thread_;
};

}  // namespace causeway
