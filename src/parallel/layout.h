// Layout: how the ranks of one server share the work. Pure data.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace causeway {

// How a batch's tokens are cut for context ranks; described at Partition (partition.h).
enum class PartitionKind { kContiguous, kZigzag, kBalanced };

const char* NameOf(PartitionKind kind);
StatusOr<PartitionKind> ParsePartitionKind(const std::string& name);

// How tokens reach the ranks that hold their experts.
//   none:      where ep is 1 every rank computes its own tokens; else as allgather
//   allgather: every token is seen by every host
//   alltoall:  a token goes to the hosts of its experts only
enum class MoeA2a { kNone, kAllGather, kAllToAll };

const char* NameOf(MoeA2a backend);
// Accepts "deepep" for alltoall.
StatusOr<MoeA2a> ParseMoeA2a(const std::string& name);

// Items [begin, end).
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool Contains(int64_t i) const { return begin <= i && i < end; }
  bool operator==(const Range&) const = default;
};

// The share of `index` among `count` of `total` items: consecutive, in order, sizes differ by one
// at most. Example: 10 items among 4: [0, 2) [2, 5) [5, 7) [7, 10).
Range ShareOf(int64_t total, int64_t index, int64_t count);

// Where a rank stands: its data-parallel group, in it its context rank, in that its attention TP
// rank.
struct RankPlace {
  int dp = 0;
  int cp = 0;
  int tp = 0;
  bool operator==(const RankPlace&) const = default;
};

// What the flags ask for.
struct LayoutFlags {
  int world = 0;  // --tp; 0: cp * dp
  int cp = 1;
  int dp = 1;
  int ep = 0;     // 0: automatic, the number of hosts
  int hosts = 1;  // --nnodes
  int threads_per_rank = 1;
  PartitionKind partition = PartitionKind::kBalanced;
  MoeA2a moe_a2a = MoeA2a::kNone;
};

// World size = cp * dp * tp where `tp` is the size of an attention TP group. On the command line
// --tp N is the world size, as in SGLang. Ranks are numbered with tp fastest, then cp, then dp;
// consecutive ranks share a host. Experts are cut in ep parts; rank r holds part r / (world / ep),
// so that consecutive ranks hold the same part.
//
// Example: --tp 8 --cp-size 2 --ep-size 4: rank 5 is dp 0, cp 1, tp 1 and holds part 2 of the
// experts, as does rank 4.
struct Layout {
  int cp = 1;
  int dp = 1;
  int tp = 1;  // attention TP: a power of two
  int ep = 1;
  int hosts = 1;
  int threads_per_rank = 1;
  PartitionKind partition = PartitionKind::kBalanced;
  MoeA2a moe_a2a = MoeA2a::kNone;

  int world() const { return cp * dp * tp; }
  bool cuts_experts() const { return ep > 1; }  // no rank holds all of them
  int ranks_per_host() const { return world() / hosts; }
  bool cuts_heads() const { return tp > 1; }
  // Whether the ranks of an attention TP group are several and on one host.
  bool tp_shares_memory() const { return cuts_heads() && ranks_per_host() % tp == 0; }
  int HostOf(int rank) const { return rank / ranks_per_host(); }
  RankPlace PlaceOf(int rank) const { return {rank / (tp * cp), rank / tp % cp, rank % tp}; }
  int RankAt(const RankPlace& place) const { return (place.dp * cp + place.cp) * tp + place.tp; }
  // Ranks that hold each part of the experts.
  int expert_copies() const { return world() / ep; }
  int ExpertPartOf(int rank) const { return rank / expert_copies(); }
  // False: every rank has all experts, so that tokens stay at home.
  bool tokens_travel() const { return ep > 1; }
  // The rank that computes a part's experts for the tokens of `home`: among the part's ranks the
  // one that stands as `home` does among its own.
  int ExpertRank(int home, int part) const {
    return part * expert_copies() + home % expert_copies();
  }
  bool operator==(const Layout&) const = default;

  // Errors name the rule that is broken and the nearest legal values.
  static StatusOr<Layout> Make(const LayoutFlags& flags);
  std::string ToString() const;  // "cp2 dp1 tp1 ep1 x 1 thread, balanced"
};

}  // namespace causeway
