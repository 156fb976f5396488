// VolumeReport: what ranks read of each other in a prefill, and what crossed hosts, beside what
// theory says.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/host_counts.h"
#include "model/volume.h"

namespace causeway {

class VolumeReport {
 public:
  VolumeReport() = default;
  // counts[host]: of ranks that have computed one prompt of `tokens` tokens in chunks of at most
  // `chunk` (<= 0: all at once) since their counters were cleared.
  VolumeReport(const Weights& weights, const KvShape& cache, const Layout& layout,
               const std::vector<HostCounts>& counts, int64_t tokens, int64_t chunk);

  // One row per operation; empty if nothing moved.
  std::string Table() const;
  nlohmann::json ToJson() const;
  // What crossed hosts; empty on one host.
  std::string HostTable() const;
  nlohmann::json HostsToJson() const;

 private:
  struct Row {
    std::string operation;
    int64_t calls = 0;      // reads from another rank or all of a group; exchanges
    double bytes = 0;       // of all ranks; of all hosts
    double most_bytes = 0;  // of the rank, or host, with the most
    // Of all, experts chosen evenly; none where theory says nothing.
    std::optional<double> predicted = {};
    std::vector<double> seconds = {};  // [hosts]: of its exchanges and what belongs to them
  };
  static Row& RowOf(std::vector<Row>& rows, const std::string& operation);
  // Adds what each of them has moved, to the row of the operation.
  static void Add(std::vector<Row>& rows, const std::vector<Traffic>& moved);

  std::vector<Row> rows_;
  std::vector<Row> host_rows_;
  int64_t tokens_ = 0;
  int64_t layers_ = 0;
};

}  // namespace causeway
