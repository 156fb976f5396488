// Predictions come from the same pure functions that tests compare with the counts; here both are
// put side by side, operation by operation.
#include "app/volumes.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "app/report.h"
#include "engine/step_broadcast.h"
#include "model/cost.h"

namespace causeway {
namespace {

// The row of all that hosts send beside a step's own work: what the step is, signs of life.
constexpr char kControl[] = "control";

}  // namespace

VolumeReport::VolumeReport(const Weights& weights, const KvShape& cache, const Layout& layout,
                           const std::vector<HostCounts>& counts, int64_t tokens, int64_t chunk)
    : tokens_(tokens), layers_(weights.config().num_hidden_layers) {
  const ModelConfig& config = weights.config();
  const ExpertPlacement placement(config, layout, weights.share().redundant);
  const VolumeTypes types = VolumeTypes::Of(weights, cache);
  if (chunk <= 0) chunk = tokens;
  // The same chunks as the prefill's, since what moves depends on them.
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t end = std::min(tokens, begin + chunk);
    Batch batch;
    batch.extends.push_back({.tokens = std::vector<int32_t>(static_cast<size_t>(end - begin)),
                             .begin = begin,
                             .pages = {},
                             .logits = end == tokens ? LogitsWanted::kLast : LogitsWanted::kNone});
    const StepSlices slices =
        SlicesOf(batch, layout, PartitionCost(config, layout, cache.int8_index));
    const auto add = [](std::vector<Row>& rows, const std::vector<Volume>& volumes) {
      for (const Volume& volume : volumes) {
        Row& row = RowOf(rows, volume.operation);
        row.predicted = row.predicted.value_or(0) + volume.bytes;
      }
    };
    // On several hosts some of what ranks of one host would read of each other crosses wires.
    if (layout.hosts == 1) {
      add(rows_, PredictVolumes(config, types, layout, placement, batch, slices, nullptr));
    } else {
      add(host_rows_, PredictHostVolumes(config, types, layout, placement, batch, slices, nullptr));
    }
  }
  for (size_t h = 0; h < counts.size(); ++h) {
    const HostCounts& host = counts[h];
    for (const auto& rank : host.reads) Add(rows_, rank);
    std::vector<Traffic> sent;
    Traffic control{.operation = kControl};
    for (const Traffic& each : host.sent) {
      if (IsControl(each.operation)) {
        control.calls += each.calls;
        control.bytes += each.bytes;
      } else {
        sent.push_back(each);
      }
    }
    sent.push_back(control);
    Add(host_rows_, sent);
    for (const HostCounts::ActionTime& time : host.times) {
      for (Row& row : host_rows_) {
        if (row.operation != time.operation) continue;
        row.seconds.resize(counts.size(), 0);
        row.seconds[h] = static_cast<double>(time.ns) * 1e-9;
      }
    }
  }
}

VolumeReport::Row& VolumeReport::RowOf(std::vector<Row>& rows, const std::string& operation) {
  for (Row& row : rows) {
    if (row.operation == operation) return row;
  }
  return rows.emplace_back(Row{.operation = operation});
}

void VolumeReport::Add(std::vector<Row>& rows, const std::vector<Traffic>& moved) {
  for (const Traffic& each : moved) {
    // Operations that moved nothing would only fill the table.
    if (each.bytes == 0) continue;
    Row& row = RowOf(rows, each.operation);
    row.calls += each.calls;
    row.bytes += static_cast<double>(each.bytes);
    // `moved` is one rank's or one host's: the most of one is the largest of these calls.
    row.most_bytes = std::max(row.most_bytes, static_cast<double>(each.bytes));
  }
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
                  row.predicted ? HumanBytes(*row.predicted).c_str() : "-",
                  static_cast<long long>(row.calls),
                  row.bytes / static_cast<double>(tokens_ * layers_));
    out += line;
  }
  return out;
}

std::string VolumeReport::HostTable() const {
  if (host_rows_.empty()) return "";
  char line[256];
  std::snprintf(line, sizeof(line), "%-20s %12s %12s %12s %9s %16s %11s\n", "sent to other hosts",
                "all hosts", "most of one", "in theory", "exchanges", "B/(token, layer)",
                "slowest, ms");
  std::string out = line;
  for (const Row& row : host_rows_) {
    const auto slowest = std::max_element(row.seconds.begin(), row.seconds.end());
    std::snprintf(
        line, sizeof(line), "%-20s %12s %12s %12s %9lld %16.1f %11s\n", row.operation.c_str(),
        HumanBytes(row.bytes).c_str(), HumanBytes(row.most_bytes).c_str(),
        row.predicted ? HumanBytes(*row.predicted).c_str() : "-", static_cast<long long>(row.calls),
        row.bytes / static_cast<double>(tokens_ * layers_),
        row.seconds.empty() ? "-" : Text(std::lround(*slowest * 1e3)).c_str());
    out += line;
  }
  return out;
}

nlohmann::json VolumeReport::ToJson() const {
  nlohmann::json out = nlohmann::json::array();
  for (const Row& row : rows_) {
    auto& json = out.emplace_back(nlohmann::json{{"operation", row.operation},
                                                 {"reads", row.calls},
                                                 {"bytes", row.bytes},
                                                 {"most_bytes_of_a_rank", row.most_bytes}});
    if (row.predicted) json["predicted_bytes"] = *row.predicted;
  }
  return out;
}

nlohmann::json VolumeReport::HostsToJson() const {
  nlohmann::json out = nlohmann::json::array();
  for (const Row& row : host_rows_) {
    auto& json = out.emplace_back(nlohmann::json{{"operation", row.operation},
                                                 {"exchanges", row.calls},
                                                 {"bytes", row.bytes},
                                                 {"most_bytes_of_a_host", row.most_bytes}});
    if (row.predicted) json["predicted_bytes"] = *row.predicted;
    if (!row.seconds.empty()) json["host_seconds"] = row.seconds;
  }
  return out;
}

}  // namespace causeway
