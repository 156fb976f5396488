// HostCounts: what one host has counted since its counters were cleared. Host 0 of several asks the
// others for theirs (RankGroup::Counts).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/expert_placement.h"
#include "parallel/communicator.h"

namespace causeway {

struct HostCounts {
  // How long the exchanges of one operation took.
  struct ActionTime {
    std::string operation;
    int64_t ns = 0;
    bool operator==(const ActionTime&) const = default;
  };

  // Of each rank of the host: what it read of what other ranks wrote, and the tokens that it was
  // home to, by expert.
  std::vector<std::vector<Traffic>> reads;
  std::vector<ExpertCounts> experts;
  // Empty on one host: what it sent to others, and how long exchanges took with all that belongs to
  // them, such as copies from and to the cache, from when all ranks of the host had arrived.
  std::vector<Traffic> sent;
  std::vector<ActionTime> times;

  bool operator==(const HostCounts&) const = default;
};

// As bytes, and back; an error if the bytes are not what Encode made.
std::string EncodeCounts(const HostCounts& counts);
StatusOr<HostCounts> DecodeCounts(const std::string& bytes);

}  // namespace causeway
