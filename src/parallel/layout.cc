#include "parallel/layout.h"

namespace causeway {
namespace {
constexpr int kMost = 1024;  // ranks, and threads of all ranks; far above any machine
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
  const int effective_ep = ep == 0 ? 1 : ep;
  if (dp > 1 || effective_ep > 1) {
    return InvalidArgument(Text("--dp-size is ", dp, " and --ep-size is ", effective_ep,
                                "; this version splits by context only: use --dp-size 1, "
                                "--ep-size 1 and --cp-size for more ranks"));
  }
  if (world == 0) world = cp;
  if (world != cp) {
    const std::string rule =
        world % cp == 0
            ? Text("--tp ", world, " / --cp-size ", cp, " means attention TP ", world / cp)
            : Text("attention TP = --tp / (--cp-size x --dp-size) must be whole: ", world, " / (",
                   cp, " x ", dp, ") is not");
    return InvalidArgument(Text(rule, "; this version splits by context only: use --cp-size ",
                                world, " or --tp ", cp,
                                ", and --threads-per-rank for more threads"));
  }
  if (world * threads_per_rank > kMost) {
    return InvalidArgument(Text("--cp-size ", cp, " x --threads-per-rank ", threads_per_rank,
                                " means ", world * threads_per_rank, " threads; at most ", kMost,
                                ": use --threads-per-rank ", kMost / world, " or less"));
  }
  Layout layout;
  layout.cp = cp;
  layout.threads_per_rank = threads_per_rank;
  layout.partition = partition;
  return layout;
}

std::string Layout::ToString() const {
  return Text("cp", cp, " dp", dp, " tp", tp, " ep", ep, " x ", threads_per_rank,
              threads_per_rank == 1 ? " thread, " : " threads, ", NameOf(partition));
}

}  // namespace causeway
