// Within a host a rank reads its peers' rows where they lie, between barriers; only what crosses
// hosts is copied into buffers. Both sides derive the sizes of all messages from the batch and the
// choices; none is sent.
#include "model/expert_exchange.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace causeway {
namespace {

// All hosts at once; the sizes of `received` are what is expected.
template <typename T>
void ExchangeBetweenHosts(Communicator& hosts, CollectiveName name,
                          const std::vector<std::vector<T>>& sent,
                          std::vector<std::vector<T>>& received) {
  std::vector<Outgoing> to;
  std::vector<Incoming> from;
  const auto bytes = [](const std::vector<T>& v) {
    return static_cast<int64_t>(v.size() * sizeof(T));
  };
  for (const auto& piece : sent) to.push_back({piece.data(), bytes(piece)});
  for (auto& piece : received) from.push_back({piece.data(), bytes(piece)});
  hosts.Exchange(name, to, from);
}

}  // namespace

// A counting sort, stable: the slots of an expert stay in the order in which they were given.
ExpertOrder ExpertOrder::Of(int64_t experts, const std::vector<int32_t>& expert,
                            const std::vector<int32_t>& row) {
  ExpertOrder out;
  out.first.assign(static_cast<size_t>(experts) + 1, 0);
  // Shifted by one, so that the sums below are where each expert begins.
  for (int32_t e : expert) ++out.first[static_cast<size_t>(e) + 1];
  std::partial_sum(out.first.begin(), out.first.end(), out.first.begin());
  out.row.resize(expert.size());
  out.slot.resize(expert.size());
  std::vector<int64_t> next = out.first;
  for (size_t i = 0; i < expert.size(); ++i) {
    const auto at = static_cast<size_t>(next[static_cast<size_t>(expert[i])]++);
    out.row[at] = row[i];
    out.slot[at] = static_cast<int32_t>(i);
  }
  return out;
}

ExpertExchange::ExpertExchange(const ModelConfig& config, const Layout& layout, int rank,
                               const RedundantExperts& redundant, RankLink& host, ReadCounts& reads)
    : config_(config),
      layout_(layout),
      rank_(rank),
      first_rank_(layout.HostOf(rank) * layout.ranks_per_host()),
      host_(host),
      reads_(reads),
      placement_(config, layout, redundant) {}

ExpertExchange::Work ExpertExchange::Dispatch(int32_t layer, const RoutedTokens& tokens,
                                              const std::vector<int64_t>& home_rows, Arena& arena) {
  offer_.tokens = tokens;
  const CollectiveName name{"expert_dispatch", layer};
  host_.Barrier(name, &offer_, [this, name, &home_rows](Communicator& hosts) {
    FetchTokens(hosts, name, home_rows);
  });

  const int part = layout_.ExpertPartOf(rank_);
  const int copies = layout_.expert_copies();
  struct Home {
    int rank;
    // A reference: the tokens lie with the home, or in the buffers of the host's first rank.
    const RoutedTokens& tokens;
  };
  std::vector<Home> homes;
  int64_t rows = 0;
  // Homes whose tokens come to this rank: with c copies of the experts, every c-th one.
  for (int home = rank_ % copies; home < layout_.world(); home += copies) {
    homes.push_back({home, IsHere(home)
                               ? OfferOf(home).tokens
                               : OfferOf(first_rank_).remote.tokens[static_cast<size_t>(home)]});
    rows += homes.back().tokens.rows;
  }
  const bool int8 = tokens.input.quantized.data != nullptr;
  const Rows& model = int8 ? tokens.input.quantized : tokens.input.rows;
  const Rows input = arena.Matrix(model.type, rows, model.cols);
  auto* scale = int8 ? arena.Array<float>(rows) : nullptr;

  Work work;
  offer_.first_slot.clear();
  const int64_t active = config_.num_experts_per_tok;
  const auto row_bytes = static_cast<size_t>(model.cols * SizeOf(model.type));
  const int64_t sent_bytes = static_cast<int64_t>(row_bytes) + (int8 ? 4 : 0);  // with its scale
  int32_t filled = 0;
  for (const auto& [home, sent] : homes) {
    offer_.first_slot.push_back(work.slots());
    const int32_t filled_before = filled;
    for (int64_t row = 0; row < sent.rows; ++row) {
      const size_t before = work.expert.size();
      for (int64_t j = 0; j < active; ++j) {
        const int32_t expert = sent.experts[row * active + j];
        if (placement_.PartOf(layer, expert, home) != part) continue;
        work.expert.push_back(expert);
        work.row.push_back(filled);
      }
      // A row without an expert here is not copied.
      if (work.expert.size() == before) continue;
      const Rows& from = int8 ? sent.input.quantized : sent.input.rows;
      std::memcpy(input.row(filled), from.row(row), row_bytes);
      if (int8) scale[filled] = sent.input.scale[row];
      ++filled;
    }
    if (home == rank_) continue;
    reads_.Add("expert_choices", sent.rows * active * 4);
    reads_.Add("expert_dispatch", (filled - filled_before) * sent_bytes);
  }
  offer_.first_slot.push_back(work.slots());
  const Rows used = input.Slice(0, filled);
  // Only now is it known how many rows came: the matrix has room for all of them.
  if (int8) {
    // The products read `quantized`; `rows` only says how many there are and how wide.
    work.input = {
        Rows{nullptr, tokens.input.rows.type, filled, config_.hidden_size, config_.hidden_size},
        used, scale};
  } else {
    work.input = {used};
  }
  return work;
}

