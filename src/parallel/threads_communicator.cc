// A group whose ranks are threads of this process. Data mostly needs no moving: it lies in shared
// memory, and a collective is a barrier in two phases. An exchange copies between two barriers.
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>

#include "base/check.h"
#include "base/pause.h"
#include "parallel/communicator.h"
#include "parallel/mismatch.h"

namespace causeway {
namespace {

// A waiting rank spins for about a microsecond, then gives way to other ranks of its core (there
// may be more ranks than cores), then sleeps.
constexpr int kSpins = 200;
constexpr int kYields = 100;

// An exchange is two barriers: kOffer, when all offers can be read, and kTaken, when all have been.
enum class Kind : uint8_t { kBarrier, kOffer, kTaken };

// Ranks count their barriers, of which an exchange is two; round n is complete when every rank's
// count has passed n.
class Group {
 public:
  Group(int size, int first_rank, int rank_step)
      : first_rank_(first_rank),
        rank_step_(rank_step),
        arrivals_(static_cast<size_t>(size)),
        offers_(arrivals_.size()) {}

  // `kind` tells a barrier from the two phases of an exchange.
  void Arrive(int rank, CollectiveName name, Kind kind) {
    Arrival& mine = arrivals_[static_cast<size_t>(rank)];
    const uint64_t round = mine.count.load(std::memory_order_relaxed) + 1;
    mine.name[round % 2] = name;
    mine.kind[round % 2] = kind;
    // This rank's writes before are visible to who sees the new count. Sequentially consistent, as
    // are the look at sleepers_ here and both of them in Sleep: either the sleeper sees the count
    // or this rank sees the sleeper.
    mine.count.store(round, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      { const std::lock_guard lock(mutex_); }
      wake_.notify_all();
    }
  }

  void Wait(int rank, CollectiveName name, Kind kind, Deadline deadline) {
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
    // Again, as an abort also ends the waiting.
    CheckAborted(rank, name);
    CheckNames(rank, name, kind, round);
  }

  void Exchange(int rank, CollectiveName name, std::span<const Outgoing> to,
                std::span<const Incoming> from, Deadline deadline) {
    Offer& mine = offers_[static_cast<size_t>(rank)];
    CheckAborted(rank, name);
    if (mine.withdrawn.load(std::memory_order_relaxed)) {
      throw StepFailed(
          Text("rank ", Name(rank), ": ", NameOf(name), " follows an exchange that failed"));
    }
    mine.to.assign(to.begin(), to.end());
    mine.from.assign(from.begin(), from.end());
    try {
      Arrive(rank, name, Kind::kOffer);
      Wait(rank, name, Kind::kOffer, deadline);
      // After kOffer every rank's sizes can be seen, and each finds a mismatch by itself.
      CheckSizes(rank, name);
      for (size_t peer = 0; peer < offers_.size(); ++peer) {
        if (static_cast<int>(peer) != rank) Copy(rank, name, peer, from[peer]);
      }
      Arrive(rank, name, Kind::kTaken);
      Wait(rank, name, Kind::kTaken, deadline);
    } catch (const StepFailed&) {
      // The caller may free what it offered as soon as this has left, so wait for those who are in
      // the middle of a copy of it; nobody begins one any more.
      mine.withdrawn.store(true, std::memory_order_seq_cst);
      while (mine.readers.load(std::memory_order_seq_cst) > 0) std::this_thread::yield();
      throw;
    }
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
    Kind kind[2] = {};
  };

  // What a rank gives and wants in its present exchange. Written before its first phase and read
  // between the two.
  struct Offer {
    std::vector<Outgoing> to;
    std::vector<Incoming> from;
    std::atomic<int> readers{0};  // ranks that copy from it now
    std::atomic<bool> withdrawn{false};
  };

