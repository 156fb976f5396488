// What a prefill gave and cost, as tables for people and JSON for machines.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/trace.h"
#include "engine/rank_group.h"

namespace causeway {

// Seconds per operation, summed over layers and steps, of each rank.
struct OperationTimes {
  std::vector<std::string> operations;       // in order of first use
  std::vector<std::vector<double>> seconds;  // [rank][operation]

  // From the sums of the ranks' lanes, in their order.
  static OperationTimes Of(const std::vector<const TraceLane*>& lanes);
  double Total(size_t rank) const;
  // Seconds of an operation on the slowest rank.
  double Slowest(size_t operation) const;
};

// One column per rank of every run, one row per operation, in milliseconds; runs side by side.
struct NamedTimes {
  std::string name;
  OperationTimes times;
  double wall_seconds;
};
std::string OperationTable(const std::vector<NamedTimes>& runs);

nlohmann::json OperationJson(const OperationTimes& times);

// 16 hexadecimal digits (FNV-1a) that differ where a bit of the logits does.
std::string LogitsHash(const std::vector<float>& logits);

// "1.50 GB", "12.0 MB".
std::string HumanBytes(double bytes);

}  // namespace causeway
