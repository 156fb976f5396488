// One rank: a thread with its team, operations, communicator, trace and forward pass.
#pragma once

#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/queue.h"
#include "base/thread_team.h"
#include "base/trace.h"
#include "kernels/op_set.h"
#include "model/forward.h"
#include "parallel/communicator.h"

namespace causeway {

class RankWorker {
 public:
  RankWorker(const Weights& weights, const KvCache& cache, const RopeTable& rope,
             const OpTable& table, int threads, std::vector<int> cpus, bool keep_trace_events,
             std::unique_ptr<Communicator> comm);
  ~RankWorker();

  // Hands the rank its slices of a step; all three must live until the step's status has come.
  void Start(const Batch& batch, const std::vector<Slice>& slices, StepOutput& output);
  // The step's status; nothing if the deadline passes first.
  std::optional<Status> Finish(Deadline deadline);
  // Makes the rank's collectives throw. From any thread.
  void Abort(const std::string& reason) { comm_->Abort(reason); }

  // Between steps only.
  TraceLane& trace() { return trace_; }
  int64_t scratch_bytes() const { return forward_->scratch_bytes(); }

 private:
  struct Job {
    const Batch* batch;
    const std::vector<Slice>* slices;
    StepOutput* output;
  };

  void Loop();
  Status RunStep(const Job& job);

  TraceLane trace_;
  std::unique_ptr<Communicator> comm_;
  ThreadTeam team_;
  OpSet ops_;
  std::unique_ptr<Forward> forward_;
  Queue<Job> jobs_{1};
  Queue<Status> done_{1};
  std::thread thread_;
};

}  // namespace causeway
