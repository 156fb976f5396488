// What srun says of the step that this process belongs to.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/status.h"

namespace causeway {

// The hosts of a step with one task on each.
struct SlurmStep {
  int nodes = 1;
  int node = 0;           // this one
  std::string init_addr;  // HOST:PORT of node 0
};

// The first name of a Slurm node list: "node[03-05,9]" and "node03,node04" both give "node03".
std::string FirstSlurmNode(const std::string& list);

// Nothing outside of srun, in a step of one node, and in one with several tasks on a node.
// `variable` gives a variable of the environment, empty where there is none.
StatusOr<std::optional<SlurmStep>> SlurmStepOf(
    const std::function<std::string(const std::string& name)>& variable);

}  // namespace causeway
