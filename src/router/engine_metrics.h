// The metrics of several servers as one text.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace causeway {

// `texts`: the name of each worker and what its /metrics says, in Prometheus' text format. Every
// sample gets the label worker; each family is described once, as the first worker that has it
// does.
std::string MergeMetrics(const std::vector<std::pair<std::string, std::string>>& texts);

}  // namespace causeway
