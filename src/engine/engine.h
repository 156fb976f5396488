// Engine: requests in, tokens out. One thread owns the scheduler, the pages and the ranks' steps.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/queue.h"
#include "engine/model_host.h"
#include "engine/profiler.h"
#include "engine/request.h"
#include "engine/scheduler.h"

namespace causeway {

struct EngineOptions {
  SchedulerLimits limits;
  int64_t max_queued_requests = 512;  // submitted and not yet running; more are refused
  int64_t vocab_limit = 0;            // ids from here on have no text and are never sampled; 0: all
  bool prefix_cache = true;           // requests use what others have computed of their prompts
  // While a step runs, the results of the last one go to the clients and the next one is planned.
  bool overlap_schedule = true;
};

class Engine : public RequestSink {
 public:
  // Starts the engine thread. `host` must outlive the engine and is the engine's from now on.
  Engine(ModelHost& host, const EngineOptions& options);
  // Cancels what is left and ends the thread.
  ~Engine() override;

  Status Submit(std::shared_ptr<Request> request) override;
  void Cancel(const std::string& id) override;
  void FlushCache() override;
  int64_t context_length() const override { return context_length_; }
  void StartProfile(const ProfileOptions& options, ProfileReply reply) override;
  void StopProfile(ProfileReply reply) override;
  bool healthy() const override { return !failed() && !host_.ranks().stalled(); }
  // The last step has failed, and every request has its answer or is about to get it.
  bool failed() const { return failed_.load(); }
  EngineLoad load() const override;

  // Refuses new requests from now on, waits until the running ones have ended or the deadline
  // passes; false in the latter case.
  bool Drain(Deadline deadline);

 private:
  // What reaches the engine thread from outside.
  struct Command {
    std::unique_ptr<Sequence> submit = nullptr;  // or:
    std::string cancel = {};                     // or:
    bool flush = false;                          // or:
    // Between two steps only. Gets whether the engine can still do it.
    std::function<void(bool alive)> between_steps = {};
  };
  // A step, planned or running. owners[i] owns batch.extends[i]; null: it has ended meanwhile.
  struct Plan {
    Batch batch;
    std::vector<Sequence*> owners;
    int64_t budgeted = 0;  // Scheduler::budgeted
  };

  // The engine thread, until the queue is closed or a step has failed.
  void Loop();
  // Takes what has come; with `wait`, waits for it a while.
  void HandleCommands(bool wait);
  void Handle(Command command);
  void HandleDeferred(bool alive);
  // Makes or completes plan_.
  void MakePlan();
  // Runs plan_ and its consequences.
  void Step();
  // What of the engine's work a step hides.
  void Meanwhile();
  // Samples what a step has given each owner that still runs, and completes plan_ by it.
  void SampleStep(const Plan& plan, const StepOutput& output);
  // Adds the log-probabilities of the prompt that an extend gives. Not ok: the model's are none.
  Status TakePromptLogprobs(Sequence& sequence, const Batch& batch, int32_t index,
                            const StepOutput& output);
  // Samples from `logits`, tells the client, and finishes the sequence if it is done: then false.
  bool Advance(Sequence& sequence, const float* logits);
  // Takes the sequence from the scheduler, frees its pages and calls on_finish. `stop_token`: what
  // was sampled last, with kStop.
  void Finish(Sequence& sequence, FinishReason reason, Status status,
              const TokenOutput& stop_token = {.token = -1, .top = {}});
  // Calls clients back, in the order in which this was called, when there is time to.
  void Tell(std::function<void()> news) { news_.push_back(std::move(news)); }
  void Deliver();
  // Ids from here on have no text.
  int64_t VocabLimit() const;
  // What load() says from now on.
  void PublishLoad();
  void PublishTimes();

  ModelHost& host_;
  const EngineOptions options_;
  const int64_t context_length_;
  const int64_t page_capacity_;
  Scheduler scheduler_;
  Profiler profiler_;
  Plan plan_;  // the next step's, as far as it is planned: empty if it has no extends
  Plan* running_plan_ = nullptr;             // the step's that runs now
  bool may_admit_ = false;                   // something has changed since plan_ was made
  std::vector<std::function<void()>> news_;  // for Deliver
  std::vector<std::function<void(bool alive)>> deferred_;  // until the step has ended
  std::vector<float> changed_logits_;                      // the engine thread's
  // From any thread to the engine's.
  Queue<Command> commands_;
  std::atomic<int64_t> queued_{0};      // submitted, not yet running
  std::atomic<int64_t> unfinished_{0};  // submitted, not yet finished
  std::atomic<int64_t> running_{0};     // as is the next, after PublishLoad
  std::atomic<int64_t> used_pages_{0};
  std::atomic<int64_t> retracted_{0};
  std::atomic<double> cache_hit_rate_{0.0};
  SchedulerCounters counted_;  // the engine thread's: at the last admission
  mutable std::mutex rank_seconds_mutex_;
  std::vector<RankSeconds> rank_seconds_;  // guarded by rank_seconds_mutex_
  std::atomic<bool> failed_{false};
  std::atomic<bool> draining_{false};
  std::thread thread_;
};

}  // namespace causeway
