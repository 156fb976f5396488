// What can be wrong with a layout whatever the model (CheckLayout in model/weights.h knows the
// rest) is found here, before anything is loaded, and the message gives the nearest legal value of
// the flag to change.
#include "parallel/layout.h"

#include <algorithm>
#include <vector>

namespace causeway {
namespace {

constexpr int kMost = 1024;  // ranks, and threads of all ranks; far above any machine
constexpr int kMostTp = 32;  // runs of k that row-parallel products sum (SegmentsFor in kernels/)

// "4 or 8": the values of `legal` (ascending) just below and just above `value`.
std::string Nearest(int value, const std::vector<int>& legal) {
  const auto above = std::upper_bound(legal.begin(), legal.end(), value);
  std::string text;
  if (above != legal.begin()) text = Text(*(above - 1));
  if (above != legal.end()) text += Text(text.empty() ? "" : " or ", *above);
  return text;
}

std::vector<int> Divisors(int of) {
  std::vector<int> out;
  for (int value = 1; value <= of; ++value) {
    if (of % value == 0) out.push_back(value);
  }
  return out;
}

Status CheckNumber(const char* flag, int value, int least) {
  if (value >= least && value <= kMost) return Status();
  return InvalidArgument(
      Text(flag, " is ", value, "; expected a number from ", least, " to ", kMost));
}

// Attention TP groups must be powers of two, because their sums are added in a binary tree.
Status CheckTensorParallel(int world, int cp, int dp) {
  const int64_t groups = int64_t{cp} * dp;
  const auto fits = [&](int64_t size) {
    return size % groups == 0 && size / groups <= kMostTp &&
           (size / groups & (size / groups - 1)) == 0;
  };
  if (fits(world)) return Status();
  std::vector<int> legal;
  // What --tp could be instead, with the same --cp-size and --dp-size.
  for (int64_t tp = 1; tp <= kMostTp && groups * tp <= kMost; tp *= 2) {
    legal.push_back(static_cast<int>(groups * tp));
  }
  if (legal.empty()) {
    return InvalidArgument(
        Text("--cp-size ", cp, " x --dp-size ", dp, " means ", groups, " ranks; at most ", kMost));
  }
  return InvalidArgument(
      Text("attention TP = --tp / (--cp-size x --dp-size) must be a power of two "
           "up to ",
           kMostTp, ": ", world, " / (", cp, " x ", dp,
           ") is not; nearest --tp: ", Nearest(world, legal)));
}

// A TP group must lie in one host or be whole hosts, so that each host sums a subtree.
Status CheckHosts(const Layout& layout) {
  const int world = layout.world();
  std::vector<int> legal;
  for (int hosts : Divisors(world)) {
    if (world / hosts % layout.tp == 0 || layout.tp % (world / hosts) == 0) legal.push_back(hosts);
  }
  if (std::binary_search(legal.begin(), legal.end(), layout.hosts)) return Status();
  const std::string nearest = Nearest(layout.hosts, legal);
  if (world % layout.hosts != 0) {
    return InvalidArgument(Text("--nnodes must divide the ", world, " ranks of --tp evenly; found ",
                                layout.hosts, ", nearest: ", nearest));
  }
  return InvalidArgument(Text("an attention TP group (", layout.tp,
                              " ranks) must lie within a host or be whole hosts; --nnodes ",
                              layout.hosts, " puts ", layout.ranks_per_host(),
                              " ranks on each; nearest --nnodes: ", nearest));
}

}  // namespace

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

const char* NameOf(MoeA2a backend) {
  switch (backend) {
    case MoeA2a::kNone:
      return "none";
    case MoeA2a::kAllGather:
      return "allgather";
    case MoeA2a::kAllToAll:
      return "alltoall";
  }
  return "?";
}

StatusOr<MoeA2a> ParseMoeA2a(const std::string& name) {
  for (MoeA2a backend : {MoeA2a::kNone, MoeA2a::kAllGather, MoeA2a::kAllToAll}) {
    if (name == NameOf(backend)) return backend;
  }
  if (name == "deepep") return MoeA2a::kAllToAll;
  return InvalidArgument(
      Text("--moe-a2a-backend is '", name, "'; expected none, allgather, alltoall or deepep"));
}

Range ShareOf(int64_t total, int64_t index, int64_t count) {
  return {total * index / count, total * (index + 1) / count};
}

StatusOr<Layout> Layout::Make(const LayoutFlags& flags) {
  CAUSEWAY_RETURN_IF_ERROR(CheckNumber("--tp", flags.world, 0));
  CAUSEWAY_RETURN_IF_ERROR(CheckNumber("--cp-size", flags.cp, 1));
  CAUSEWAY_RETURN_IF_ERROR(CheckNumber("--dp-size", flags.dp, 1));
  CAUSEWAY_RETURN_IF_ERROR(CheckNumber("--ep-size", flags.ep, 0));
  CAUSEWAY_RETURN_IF_ERROR(CheckNumber("--nnodes", flags.hosts, 1));
  CAUSEWAY_RETURN_IF_ERROR(CheckNumber("--threads-per-rank", flags.threads_per_rank, 1));
  const int64_t groups = int64_t{flags.cp} * flags.dp;
  if (groups > kMost) {
    return InvalidArgument(Text("--cp-size ", flags.cp, " x --dp-size ", flags.dp, " means ",
                                groups, " ranks; at most ", kMost));
  }
  // 0 means as many as cp and dp ask for.
  const int world = flags.world == 0 ? static_cast<int>(groups) : flags.world;
  CAUSEWAY_RETURN_IF_ERROR(CheckTensorParallel(world, flags.cp, flags.dp));
  Layout layout;
  layout.cp = flags.cp;
  layout.dp = flags.dp;
  layout.tp = world / static_cast<int>(groups);
  layout.hosts = flags.hosts;
  layout.threads_per_rank = flags.threads_per_rank;
  layout.partition = flags.partition;
  layout.moe_a2a = flags.moe_a2a;
  CAUSEWAY_RETURN_IF_ERROR(CheckHosts(layout));
  // 0: the experts are cut between hosts, and not within one, where ranks share memory.
  layout.ep = flags.ep == 0 ? flags.hosts : flags.ep;
  if (world % layout.ep != 0) {
    return InvalidArgument(Text("--ep-size must divide the ", world,
                                " ranks of --tp evenly; found ", layout.ep,
                                ", nearest: ", Nearest(layout.ep, Divisors(world))));
  }
  const int threads = layout.ranks_per_host() * layout.threads_per_rank;
  if (threads > kMost) {
    return InvalidArgument(Text("--threads-per-rank ", layout.threads_per_rank, " for ",
                                layout.ranks_per_host(), " ranks of a host means ", threads,
                                " threads; at most ", kMost, ": use --threads-per-rank ",
                                kMost / layout.ranks_per_host(), " or less"));
  }
  return layout;
}

std::string Layout::ToString() const {
  return Text("cp", cp, " dp", dp, " tp", tp, " ep", ep, " x ", threads_per_rank,
              threads_per_rank == 1 ? " thread, " : " threads, ", NameOf(partition),
              moe_a2a == MoeA2a::kNone ? "" : Text(", ", NameOf(moe_a2a)),
              hosts == 1 ? "" : Text(", ", hosts, " hosts"));
}

}  // namespace causeway