float* ExpertExchange::Outputs(int64_t slots) {
  const int64_t bytes = slots * config_.hidden_size * 4;
  // Grows only: between steps the largest one so far is kept.
  if (outputs_.bytes() < bytes) outputs_ = Buffer(bytes);
  return outputs_.as<float>();
}

std::vector<const float*> ExpertExchange::Combine(int32_t layer) {
  offer_.outputs = outputs_.as<float>();
  const CollectiveName name{"expert_combine", layer};
  host_.Barrier(name, &offer_, [this, name](Communicator& hosts) { FetchOutputs(hosts, name); });
  std::vector<const float*> parts;
  for (int part = 0; part < layout_.ep; ++part) {
    const int worker = layout_.ExpertRank(rank_, part);
    if (!IsHere(worker)) {
      parts.push_back(OfferOf(first_rank_)
                          .remote.of_parts[static_cast<size_t>(rank_ - first_rank_)]
                                          [static_cast<size_t>(part)]);
      continue;
    }
    const Offer& offer = OfferOf(worker);
    // The slots of this rank's tokens lie together there, between two entries of first_slot.
    const auto home = static_cast<size_t>(rank_ / layout_.expert_copies());
    parts.push_back(offer.outputs + offer.first_slot[home] * config_.hidden_size);
    if (worker == rank_) continue;
    reads_.Add("expert_combine",
               (offer.first_slot[home + 1] - offer.first_slot[home]) * config_.hidden_size * 4);
  }
  return parts;
}

// The rows of home's tokens that `host` needs: all of them, or with all-to-all dispatch those that
// chose an expert there.
std::vector<int64_t> ExpertExchange::RowsFor(int64_t layer, int home, const RoutedTokens& tokens,
                                             int host) const {
  const int64_t active = config_.num_experts_per_tok;
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < tokens.rows; ++row) {
    bool wanted = layout_.moe_a2a != MoeA2a::kAllToAll;
    for (int64_t j = 0; j < active && !wanted; ++j) {
      const int part = placement_.PartOf(layer, tokens.experts[row * active + j], home);
      wanted = layout_.HostOf(layout_.ExpertRank(home, part)) == host;
    }
    if (wanted) rows.push_back(row);
  }
  return rows;
}

