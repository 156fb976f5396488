// VolumeReport: what ranks read of each other in a prefill, beside what theory says.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/rank_group.h"
#include "model/volume.h"

namespace causeway {

class VolumeReport {
 public:
  VolumeReport() = default;
  // `ranks` have computed one prompt of `tokens` tokens in chunks of at most `chunk` (<= 0: all at
  // once) since their counters were cleared.
  VolumeReport(const Weights& weights, const KvShape& cache, const RankGroup& ranks, int64_t tokens,
               int64_t chunk);

  // One row per operation; empty if nothing moved.
  std::string Table() const;
  nlohmann::json ToJson() const;

 private:
  struct Row {
    std::string operation;
    int64_t calls = 0;      // reads from another rank, or from all of a group
    double bytes = 0;       // of all ranks
    double most_bytes = 0;  // of the rank with the most
    double predicted = 0;   // of all ranks, experts chosen evenly
  };
  Row& RowOf(const std::string& operation);

  std::vector<Row> rows_;
  int64_t tokens_ = 0;
  int64_t layers_ = 0;
};

}  // namespace causeway
