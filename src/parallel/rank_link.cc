// Ranks of a host share memory: a link is a barrier, and a board where each leaves a pointer to
// what it shares in this round. Two places per rank are enough, since nobody can be two rounds
// ahead.
#include "parallel/rank_link.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/queue.h"

namespace causeway {
namespace {
constexpr int64_t kIdleWaitMs = 1000;  // how often an idle thread looks whether it should end
}

// The communication thread of a host. It takes part in every collective of the host's ranks as one
// more member of their group, in two barriers: at the first all ranks have arrived, and it runs the
// action; it arrives at the second when the action is done.
class HostThread {
 public:
  HostThread(std::unique_ptr<Communicator> end, Communicator& hosts)
      : end_(std::move(end)), hosts_(hosts), thread_([this] { Loop(); }) {}
  ~HostThread() {
    jobs_.Close();
    thread_.join();
  }

  void Start(CollectiveName name, HostAction action) {
    CHECK(jobs_.TryPush({name, std::move(action)}), "the communication thread is behind in ",
          NameOf(name));
  }
  void Settle(Deadline deadline) {
    std::unique_lock lock(mutex_);
    idle_.wait_until(lock, deadline.at(), [this] { return !acting_; });
  }
  void Abort(const std::string& reason) { hosts_.Abort(reason); }
  TraceLane& action_times() { return action_times_; }

 private:
  struct Job {
    CollectiveName name;
    HostAction action;
  };

  void Loop() {
    for (;;) {
      // One job per collective, from rank 0, in the order in which all ranks make them.
      const std::optional<Job> job = jobs_.Pop(Deadline::AfterMs(kIdleWaitMs));
      if (!job.has_value()) {
        if (jobs_.closed()) return;
        continue;
      }
      try {
        end_->Barrier(job->name);
        if (job->action) {
          const TraceZone zone(action_times_, job->name.operation, job->name.layer);
          Act(job->action);
        }
        end_->Barrier(job->name);
      } catch (const StepFailed& failure) {
        // The ranks of this host throw with this reason, and RankWorker::RunStep reports it.
        end_->Abort(failure.what());
      }
    }
  }

  void Act(const HostAction& action) {
    const auto set_acting = [this](bool acting) {
      {
        const std::lock_guard lock(mutex_);
        acting_ = acting;
      }
      idle_.notify_all();
    };
    // So that Settle also returns after an action that has thrown.
    set_acting(true);
    try {
      action(hosts_);
    } catch (...) {
      set_acting(false);
      throw;
    }
    set_acting(false);
  }

  const std::unique_ptr<Communicator> end_;
  Communicator& hosts_;
  TraceLane action_times_;
  Queue<Job> jobs_{4};
  std::mutex mutex_;
  std::condition_variable idle_;
  bool acting_ = false;  // guarded by mutex_
  std::thread thread_;
};

RankLink::RankLink(std::unique_ptr<Communicator> end, std::shared_ptr<Board> board,
                   std::shared_ptr<HostThread> thread)
    : end_(std::move(end)),
      board_(std::move(board)),
      thread_(std::move(thread)),
      index_(end_->rank()),
      size_(static_cast<int>(board_->size())) {}

RankLink::~RankLink() = default;

void RankLink::Arrive(CollectiveName name, const void* shared, HostAction action) {
  name_ = name;
  ++round_;
  // Before the barrier: who passes it may read the pointer.
  (*board_)[static_cast<size_t>(index_)].shared[round_ % 2] = shared;
  if (thread_ != nullptr && index_ == 0) thread_->Start(name, std::move(action));
  end_->Arrive(name);
}

void RankLink::Wait() {
  end_->Wait(name_);
  // The second barrier: the action between hosts is done.
  if (thread_ != nullptr) end_->Barrier(name_);
}

void RankLink::Settle(Deadline deadline) {
  if (thread_ != nullptr) thread_->Settle(deadline);
}

TraceLane* RankLink::action_times() const {
  return thread_ == nullptr ? nullptr : &thread_->action_times();
}

void RankLink::Abort(const std::string& reason) {
  // Both, as the ranks may wait in either.
  end_->Abort(reason);
  if (thread_ != nullptr) thread_->Abort(reason);
}

std::vector<std::unique_ptr<RankLink>> MakeRankLinks(
    std::vector<std::unique_ptr<Communicator>> ends, Communicator* hosts) {
  std::shared_ptr<HostThread> thread;
  if (hosts != nullptr) {
    // At least one rank beside the communication thread's own end.
    CHECK(ends.size() >= 2, ends.size());
    thread = std::make_shared<HostThread>(std::move(ends.back()), *hosts);
    ends.pop_back();
  }
  auto board = std::make_shared<RankLink::Board>(ends.size());
  std::vector<std::unique_ptr<RankLink>> links;
  for (auto& end : ends) {
    links.push_back(std::unique_ptr<RankLink>(new RankLink(std::move(end), board, thread)));
  }
  return links;
}

}  // namespace causeway