// First every host learns the choices of all tokens, then it gets the rows that it needs: by then
// both sides know which.
void ExpertExchange::FetchTokens(Communicator& hosts, CollectiveName name,
                                 const std::vector<int64_t>& home_rows) {
  const int64_t active = config_.num_experts_per_tok;
  const auto world = static_cast<size_t>(layout_.world());
  const auto host_count = static_cast<size_t>(layout_.hosts);
  const int host = layout_.HostOf(rank_);
  const int here = layout_.ranks_per_host();
  Remote& remote = offer_.remote;
  remote.tokens.resize(world);
  remote.experts.resize(world);
  remote.rows.resize(world);
  remote.scales.resize(world);

  std::vector<std::vector<int32_t>> sent_experts(host_count);
  std::vector<std::vector<int32_t>> received_experts(host_count);
  for (int home = 0; home < layout_.world(); ++home) {
    const auto count = static_cast<size_t>(home_rows[static_cast<size_t>(home)] * active);
    if (!IsHere(home)) {
      auto& from = received_experts[static_cast<size_t>(layout_.HostOf(home))];
      from.resize(from.size() + count);
      continue;
    }
    const RoutedTokens& tokens = OfferOf(home).tokens;
    for (size_t other = 0; other < host_count; ++other) {
      if (static_cast<int>(other) == host) continue;
      sent_experts[other].insert(sent_experts[other].end(), tokens.experts, tokens.experts + count);
    }
  }
  // The choices: as many as follow from home_rows, so both sides know the sizes.
  ExchangeBetweenHosts(hosts, name, sent_experts, received_experts);
  std::vector<size_t> next(host_count, 0);
  for (int home = 0; home < layout_.world(); ++home) {
    if (IsHere(home)) continue;
    const auto at = static_cast<size_t>(home);
    const auto from = static_cast<size_t>(layout_.HostOf(home));
    const auto count = static_cast<size_t>(home_rows[at] * active);
    const int32_t* first = received_experts[from].data() + next[from];
    remote.experts[at].assign(first, first + count);
    next[from] += count;
    remote.tokens[at].rows = home_rows[at];
    remote.tokens[at].experts = remote.experts[at].data();
  }

  // Then the rows, with an int8 row's scale behind it; the sizes follow from the choices.
  const Activation& model = offer_.tokens.input;
  const bool int8 = model.quantized.data != nullptr;
  const Rows& shape = int8 ? model.quantized : model.rows;
  const auto row_bytes = static_cast<size_t>(shape.cols * SizeOf(shape.type));
  const size_t scale_bytes = int8 ? sizeof(float) : 0;
  std::vector<std::vector<char>> sent(host_count);
  std::vector<std::vector<char>> received(host_count);
  for (int home = 0; home < layout_.world(); ++home) {
    if (!IsHere(home)) {
      const auto at = static_cast<size_t>(home);
      auto& from = received[static_cast<size_t>(layout_.HostOf(home))];
      from.resize(from.size() + RowsFor(name.layer, home, remote.tokens[at], host).size() *
                                    (row_bytes + scale_bytes));
      continue;
    }
    const RoutedTokens& tokens = OfferOf(home).tokens;
    const Rows& rows = int8 ? tokens.input.quantized : tokens.input.rows;
    for (size_t other = 0; other < host_count; ++other) {
      if (static_cast<int>(other) == host) continue;
      for (int64_t row : RowsFor(name.layer, home, tokens, static_cast<int>(other))) {
        const char* data = static_cast<const char*>(rows.row(row));
        sent[other].insert(sent[other].end(), data, data + row_bytes);
        const char* scale = reinterpret_cast<const char*>(tokens.input.scale + (int8 ? row : 0));
        if (int8) sent[other].insert(sent[other].end(), scale, scale + scale_bytes);
      }
    }
  }
  ExchangeBetweenHosts(hosts, name, sent, received);
  std::fill(next.begin(), next.end(), 0);
  for (int home = 0; home < layout_.world(); ++home) {
    if (home / here == host) continue;
    const auto at = static_cast<size_t>(home);
    const auto from = static_cast<size_t>(layout_.HostOf(home));
    // Rows stand where they stand with their home, and those that did not come stay untouched.
    remote.rows[at].resize(static_cast<size_t>(home_rows[at]) * row_bytes);
    remote.scales[at].resize(static_cast<size_t>(home_rows[at]));
    for (int64_t row : RowsFor(name.layer, home, remote.tokens[at], host)) {
      const char* data = received[from].data() + next[from];
      std::memcpy(remote.rows[at].data() + static_cast<size_t>(row) * row_bytes, data, row_bytes);
      if (int8) {
        std::memcpy(&remote.scales[at][static_cast<size_t>(row)], data + row_bytes, scale_bytes);
      }
      next[from] += row_bytes + scale_bytes;
    }
    const Rows rows = Rows::Dense(remote.rows[at].data(), shape.type, home_rows[at], shape.cols);
    Activation& input = remote.tokens[at].input;
    input = {};
    (int8 ? input.quantized : input.rows) = rows;
    input.scale = int8 ? remote.scales[at].data() : nullptr;
  }
}

