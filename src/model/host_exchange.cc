// Every function computes from the batch, on both sides, who sends what in which order; the bytes
// travel without any description.
#include "model/host_exchange.h"

#include <algorithm>
#include <cstring>

#include "kernels/op_table.h"

namespace causeway {
namespace {

// Ranks of a host are consecutive, and so are their dp groups.
bool HasRankOf(const Layout& layout, int host, int dp) {
  const int first = host * layout.ranks_per_host();
  const int last = first + layout.ranks_per_host() - 1;
  return layout.PlaceOf(first).dp <= dp && dp <= layout.PlaceOf(last).dp;
}

// All hosts at once; sizes of `incoming` are what is expected.
void Exchange(Communicator& hosts, CollectiveName name,
              const std::vector<std::vector<char>>& outgoing,
              std::vector<std::vector<char>>& incoming) {
  std::vector<Outgoing> to;
  std::vector<Incoming> from;
  for (size_t host = 0; host < outgoing.size(); ++host) {
    to.push_back({outgoing[host].data(), static_cast<int64_t>(outgoing[host].size())});
    from.push_back({incoming[host].data(), static_cast<int64_t>(incoming[host].size())});
  }
  hosts.Exchange(name, to, from);
}

}  // namespace

std::vector<SliceTokens> KeysToSend(const Layout& layout, const Batch& batch,
                                    const StepSlices& slices, int from, int to) {
  std::vector<SliceTokens> out;
  if (from == to) return out;
  for (int dp = 0; dp < layout.dp; ++dp) {
    if (!HasRankOf(layout, to, dp)) continue;
    for (int cp = 0; cp < layout.cp; ++cp) {
      const int first = layout.RankAt({dp, cp, 0});
      const int last = first + layout.tp - 1;
      if (layout.HostOf(first) != from) continue;
      // Hosts that share the TP group have computed these keys themselves.
      if (layout.HostOf(first) <= to && to <= layout.HostOf(last)) continue;
      for (const Slice& slice : slices[static_cast<size_t>(first)]) {
        out.push_back({&batch.extends[static_cast<size_t>(slice.extend)], slice});
      }
    }
  }
  return out;
}

std::vector<int> HostsOfRows(const Layout& layout, const Batch& batch, const StepSlices& slices,
                             const StepOutput& output) {
  std::vector<int> hosts(static_cast<size_t>(output.rows()), 0);
  for (int rank = 0; rank < layout.world(); ++rank) {
    const auto& mine = slices[static_cast<size_t>(rank)];
    int64_t tokens = 0;
    for (const Slice& slice : mine) tokens += slice.end - slice.begin;
    const Range home = ShareOf(tokens, layout.PlaceOf(rank).tp, layout.tp);
    int64_t row = 0;
    for (const Slice& slice : mine) {
      for (int64_t p = slice.begin; p < slice.end; ++p, ++row) {
        const int64_t out = output.RowOf(batch, slice.extend, p);
        if (out >= 0 && home.Contains(row)) hosts[static_cast<size_t>(out)] = layout.HostOf(rank);
      }
    }
  }
  return hosts;
}

void HostExchange::Keys(Communicator& hosts, CollectiveName name, const Batch& batch,
                        const StepSlices& slices) {
  const KvShape& shape = cache_.shape();
  const int64_t latent_bytes = shape.latent_bytes();
  const int64_t token_bytes = latent_bytes + shape.index_bytes();
  // Calls visit(page, slot, bytes of the token) for all tokens of the slices, in order.
  const auto for_tokens = [&](const std::vector<SliceTokens>& sent, std::vector<char>& memory,
                              const auto& visit) {
    char* at = memory.data();
    for (const SliceTokens& s : sent) {
      for (int64_t p = s.slice.begin; p < s.slice.end; ++p, at += token_bytes) {
        visit(s.extend->pages[static_cast<size_t>(p / kPage)], p % kPage, at);
      }
    }
  };
  const auto bytes_of = [&](const std::vector<SliceTokens>& sent) {
    int64_t tokens = 0;
    for (const SliceTokens& s : sent) tokens += s.slice.end - s.slice.begin;
    return static_cast<size_t>(tokens * token_bytes);
  };
  const auto count = static_cast<size_t>(layout_.hosts);
  outgoing_.resize(count);
  incoming_.resize(count);
  std::vector<std::vector<SliceTokens>> received(count);
  for (size_t other = 0; other < count; ++other) {
    const auto peer = static_cast<int>(other);
    const auto sent = KeysToSend(layout_, batch, slices, host_, peer);
    outgoing_[other].resize(bytes_of(sent));
    for_tokens(sent, outgoing_[other], [&](int32_t page, int64_t slot, char* at) {
      cache_.LoadLatent(name.layer, page, slot, at);
      if (shape.index_dim > 0) cache_.LoadIndexKey(name.layer, page, slot, at + latent_bytes);
    });
    received[other] = KeysToSend(layout_, batch, slices, peer, host_);
    incoming_[other].resize(bytes_of(received[other]));
  }
  Exchange(hosts, name, outgoing_, incoming_);
  for (size_t other = 0; other < count; ++other) {
    for_tokens(received[other], incoming_[other], [&](int32_t page, int64_t slot, char* at) {
      cache_.StoreLatent(name.layer, page, slot, at);
      if (shape.index_dim > 0) cache_.StoreIndexKey(name.layer, page, slot, at + latent_bytes);
    });
  }
}

void HostExchange::Hidden(Communicator& hosts, CollectiveName name, const Batch& batch,
                          const StepSlices& slices, const StepOutput& output) {
  const std::vector<int> owner = HostsOfRows(layout_, batch, slices, output);
  const Rows& hidden = output.hidden();
  const auto row_bytes = static_cast<size_t>(hidden.cols * SizeOf(hidden.type));
  const auto count = static_cast<size_t>(layout_.hosts);
  std::vector<char> mine;
  for (int64_t row = 0; row < hidden.rows; ++row) {
    if (owner[static_cast<size_t>(row)] != host_) continue;
    const char* from = static_cast<const char*>(hidden.row(row));
    mine.insert(mine.end(), from, from + row_bytes);
  }
  // The same rows to every other host: each computes its columns of the logits of all rows.
  std::vector<std::vector<char>> to(count, mine);
  std::vector<std::vector<char>> from(count);
  to[static_cast<size_t>(host_)].clear();
  for (int other : owner) {
    if (other != host_) {
      from[static_cast<size_t>(other)].resize(from[static_cast<size_t>(other)].size() + row_bytes);
    }
  }
  Exchange(hosts, name, to, from);
  std::vector<size_t> next(count, 0);
  for (int64_t row = 0; row < hidden.rows; ++row) {
    const auto other = static_cast<size_t>(owner[static_cast<size_t>(row)]);
    if (static_cast<int>(other) == host_) continue;
    std::memcpy(hidden.row(row), from[other].data() + next[other], row_bytes);
    next[other] += row_bytes;
  }
}

void HostExchange::Logits(Communicator& hosts, CollectiveName name,
                          const std::vector<Range>& columns, const StepOutput& output) {
  const View<float, 2> logits = output.logits();
  const auto count = static_cast<size_t>(layout_.hosts);
  std::vector<std::vector<char>> to(count);
  std::vector<std::vector<char>> from(count);
  // The columns of one host for all rows, row after row.
  const auto for_rows = [&](size_t host, std::vector<char>& memory, const auto& visit) {
    const Range range = columns[host];
    const auto bytes = static_cast<size_t>(range.size() * 4);
    memory.resize(bytes * static_cast<size_t>(logits.dim(0)));
    for (int64_t row = 0; row < logits.dim(0); ++row) {
      visit(logits.row(row) + range.begin, memory.data() + static_cast<size_t>(row) * bytes, bytes);
    }
  };
  const auto self = static_cast<size_t>(host_);
  // Only host 0 samples: the others send it their columns and receive none.
  if (host_ != 0) {
    for_rows(self, to[0], [](float* row, char* at, size_t n) { std::memcpy(at, row, n); });
  } else {
    for (size_t other = 1; other < count; ++other) {
      for_rows(other, from[other], [](float*, char*, size_t) {});
    }
  }
  Exchange(hosts, name, to, from);
  for (size_t other = 1; host_ == 0 && other < count; ++other) {
    for_rows(other, from[other], [](float* row, char* at, size_t n) { std::memcpy(row, at, n); });
  }
}

}  // namespace causeway
