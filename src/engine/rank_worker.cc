#include "engine/rank_worker.h"

#include <new>

#include "base/pause.h"

namespace causeway {
namespace {
constexpr int64_t kIdleWaitMs = 1000;  // how often an idle rank looks whether it should end
// How long a rank looks for the next step before it sleeps, where it has a CPU of its own: decode
// steps follow each other soon, and to wake a thread takes longer than what lies between them.
constexpr int64_t kAwakeNs = 50'000;

}  // namespace

RankWorker::RankWorker(const Weights& weights, const KvCache& cache, const RopeTable& rope,
                       const OpTable& table, const Layout& layout, int rank, std::vector<int> cpus,
                       bool keep_trace_events, RankLinks links)
    : rank_(rank),
      pinned_(!cpus.empty()),
      trace_(keep_trace_events),
      links_(std::move(links)),
      team_(layout.threads_per_rank, std::move(cpus)),
      ops_(table, team_),
      forward_(std::make_unique<Forward>(weights, cache, rope, layout, rank, ops_, *links_.host,
                                         links_.tensor ? *links_.tensor : *links_.host,
                                         links_.context.get(), trace_)),
      thread_([this] { Loop(); }) {}

RankWorker::~RankWorker() {
  jobs_.Close();
  thread_.join();
}

// All, as the rank may wait in any.
void RankWorker::Abort(const std::string& reason) {
  links_.host->Abort(reason);
  if (links_.tensor) links_.tensor->Abort(reason);
  if (links_.context) links_.context->Abort(reason);
}

// Pointers only: the owner keeps the three alive until Finish has returned the status.
void RankWorker::Start(const Batch& batch, const StepSlices& slices, StepOutput& output) {
  busy_.store(true);
  CHECK(jobs_.TryPush({&batch, &slices, &output}), "a step is still running");
}

std::optional<Status> RankWorker::Finish(Deadline deadline) { return done_.Pop(deadline); }

void RankWorker::Loop() {
  team_.PinOwner();
  // For this thread as for the team's: results must not depend on which of them computes.
  const ScopedFlushDenormals flush;
  for (;;) {
    const int64_t ended_ns = NowNs();
    // Never by giving way: where others want the CPU, a thread that gave way comes after all of
    // them, and one that slept comes first.
    while (pinned_ && jobs_.size() == 0 && NowNs() - ended_ns < kAwakeNs) Pause();
    const std::optional<Job> job = jobs_.Pop(Deadline::AfterMs(kIdleWaitMs));
    if (job.has_value()) {
      CHECK(done_.TryPush(RunStep(*job)), "the last step's status was not taken");
    } else if (jobs_.closed()) {
      return;
    }
  }
}

// One of the two places that catch (DESIGN section 7): the failure becomes the step's status, and
// the other ranks are told, so that none waits for this one.
Status RankWorker::RunStep(const Job& job) {
  Status status;
  try {
    forward_->Run(*job.batch, *job.slices, *job.output);
  } catch (const StepFailed& failure) {
    status = InternalError(failure.what());
  } catch (const StartError& failure) {  // out of memory for scratch
    status = InternalError(Text("rank ", rank_, ": ", failure.what()));
  } catch (const std::bad_alloc&) {
    status = InternalError(Text("rank ", rank_, ": out of memory"));
  }
  if (!status.ok()) Abort(status.message());
  busy_.store(false);
  return status;
}

}  // namespace causeway