// Outputs go home: for each home in order, each of its workers here sends the slots that it took.
void ExpertExchange::FetchOutputs(Communicator& hosts, CollectiveName name) {
  const auto host_count = static_cast<size_t>(layout_.hosts);
  const int64_t hidden = config_.hidden_size;
  Remote& remote = offer_.remote;
  // What this host's workers computed for homes elsewhere, in the order of homes and parts; the
  // host of the homes walks the same loops and so knows the sizes.
  std::vector<std::vector<float>> sent(host_count);
  remote.outputs.assign(host_count, {});
  remote.of_parts.assign(static_cast<size_t>(layout_.ranks_per_host()),
                         std::vector<const float*>(static_cast<size_t>(layout_.ep), nullptr));
  // Where each part of each home here begins in what its host sends.
  std::vector<std::vector<size_t>> begins(remote.of_parts.size(),
                                          std::vector<size_t>(static_cast<size_t>(layout_.ep), 0));
  const int64_t active = config_.num_experts_per_tok;
  for (int home = 0; home < layout_.world(); ++home) {
    for (int part = 0; part < layout_.ep; ++part) {
      const int worker = layout_.ExpertRank(home, part);
      // Both here: read in place, in Combine. Both elsewhere: no business of this host.
      if (IsHere(home) == IsHere(worker)) continue;
      if (IsHere(worker)) {
        const Offer& offer = OfferOf(worker);
        const auto index = static_cast<size_t>(home / layout_.expert_copies());
        auto& to = sent[static_cast<size_t>(layout_.HostOf(home))];
        to.insert(to.end(), offer.outputs + offer.first_slot[index] * hidden,
                  offer.outputs + offer.first_slot[index + 1] * hidden);
      } else {
        // As many as the worker found when it took this home's choices.
        const RoutedTokens& tokens = OfferOf(home).tokens;
        int64_t slots = 0;
        for (int64_t i = 0; i < tokens.rows * active; ++i) {
          slots += placement_.PartOf(name.layer, tokens.experts[i], home) == part ? 1 : 0;
        }
        auto& from = remote.outputs[static_cast<size_t>(layout_.HostOf(worker))];
        // An index and no pointer yet: the vector still grows.
        begins[static_cast<size_t>(home - first_rank_)][static_cast<size_t>(part)] = from.size();
        from.resize(from.size() + static_cast<size_t>(slots * hidden));
      }
    }
  }
  ExchangeBetweenHosts(hosts, name, sent, remote.outputs);
  for (int home = first_rank_; home < first_rank_ + layout_.ranks_per_host(); ++home) {
    for (int part = 0; part < layout_.ep; ++part) {
      const int worker = layout_.ExpertRank(home, part);
      if (IsHere(worker)) continue;
      const auto h = static_cast<size_t>(home - first_rank_);
      const auto p = static_cast<size_t>(part);
      remote.of_parts[h][p] =
          remote.outputs[static_cast<size_t>(layout_.HostOf(worker))].data() + begins[h][p];
    }
  }
}

}  // namespace causeway
