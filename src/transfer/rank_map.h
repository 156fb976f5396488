// Which prefill host sends which tokens to which decode host. Pure data.
//
// All ranks of a data-parallel group have computed a prompt together, so each of its tokens has a
// host that owns it: the one whose rank computed it, or, of a prefix that was in the cache already,
// the one that a share of it is given to. An owner sends to every host that needs the keys, and
// nobody else does: every token crosses to a decode host once, and all links are used at once.
//
// Example: prefill cp 4 on 2 hosts, contiguous, 256 new tokens; decode tp 2 on 2 hosts. Prefill
// host 0 (ranks 0, 1) sends tokens [0, 128) to decode hosts 0 and 1, prefill host 1 the rest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "cache/kv_cache.h"
#include "parallel/layout.h"
#include "parallel/partition.h"

namespace causeway {

// What the two ends of a transfer must know of each other.
struct TransferSide {
  KvShape shape;
  int64_t page_tokens = 0;
  std::string model;  // a fingerprint of the checkpoint: the same where the keys mean the same
};

// What the decode side can turn into its own type: bf16 rows into int8 ones.
struct KvConversions {
  bool latents = false;
  bool index_keys = false;
};

// kInvalidArgument, with the values of both sides, where the keys of one are not keys of the other.
// The layouts are not compared: any fits any.
Status Compatible(const TransferSide& prefill, const TransferSide& decode,
                  const KvConversions& conversions);

// The hosts that have ranks of a data-parallel group, ascending.
std::vector<int> HostsOfGroup(const Layout& layout, int dp);
// The hosts that take part in the transfer of a group's request: these, and host 0, which has the
// engine and may have no rank of the group.
std::vector<int> HostsOfRoom(const Layout& layout, int dp);

// A run of tokens and who sends it.
struct RankRun {
  int rank = 0;
  int host = 0;
  Range tokens;
  bool operator==(const RankRun&) const = default;
};

// Of the tokens of one extend of a batch, which group `dp` computes; slices: [world], as SlicesOf
// has them. Where an attention TP group lies on several hosts, each has computed all of its tokens,
// and sends a share. In order of tokens; every token is in one run.
std::vector<RankRun> RunsOfChunk(const Layout& layout, int dp,
                                 const std::vector<std::vector<Slice>>& slices, int32_t extend);

// Of tokens that the prefix cache had, so that all hosts of the group hold them: whole pages, as
// many on each host.
std::vector<RankRun> RunsOfCached(const Layout& layout, int dp, Range tokens);

// The tokens among `runs` that one host sends, in order; neighbours are joined.
std::vector<Range> RunsOfHost(const std::vector<RankRun>& runs, int host);

// One link's part of the whole map.
struct LinkRun {
  int from_host = 0;
  int to_host = 0;
  Range tokens;
  bool operator==(const LinkRun&) const = default;
};

// All links: `runs` of the prefill side, to each host of the decode side's group.
std::vector<LinkRun> RankMap(const std::vector<RankRun>& runs, const Layout& decode, int decode_dp);

}  // namespace causeway
