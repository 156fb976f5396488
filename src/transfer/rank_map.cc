#include "transfer/rank_map.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/op_table.h"

namespace causeway {
namespace {

const char* TypeName(bool int8, DType type) {
  if (int8) return "int8";
  return type == DType::kF32 ? "float32" : "bfloat16";
}

template <typename Value>
Status Same(const char* what, const Value& prefill, const Value& decode) {
  if (prefill == decode) return Status();
  return InvalidArgument(Text("the servers differ in ", what, ": the prefill server has ", prefill,
                              ", the decode server ", decode));
}

// One kind of rows: equal, or bf16 that becomes int8.
Status SameType(const char* what, const char* flag, const std::string& prefill,
                const std::string& decode, bool converts) {
  if (prefill == decode) return Status();
  if (prefill == "bfloat16" && decode == "int8" && converts) return Status();
  return InvalidArgument(Text(
      "the servers differ in ", what, ": the prefill server has ", prefill, ", the decode server ",
      decode, "; only bfloat16 can become int8 on the way. Give both the same ", flag));
}

}  // namespace

Status Compatible(const TransferSide& prefill, const TransferSide& decode,
                  const KvConversions& conversions) {
  const KvShape& p = prefill.shape;
  const KvShape& d = decode.shape;
  CAUSEWAY_RETURN_IF_ERROR(Same("the model", prefill.model, decode.model));
  CAUSEWAY_RETURN_IF_ERROR(Same("layers", p.layers, d.layers));
  CAUSEWAY_RETURN_IF_ERROR(Same("values of a latent", p.latent_dim, d.latent_dim));
  CAUSEWAY_RETURN_IF_ERROR(Same("values of an index key", p.index_dim, d.index_dim));
  CAUSEWAY_RETURN_IF_ERROR(Same("tokens of a page", prefill.page_tokens, decode.page_tokens));
  CAUSEWAY_RETURN_IF_ERROR(SameType("the type of latents", "--kv-cache-dtype",
                                    TypeName(p.int8_kv, p.type), TypeName(d.int8_kv, d.type),
                                    conversions.latents));
  if (p.index_dim == 0) return Status();
  return SameType("the type of index keys", "--index-cache-dtype", TypeName(p.int8_index, p.type),
                  TypeName(d.int8_index, d.type), conversions.index_keys);
}

std::vector<int> HostsOfGroup(const Layout& layout, int dp) {
  CHECK(0 <= dp && dp < layout.dp, dp, " of ", layout.dp);
  // A group's ranks are consecutive, and so are a host's.
  const int first = layout.HostOf(layout.RankAt({.dp = dp}));
  const int last = layout.HostOf(layout.RankAt({dp, layout.cp - 1, layout.tp - 1}));
  std::vector<int> hosts;
  for (int host = first; host <= last; ++host) hosts.push_back(host);
  return hosts;
}

std::vector<int> HostsOfRoom(const Layout& layout, int dp) {
  std::vector<int> hosts = HostsOfGroup(layout, dp);
  if (hosts.front() != 0) hosts.insert(hosts.begin(), 0);
  return hosts;
}

std::vector<RankRun> RunsOfChunk(const Layout& layout, int dp,
                                 const std::vector<std::vector<Slice>>& slices, int32_t extend) {
  CHECK(static_cast<int>(slices.size()) == layout.world(), slices.size(), " ", layout.world());
  std::vector<RankRun> runs;
  for (int cp = 0; cp < layout.cp; ++cp) {
    const int first = layout.RankAt({dp, cp, 0});
    const int last = layout.RankAt({dp, cp, layout.tp - 1});
    const int first_host = layout.HostOf(first);
    const int hosts = layout.HostOf(last) - first_host + 1;
    // The ranks of a TP group have the same slices.
    for (const Slice& slice : slices[static_cast<size_t>(first)]) {
      if (slice.extend != extend) continue;
      for (int i = 0; i < hosts; ++i) {
        const Range share = ShareOf(slice.end - slice.begin, i, hosts);
        if (share.size() == 0) continue;
        const int rank = std::max(first, (first_host + i) * layout.ranks_per_host());
        runs.push_back(
            {rank, first_host + i, {slice.begin + share.begin, slice.begin + share.end}});
      }
    }
  }
  std::sort(runs.begin(), runs.end(),
            [](const RankRun& a, const RankRun& b) { return a.tokens.begin < b.tokens.begin; });
  return runs;
}

std::vector<RankRun> RunsOfCached(const Layout& layout, int dp, Range tokens) {
  std::vector<RankRun> runs;
  if (tokens.size() <= 0) return runs;
  const std::vector<int> hosts = HostsOfGroup(layout, dp);
  const int64_t first_page = tokens.begin / kPage;
  const int64_t pages = (tokens.end + kPage - 1) / kPage - first_page;
  for (size_t i = 0; i < hosts.size(); ++i) {
    const Range share = ShareOf(pages, static_cast<int64_t>(i), static_cast<int64_t>(hosts.size()));
    const Range mine = {std::max(tokens.begin, (first_page + share.begin) * kPage),
                        std::min(tokens.end, (first_page + share.end) * kPage)};
    if (mine.size() <= 0) continue;
    const int rank = std::max(layout.RankAt({.dp = dp}), hosts[i] * layout.ranks_per_host());
    runs.push_back({rank, hosts[i], mine});
  }
  return runs;
}

std::vector<Range> RunsOfHost(const std::vector<RankRun>& runs, int host) {
  std::vector<Range> out;
  for (const RankRun& run : runs) {
    if (run.host != host) continue;
    if (!out.empty() && out.back().end == run.tokens.begin) {
      out.back().end = run.tokens.end;
    } else {
      out.push_back(run.tokens);
    }
  }
  return out;
}

std::vector<LinkRun> RankMap(const std::vector<RankRun>& runs, const Layout& decode,
                             int decode_dp) {
  std::vector<LinkRun> map;
  std::vector<int> senders;
  for (const RankRun& run : runs) {
    if (std::find(senders.begin(), senders.end(), run.host) == senders.end()) {
      senders.push_back(run.host);
    }
  }
  for (const int from : senders) {
    for (const Range& tokens : RunsOfHost(runs, from)) {
      for (const int to : HostsOfGroup(decode, decode_dp)) map.push_back({from, to, tokens});
    }
  }
  return map;
}

}  // namespace causeway
