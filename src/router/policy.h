// Which of several workers gets a request.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/status.h"
#include "router/prefix_tree.h"

namespace causeway {

// A worker that could take the request.
struct Candidate {
  uint64_t worker = 0;   // its number, never used twice
  int64_t requests = 0;  // that this router has under way there
};

struct PolicyOptions {
  // Of cache_aware. The load is out of balance where (most - fewest) requests > abs and
  // most > rel * fewest.
  double cache_threshold = 0.3;
  int64_t balance_abs_threshold = 64;
  double balance_rel_threshold = 1.5;
  int64_t max_tree_size = int64_t{1} << 26;  // of each worker, as PrefixTree counts
  uint64_t seed = 0;
};

class Policy {
 public:
  virtual ~Policy() = default;
  // An index into `candidates`, which are not empty. `prefix`: RequestFacts::prefix, perhaps empty.
  size_t Pick(std::span<const Candidate> candidates, std::string_view prefix);
  // The worker is gone.
  void Forget(uint64_t worker) { Drop(worker); }

 private:
  virtual size_t Choose(std::span<const Candidate> candidates, std::string_view prefix) = 0;
  virtual void Drop(uint64_t /*worker*/) {}
};

class RandomPolicy : public Policy {
 public:
  explicit RandomPolicy(uint64_t seed) : random_(seed) {}

 private:
  size_t Choose(std::span<const Candidate> candidates, std::string_view prefix) override;
  std::mt19937_64 random_;
};

class RoundRobinPolicy : public Policy {
 private:
  size_t Choose(std::span<const Candidate> candidates, std::string_view prefix) override;
  uint64_t next_ = 0;
};

// The one with fewer requests of two that chance takes.
class PowerOfTwoPolicy : public Policy {
 public:
  explicit PowerOfTwoPolicy(uint64_t seed) : random_(seed) {}

 private:
  size_t Choose(std::span<const Candidate> candidates, std::string_view prefix) override;
  std::mt19937_64 random_;
};

// Where the load is out of balance, the one with the fewest requests; else the one that has seen
// the longest part of the prompt, if that is more than the threshold; else the one that has seen
// least.
class CacheAwarePolicy : public Policy {
 public:
  explicit CacheAwarePolicy(const PolicyOptions& options) : options_(options) {}

 private:
  size_t Choose(std::span<const Candidate> candidates, std::string_view prefix) override;
  void Drop(uint64_t worker) override { trees_.erase(worker); }
  PrefixTree& TreeOf(uint64_t worker);

  const PolicyOptions options_;
  std::unordered_map<uint64_t, PrefixTree> trees_;
};

// "random", "round_robin", "power_of_two" or "cache_aware". Errors name `flag`.
StatusOr<std::unique_ptr<Policy>> MakePolicy(const std::string& flag, const std::string& name,
                                             const PolicyOptions& options);

}  // namespace causeway
