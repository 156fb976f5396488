#include "parallel/layout.h"

namespace causeway {
namespace {
constexpr int kMost = 1024;  // ranks or threads; far above any machine
}

const char* NameOf(PartitionKind kind) {
  switch (kind) {
    case PartitionKind::kContiguous:
      return "contiguous";
    case PartitionKind::kZigzag:
      return "zigzag";
    case PartitionKind::kBalanced:
      return "balanced";
  }
  return "?";
}

StatusOr<PartitionKind> ParsePartitionKind(const std::string& name) {
  for (PartitionKind kind :
       {PartitionKind::kContiguous, PartitionKind::kZigzag, PartitionKind::kBalanced}) {
    if (name == NameOf(kind)) return kind;
  }
  return InvalidArgument(
      Text("--cp-partition is '", name, "'; expected contiguous, zigzag or balanced"));
}

StatusOr<Layout> Layout::Make(int world, int cp, int dp, int ep, int threads_per_rank,
                              PartitionKind partition) {
  const auto check = [](const char* flag, int value, int least) -> Status {
    if (value >= least && value <= kMost) return Status();
    return InvalidArgument(
        Text(flag, " is ", value, "; expected a number from ", least, " to ", kMost));
  };
  CAUSEWAY_RETURN_IF_ERROR(check("--tp", world, 0));
  CAUSEWAY_RETURN_IF_ERROR(check("--cp-size", cp, 1));
  CAUSEWAY_RETURN_IF_ERROR(check("--dp-size", dp, 1));
  CAUSEWAY_RETURN_IF_ERROR(check("--ep-size", ep, 0));
  CAUSEWAY_RETURN_IF_ERROR(check("--threads-per-rank", threads_per_rank, 1));
  if (world == 0) world = cp * dp;
  if (world % (cp * dp) != 0) {
    const int below = world / (cp * dp) * (cp * dp);
    const std::string nearest =
        below > 0 ? Text(below, " or ", below + cp * dp) : Text(below + cp * dp);
    return InvalidArgument(Text("attention TP = --tp / (--cp-size x --dp-size) must be whole: ",
                                world, " / (", cp, " x ", dp, ") is not; nearest --tp: ", nearest));
  }
  Layout layout;
  layout.cp = cp;
  layout.dp = dp;
  layout.tp = world / (cp * dp);
  layout.ep = ep == 0 ? 1 : ep;
  layout.threads_per_rank = threads_per_rank;
  layout.partition = partition;
  if (layout.tp > 1 || dp > 1 || layout.ep > 1) {
    return InvalidArgument(
        Text("--tp ", world, " --cp-size ", cp, " --dp-size ", dp, " --ep-size ", ep,
             " means attention TP ", layout.tp, ", DP ", dp, ", EP ", layout.ep,
             "; this version splits by context only: use --cp-size ", world, " (--tp ", world,
             " or none, --dp-size 1, --ep-size 1), and --threads-per-rank for more threads"));
  }
  return layout;
}

std::string Layout::ToString() const {
  return Text("cp", cp, " dp", dp, " tp", tp, " ep", ep, " x ", threads_per_rank,
              threads_per_rank == 1 ? " thread, " : " threads, ", NameOf(partition));
}

}  // namespace causeway
