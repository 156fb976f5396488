// Only steps of srun with one task a node count as hosts of a server: anything else in a job's
// environment (a shell in an allocation, several tasks a node) leaves the flags to the user.
#include "app/slurm.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"

namespace causeway {
namespace {

// Jobs that share a node take different ports: of the job's number, below those that Linux gives to
// connections.
constexpr int64_t kFirstPort = 20'000;
constexpr int64_t kPorts = 10'000;

StatusOr<int64_t> Number(const std::string& name, const std::string& text) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && stop == end && value >= 0) return value;
  return InvalidArgument(Text(name, " is '", text,
                              "' in the environment; expected a number, or --nnodes, --node-rank "
                              "and --dist-init-addr instead"));
}

}  // namespace

// Of "node[03-05,07],other": the text before the bracket and the first number in it.
std::string FirstSlurmNode(const std::string& list) {
  std::string name;
  for (size_t at = 0; at < list.size() && list[at] != ','; ++at) {
    if (list[at] != '[') {
      name += list[at];
      continue;
    }
    const size_t close = std::min(list.find(']', at), list.size());
    const size_t end = std::min(list.find_first_of("-,", at), close);
    name += list.substr(at + 1, end - at - 1);
    at = close;
  }
  return name;
}

StatusOr<std::optional<SlurmStep>> SlurmStepOf(
    const std::function<std::string(const std::string& name)>& variable) {
  const std::string nodes = variable("SLURM_STEP_NUM_NODES");
  if (nodes.empty() || nodes == "1" || nodes != variable("SLURM_STEP_NUM_TASKS")) {
    return std::optional<SlurmStep>();
  }
  const std::string job = variable("SLURM_JOB_ID");
  const std::string list = variable("SLURM_STEP_NODELIST");
  CAUSEWAY_ASSIGN_OR_RETURN(const int64_t count, Number("SLURM_STEP_NUM_NODES", nodes));
  CAUSEWAY_ASSIGN_OR_RETURN(const int64_t node, Number("SLURM_NODEID", variable("SLURM_NODEID")));
  CAUSEWAY_ASSIGN_OR_RETURN(const int64_t id, Number("SLURM_JOB_ID", job.empty() ? "0" : job));
  const std::string first = FirstSlurmNode(list);
  if (count > INT32_MAX || node >= count || first.empty()) {
    return InvalidArgument(Text("the environment has SLURM_STEP_NUM_NODES=", count,
                                ", SLURM_NODEID=", node, " and SLURM_STEP_NODELIST='", list,
                                "', which is no step of several nodes; give --nnodes, --node-rank "
                                "and --dist-init-addr instead"));
  }
  return std::optional(SlurmStep{static_cast<int>(count), static_cast<int>(node),
                                 // Every host computes the same port from the job's number, without
                                 // having met.
                                 Text(first, ":", kFirstPort + id % kPorts)});
}

}  // namespace causeway
