// A group whose ranks are threads of this process. Data needs no moving: it lies in shared memory,
// and a collective is a barrier in two phases.
#include <sched.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string_view>

#include "base/check.h"
#include "parallel/communicator.h"

namespace causeway {
namespace {

// A waiting rank spins for about a microsecond, then gives way to other ranks of its core (there
// may be more ranks than cores), then sleeps.
constexpr int kSpins = 200;
constexpr int kYields = 100;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Ranks count their collectives; round n is complete when every rank's count has passed n.
class Group {
 public:
  explicit Group(int size) : arrivals_(static_cast<size_t>(size)) {}

  void Arrive(int rank, CollectiveName name) {
    Arrival& mine = arrivals_[static_cast<size_t>(rank)];
    const uint64_t round = mine.count.load(std::memory_order_relaxed) + 1;
    mine.name[round % 2] = name;
    // This rank's writes before are visible to who sees the new count. Sequentially consistent, as
    // are the look at sleepers_ here and both of them in Sleep: either the sleeper sees the count
    // or this rank sees the sleeper.
    mine.count.store(round, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      { const std::lock_guard lock(mutex_); }
      wake_.notify_all();
    }
  }

  void Wait(int rank, CollectiveName name, Deadline deadline) {
    const uint64_t round =
        arrivals_[static_cast<size_t>(rank)].count.load(std::memory_order_relaxed);
    int missing = 0;
    for (int attempt = 0; !Complete(round, missing); ++attempt) {
      CheckAborted(rank, name);
      if (attempt < kSpins) {
        Pause();
      } else if (attempt < kSpins + kYields) {
        sched_yield();
      } else {
        Sleep(rank, name, round, deadline);
        break;
      }
    }
    CheckAborted(rank, name);
    CheckNames(rank, name, round);
  }

  void Abort(const std::string& reason) {
    {
      const std::lock_guard lock(mutex_);
      if (reason_.empty()) reason_ = reason;
      aborted_.store(true, std::memory_order_release);
    }
    wake_.notify_all();
  }

 private:
  struct alignas(64) Arrival {
    std::atomic<uint64_t> count{0};
    // Of round n in name[n % 2]: a rank is at most one round ahead of a rank that still reads,
    // since it can't complete round n + 1 before that one has arrived there.
    CollectiveName name[2];
  };

  // `missing` remembers the first rank not seen yet, so that a wait looks at each rank once.
  bool Complete(uint64_t round, int& missing) const {
    for (; static_cast<size_t>(missing) < arrivals_.size(); ++missing) {
      if (arrivals_[static_cast<size_t>(missing)].count.load(std::memory_order_seq_cst) < round) {
        return false;
      }
    }
    return true;
  }

  void Sleep(int rank, CollectiveName name, uint64_t round, Deadline deadline) {
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    int missing = 0;
    const bool complete = wake_.wait_until(lock, deadline.at(), [&] {
      return Complete(round, missing) || aborted_.load(std::memory_order_acquire);
    });
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    lock.unlock();
    if (complete) return;
    std::string absent;
    for (size_t other = 0; other < arrivals_.size(); ++other) {
      if (arrivals_[other].count.load(std::memory_order_acquire) < round) {
        absent += Text(absent.empty() ? "" : ", ", other);
      }
    }
    if (absent.empty()) return;  // the last one came just after the deadline
    throw StepFailed(Text("rank ", rank, ": ", NameOf(name), " passed its deadline; rank ", absent,
                          " did not arrive"));
  }

  void CheckAborted(int rank, CollectiveName name) {
    if (!aborted_.load(std::memory_order_acquire)) return;
    const std::lock_guard lock(mutex_);
    throw StepFailed(Text("rank ", rank, ": ", NameOf(name), " was aborted: ", reason_));
  }

  // Ranks that meet in different operations have taken different branches: a bug that must be named
  // and not hang.
  void CheckNames(int rank, CollectiveName name, uint64_t round) const {
    for (size_t other = 0; other < arrivals_.size(); ++other) {
      const CollectiveName& theirs = arrivals_[other].name[round % 2];
      if (theirs.layer == name.layer &&
          std::string_view(theirs.operation) == std::string_view(name.operation)) {
        continue;
      }
      throw StepFailed(
          Text("rank ", rank, " is in ", NameOf(name), ", rank ", other, " in ", NameOf(theirs)));
    }
  }

  std::vector<Arrival> arrivals_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> aborted_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::string reason_;  // guarded by mutex_
};

class ThreadsCommunicator : public Communicator {
 public:
  ThreadsCommunicator(std::shared_ptr<Group> group, int rank, int size, int64_t timeout_ms)
      : Communicator(rank, size, timeout_ms), group_(std::move(group)) {}

 private:
  void DoArrive(CollectiveName name) override { group_->Arrive(rank(), name); }
  void DoWait(CollectiveName name, Deadline deadline) override {
    group_->Wait(rank(), name, deadline);
  }
  void DoAbort(const std::string& reason) override { group_->Abort(reason); }

  // Shared by the ends of one group; the last to go frees it.
  const std::shared_ptr<Group> group_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadsCommunicators(int size, int64_t timeout_ms) {
  CHECK(size >= 1, size);
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> ends;
  for (int rank = 0; rank < size; ++rank) {
    ends.push_back(std::make_unique<ThreadsCommunicator>(group, rank, size, timeout_ms));
  }
  return ends;
}

}  // namespace causeway
