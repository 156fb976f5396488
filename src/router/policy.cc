#include "router/policy.h"

#include <algorithm>
#include <tuple>

namespace causeway {
namespace {

size_t Below(std::mt19937_64& random, size_t count) {
  return static_cast<size_t>(random() % count);
}

}  // namespace

size_t Policy::Pick(std::span<const Candidate> candidates, std::string_view prefix) {
  CHECK(!candidates.empty(), "no candidate");
  const size_t chosen = Choose(candidates, prefix);
  CHECK(chosen < candidates.size(), chosen, " of ", candidates.size());
  return chosen;
}

size_t RandomPolicy::Choose(std::span<const Candidate> candidates, std::string_view) {
  return Below(random_, candidates.size());
}

size_t RoundRobinPolicy::Choose(std::span<const Candidate> candidates, std::string_view) {
  return static_cast<size_t>(next_++ % candidates.size());
}

size_t PowerOfTwoPolicy::Choose(std::span<const Candidate> candidates, std::string_view) {
  if (candidates.size() == 1) return 0;
  const size_t first = Below(random_, candidates.size());
  // Another one: any of those that are left.
  const size_t second = (first + 1 + Below(random_, candidates.size() - 1)) % candidates.size();
  return candidates[second].requests < candidates[first].requests ? second : first;
}

PrefixTree& CacheAwarePolicy::TreeOf(uint64_t worker) {
  return trees_.try_emplace(worker, options_.max_tree_size).first->second;
}

size_t CacheAwarePolicy::Choose(std::span<const Candidate> candidates, std::string_view prefix) {
  const auto fewer = [](const Candidate& a, const Candidate& b) { return a.requests < b.requests; };
  const auto [least, most] = std::minmax_element(candidates.begin(), candidates.end(), fewer);
  size_t chosen = static_cast<size_t>(least - candidates.begin());
  const bool unbalanced = most->requests - least->requests > options_.balance_abs_threshold &&
                          static_cast<double>(most->requests) >
                              options_.balance_rel_threshold * static_cast<double>(least->requests);
  // Without a prompt there is nothing to find again.
  if (!unbalanced && !prefix.empty()) {
    size_t longest = 0;
    size_t holder = 0;
    for (size_t i = 0; i < candidates.size(); ++i) {
      const size_t matched = TreeOf(candidates[i].worker).Match(prefix);
      const bool better =
          matched > longest ||
          (matched == longest && candidates[i].requests < candidates[holder].requests);
      if (!better) continue;
      longest = matched;
      holder = i;
    }
    const double rate = static_cast<double>(longest) / static_cast<double>(prefix.size());
    if (rate > options_.cache_threshold) {
      chosen = holder;
    } else {
      const auto room = [this](const Candidate& candidate) {
        return std::tuple(TreeOf(candidate.worker).size(), candidate.requests);
      };
      chosen =
          static_cast<size_t>(std::min_element(candidates.begin(), candidates.end(),
                                               [&room](const Candidate& a, const Candidate& b) {
                                                 return room(a) < room(b);
                                               }) -
                              candidates.begin());
    }
  }
  if (!prefix.empty()) TreeOf(candidates[chosen].worker).Insert(prefix);
  return chosen;
}

StatusOr<std::unique_ptr<Policy>> MakePolicy(const std::string& flag, const std::string& name,
                                             const PolicyOptions& options) {
  if (name == "random") return std::unique_ptr<Policy>(new RandomPolicy(options.seed));
  if (name == "round_robin") return std::unique_ptr<Policy>(new RoundRobinPolicy);
  if (name == "power_of_two") return std::unique_ptr<Policy>(new PowerOfTwoPolicy(options.seed));
  if (name == "cache_aware") return std::unique_ptr<Policy>(new CacheAwarePolicy(options));
  return InvalidArgument(
      Text(flag, " is '", name, "'; expected random, round_robin, power_of_two or cache_aware"));
}

}  // namespace causeway
