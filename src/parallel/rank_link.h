// RankLink: one rank's end of the ranks of its host that share memory, and through them of the
// other hosts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/trace.h"
#include "parallel/communicator.h"

namespace causeway {

class HostThread;

// What a host does for its ranks between hosts, on the host's communication thread, after all of
// them have arrived at a collective and before any of them leaves it. `hosts`: this host's end.
using HostAction = std::function<void(Communicator& hosts)>;

// A collective of the ranks of a host: every rank says where its data lies, all wait for each
// other, then each reads the others' data in place. On several hosts the communication thread runs
// the collective's action in between.
//
// What a rank shares must stay as it is until its *next* collective on the same link has returned
// from Wait. Used by that rank's thread only.
class RankLink {
 public:
  ~RankLink();

  int index() const { return index_; }  // among the ranks of this link
  int size() const { return size_; }

  // Split phase: Arrive returns at once; between it and Wait the rank computes. On several hosts
  // the action of the link's rank 0 is run; what it refers to must live until Wait returns, or
  // where that throws, until Settle does.
  void Arrive(CollectiveName name, const void* shared = nullptr, HostAction action = {});
  void Wait();
  void Barrier(CollectiveName name, const void* shared = nullptr, HostAction action = {}) {
    Arrive(name, shared, std::move(action));
    Wait();
  }
  // After Abort: waits until the communication thread runs no action, at most until the deadline.
  void Settle(Deadline deadline);
  // What rank `index` shared at the collective whose Wait returned last. An action may ask too, of
  // the collective that it belongs to.
  template <typename T>
  const T* Shared(int index) const {
    return static_cast<const T*>((*board_)[static_cast<size_t>(index)].shared[round_ % 2]);
  }

  // How long the actions took, by collective, from when all ranks of the host had arrived; null on
  // one host. Only while no collective is under way.
  TraceLane* action_times() const;

  // Makes every present and later collective throw StepFailed with this reason. From any thread.
  void Abort(const std::string& reason);

 private:
  friend std::vector<std::unique_ptr<RankLink>> MakeRankLinks(
      std::vector<std::unique_ptr<Communicator>> ends, Communicator* hosts);

  struct alignas(64) Post {
    // Of round n in [n % 2]: a rank that is one round ahead writes beside what others still read.
    const void* shared[2] = {};
  };
  using Board = std::vector<Post>;

  RankLink(std::unique_ptr<Communicator> end, std::shared_ptr<Board> board,
           std::shared_ptr<HostThread> thread);

  const std::unique_ptr<Communicator> end_;
  const std::shared_ptr<Board> board_;
  const std::shared_ptr<HostThread> thread_;  // null on one host
  const int index_;
  const int size_;
  CollectiveName name_;
  uint64_t round_ = 0;
};

// The links of the ranks of one host over their ends of a group of threads. `hosts` null: one host.
// Else the group has one end more than ranks, the last, for the communication thread, which lives
// as long as a link does; `hosts` must outlive the links.
std::vector<std::unique_ptr<RankLink>> MakeRankLinks(
    std::vector<std::unique_ptr<Communicator>> ends, Communicator* hosts);

}  // namespace causeway
