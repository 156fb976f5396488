// Tokens counted by expert, and the parts of the experts that the placement gives them to. The same
// placement decides in a step which part computes an expert for a home, so the sums here are what
// each part had to do.
#include "app/expert_load.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <numeric>

#include "app/flags.h"

namespace causeway {
namespace {
// Of one expert in a file; sums of all experts stay far below overflow.
constexpr int64_t kMostTokens = int64_t{1} << 48;
}  // namespace

ExpertLoad::ExpertLoad(const Weights& weights, const Layout& layout,
                       const std::vector<HostCounts>& counts) {
  const ExpertPlacement placement(weights.config(), layout, weights.share().redundant);
  std::vector<ExpertCounts> of_homes;  // [world]
  for (const HostCounts& host : counts) {
    of_homes.insert(of_homes.end(), host.experts.begin(), host.experts.end());
  }
  // Taken for its shape: which layers have experts, and how many.
  counts_ = of_homes[0];
  of_parts_.assign(static_cast<size_t>(layout.ep), 0);
  for (size_t layer = 0; layer < counts_.size(); ++layer) {
    std::vector<int64_t>& sums = counts_[layer];
    if (sums.empty()) continue;
    of_experts_.resize(sums.size(), 0);
    std::fill(sums.begin(), sums.end(), 0);
    std::vector<int64_t> parts(of_parts_.size(), 0);
    // Home by home: which of two parts computes an expert that both hold depends on the home.
    for (size_t home = 0; home < of_homes.size(); ++home) {
      for (size_t e = 0; e < sums.size(); ++e) {
        const int64_t tokens = of_homes[home][layer][e];
        sums[e] += tokens;
        of_experts_[e] += tokens;
        parts[static_cast<size_t>(placement.PartOf(
            static_cast<int64_t>(layer), static_cast<int32_t>(e), static_cast<int>(home)))] +=
            tokens;
      }
    }
    for (size_t part = 0; part < parts.size(); ++part) of_parts_[part] += parts[part];
    imbalance_of_layers_.push_back(Imbalance(parts));
  }
}

double ExpertLoad::Imbalance(const std::vector<int64_t>& loads) {
  const auto total = static_cast<double>(std::accumulate(loads.begin(), loads.end(), int64_t{0}));
  // Nothing to do is perfectly even.
  if (total == 0) return 1.0;
  return static_cast<double>(*std::max_element(loads.begin(), loads.end())) *
         static_cast<double>(loads.size()) / total;
}

std::string ExpertLoad::Table() const {
  if (of_experts_.empty()) return "";
  const double mean =
      std::accumulate(imbalance_of_layers_.begin(), imbalance_of_layers_.end(), 0.0) /
      static_cast<double>(imbalance_of_layers_.size());
  char line[256];
  std::snprintf(line, sizeof(line),
                "expert balance (most / mean): %.3f of %zu experts, %.3f of %zu parts; "
                "parts by layer %.3f on average, %.3f at worst\n",
                Imbalance(of_experts_), of_experts_.size(), Imbalance(of_parts_), of_parts_.size(),
                mean, *std::max_element(imbalance_of_layers_.begin(), imbalance_of_layers_.end()));
  return line;
}

nlohmann::json ExpertLoad::ToJson() const {
  return {{"counts", counts_},
          {"experts", of_experts_},
          {"experts_most_over_mean", of_experts_.empty() ? 1.0 : Imbalance(of_experts_)},
          {"parts", of_parts_},
          {"parts_most_over_mean", Imbalance(of_parts_)},
          {"parts_most_over_mean_by_layer", imbalance_of_layers_}};
}

Status ExpertLoad::WriteFile(const std::string& path) const {
  std::ofstream file(path);
  file << ToJson().dump() << "\n";
  file.close();
  return file ? Status() : InvalidArgument(Text("--expert-load-output: can't write ", path));
}

StatusOr<ExpertCounts> ExpertLoad::ReadFile(const std::string& path) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile("--init-expert-location", path));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto wrong = [&](const std::string& what) {
    return InvalidArgument(Text("--init-expert-location: ", path, ": ", what,
                                "; expected {\"counts\": [layers][experts]}, as bench prefill "
                                "--expert-load-output writes it"));
  };
  if (!json.is_object() || !json.contains("counts") || !json["counts"].is_array()) {
    return wrong("no list \"counts\"");
  }
  ExpertCounts counts;
  for (const auto& layer : json["counts"]) {
    if (!layer.is_array()) return wrong(Text("counts[", counts.size(), "] is no list"));
    auto& of_layer = counts.emplace_back();
    for (const auto& tokens : layer) {
      if (!tokens.is_number_integer() || tokens < 0 || tokens > kMostTokens) {
        return wrong(Text("counts[", counts.size() - 1, "][", of_layer.size(), "] is ",
                          tokens.dump().substr(0, 40), ", no count of tokens"));
      }
      of_layer.push_back(tokens.get<int64_t>());
    }
  }
  return counts;
}

}  // namespace causeway
