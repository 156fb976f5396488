#include "app/volumes.h"

#include <algorithm>
#include <cstdio>

#include "app/report.h"
#include "model/cost.h"

namespace causeway {

VolumeReport::VolumeReport(const Weights& weights, const KvShape& cache, const RankGroup& ranks,
                           int64_t tokens, int64_t chunk)
    : tokens_(tokens), layers_(weights.config().num_hidden_layers) {
  const ModelConfig& config = weights.config();
  const ExpertPlacement placement(config, ranks.layout(), weights.share().redundant);
  if (chunk <= 0) chunk = tokens;
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t end = std::min(tokens, begin + chunk);
    Batch batch;
    batch.extends.push_back({.tokens = std::vector<int32_t>(static_cast<size_t>(end - begin)),
                             .begin = begin,
                             .pages = {},
                             .logits = end == tokens ? LogitsWanted::kLast : LogitsWanted::kNone});
    for (const Volume& volume : PredictVolumes(
             config, VolumeTypes::Of(weights, cache), ranks.layout(), placement, batch,
             SlicesOf(batch, ranks.layout(), PartitionCost(config)), /*choices=*/nullptr)) {
      RowOf(volume.operation).predicted += volume.bytes;
    }
  }
  for (const ReadCounts* rank : ranks.reads()) {
    for (const ReadCounts::Sum& sum : rank->sums()) {
      if (sum.bytes == 0) continue;
      Row& row = RowOf(sum.operation);
      row.calls += sum.calls;
      row.bytes += static_cast<double>(sum.bytes);
      row.most_bytes = std::max(row.most_bytes, static_cast<double>(sum.bytes));
    }
  }
}

VolumeReport::Row& VolumeReport::RowOf(const std::string& operation) {
  for (Row& row : rows_) {
    if (row.operation == operation) return row;
  }
  return rows_.emplace_back(Row{.operation = operation});
}

std::string VolumeReport::Table() const {
  if (rows_.empty()) return "";
  char line[256];
  std::snprintf(line, sizeof(line), "%-20s %12s %12s %12s %8s %18s\n", "read of other ranks",
                "all ranks", "most of one", "in theory", "reads", "B/(token, layer)");
  std::string out = line;
  for (const Row& row : rows_) {
    std::snprintf(line, sizeof(line), "%-20s %12s %12s %12s %8lld %18.1f\n", row.operation.c_str(),
                  HumanBytes(row.bytes).c_str(), HumanBytes(row.most_bytes).c_str(),
                  HumanBytes(row.predicted).c_str(), static_cast<long long>(row.calls),
                  row.bytes / static_cast<double>(tokens_ * layers_));
    out += line;
  }
  return out;
}

nlohmann::json VolumeReport::ToJson() const {
  nlohmann::json out = nlohmann::json::array();
  for (const Row& row : rows_) {
    out.push_back({{"operation", row.operation},
                   {"reads", row.calls},
                   {"bytes", row.bytes},
                   {"most_bytes_of_a_rank", row.most_bytes},
                   {"predicted_bytes", row.predicted}});
  }
  return out;
}

}  // namespace causeway