  void CheckSizes(int rank, CollectiveName name) const {
    const Offer& mine = offers_[static_cast<size_t>(rank)];
    for (size_t peer = 0; peer < offers_.size(); ++peer) {
      if (static_cast<int>(peer) == rank) continue;
      const Offer& theirs = offers_[peer];
      CheckPeerSizes("rank", {.name = name,
                              .rank = rank,
                              .peer = static_cast<int>(peer),
                              .sent = theirs.to[static_cast<size_t>(rank)].bytes,
                              .expected = mine.from[peer].bytes,
                              .peer_expected = theirs.from[static_cast<size_t>(rank)].bytes,
                              .given = mine.to[peer].bytes});
    }
  }

  void Copy(int rank, CollectiveName name, size_t peer, const Incoming& piece) {
    if (piece.bytes == 0) return;
    Offer& theirs = offers_[peer];
    // Counted before the look at `withdrawn`: the owner waits for readers that it can no longer
    // turn away.
    theirs.readers.fetch_add(1, std::memory_order_seq_cst);
    const bool withdrawn = theirs.withdrawn.load(std::memory_order_seq_cst);
    if (!withdrawn) {
      std::memcpy(piece.data, theirs.to[static_cast<size_t>(rank)].data,
                  static_cast<size_t>(piece.bytes));
    }
    theirs.readers.fetch_sub(1, std::memory_order_seq_cst);
    if (!withdrawn) return;
    CheckAborted(rank, name);
    throw StepFailed(Text("rank ", Name(rank), ": ", NameOf(name), ": rank ", peer, " gave it up"));
  }

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
        absent += Text(absent.empty() ? "" : ", ", Name(static_cast<int>(other)));
      }
    }
    if (absent.empty()) return;  // the last one came just after the deadline
    throw StepFailed(Text("rank ", Name(rank), ": ", NameOf(name), " passed its deadline; rank ",
                          absent, " did not arrive"));
  }

  void CheckAborted(int rank, CollectiveName name) {
    if (!aborted_.load(std::memory_order_acquire)) return;
    const std::lock_guard lock(mutex_);
    throw StepFailed(Text("rank ", Name(rank), ": ", NameOf(name), " was aborted: ", reason_));
  }

  // Ranks that meet in different operations have taken different branches: a bug that must be named
  // and not hang.
  void CheckNames(int rank, CollectiveName name, Kind kind, uint64_t round) const {
    for (size_t other = 0; other < arrivals_.size(); ++other) {
      const CollectiveName& theirs = arrivals_[other].name[round % 2];
      const Kind their_kind = arrivals_[other].kind[round % 2];
      CheckSameCall("rank", {Name(rank), name, kind != Kind::kBarrier},
                    {Name(static_cast<int>(other)), theirs, their_kind != Kind::kBarrier});
    }
  }

  // What errors call a member.
  int Name(int rank) const { return first_rank_ + rank * rank_step_; }

  const int first_rank_;
  const int rank_step_;
  std::vector<Arrival> arrivals_;
  std::vector<Offer> offers_;
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
  void DoArrive(CollectiveName name) override { group_->Arrive(rank(), name, Kind::kBarrier); }
  void DoWait(CollectiveName name, Deadline deadline) override {
    group_->Wait(rank(), name, Kind::kBarrier, deadline);
  }
  void DoExchange(CollectiveName name, std::span<const Outgoing> to, std::span<const Incoming> from,
                  Deadline deadline) override {
    group_->Exchange(rank(), name, to, from, deadline);
  }
  void DoAbort(const std::string& reason) override { group_->Abort(reason); }

  // Shared by the ends of one group; the last to go frees it.
  const std::shared_ptr<Group> group_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadsCommunicators(int size, int64_t timeout_ms,
                                                                    int first_rank, int rank_step) {
  CHECK(size >= 1, size);
  auto group = std::make_shared<Group>(size, first_rank, rank_step);
  std::vector<std::unique_ptr<Communicator>> ends;
  for (int rank = 0; rank < size; ++rank) {
    ends.push_back(std::make_unique<ThreadsCommunicator>(group, rank, size, timeout_ms));
  }
  return ends;
}

}  // namespace causeway
