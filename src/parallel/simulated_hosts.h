// The ranks of several "hosts" in one process, for tests: each host has its own links and
// communication thread, and threads of this process stand for the network.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "parallel/rank_link.h"

namespace causeway {

class SimulatedHosts {
 public:
  explicit SimulatedHosts(const Layout& layout, int64_t timeout_ms = 60'000)
      : layout_(layout), network_(MakeThreadsCommunicators(layout.hosts, timeout_ms)) {
    const bool alone = layout.hosts == 1;
    for (int host = 0; host < layout.hosts; ++host) {
      const int ranks = layout.ranks_per_host();
      auto links =
          MakeRankLinks(MakeThreadsCommunicators(ranks + (alone ? 0 : 1), timeout_ms, host * ranks),
                        alone ? nullptr : network_[static_cast<size_t>(host)].get());
      for (auto& link : links) links_.push_back(std::move(link));
    }
  }

  RankLink& link(int rank) { return *links_[static_cast<size_t>(rank)]; }

  // Runs body(rank, its link) for every rank on a thread of its own. Like RankWorker, a rank that
  // fails aborts the others. Returns each rank's StepFailed message, empty where it ended well.
  std::vector<std::string> Run(const std::function<void(int, RankLink&)>& body) {
    std::vector<std::string> errors(links_.size());
    std::vector<std::thread> threads;
    for (int rank = 0; rank < layout_.world(); ++rank) {
      threads.emplace_back([&, rank] {
        try {
          body(rank, link(rank));
        } catch (const StepFailed& failure) {
          errors[static_cast<size_t>(rank)] = failure.what();
          link(rank).Abort(failure.what());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return errors;
  }

 private:
  const Layout layout_;
  std::vector<std::unique_ptr<Communicator>> network_;  // outlives the links
  std::vector<std::unique_ptr<RankLink>> links_;
};

}  // namespace causeway
