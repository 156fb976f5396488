// ExpertLoad: how evenly tokens chose the experts, and how evenly the ep parts shared the work.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/host_counts.h"
#include "model/expert_placement.h"
#include "model/weights.h"

namespace causeway {

class ExpertLoad {
 public:
  ExpertLoad() = default;
  // What the ranks of all hosts have counted since their counters were cleared.
  ExpertLoad(const Weights& weights, const Layout& layout, const std::vector<HostCounts>& counts);

  // One line for people, with its line break.
  std::string Table() const;  // empty if the model has no routed experts
  // The balance, and {"counts": [layers][experts]}, which ReadFile reads.
  nlohmann::json ToJson() const;
  Status WriteFile(const std::string& path) const;
  // The counts of a file that WriteFile wrote; errors name the file.
  static StatusOr<ExpertCounts> ReadFile(const std::string& path);

 private:
  // The most loaded over the mean; 1 is even.
  static double Imbalance(const std::vector<int64_t>& loads);

  ExpertCounts counts_;
  std::vector<int64_t> of_experts_;          // summed over layers
  std::vector<int64_t> of_parts_;            // slots that each ep part computed, over all layers
  std::vector<double> imbalance_of_layers_;  // of the parts, per MoE layer
};

}  // namespace causeway
