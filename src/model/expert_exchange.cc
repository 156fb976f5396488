#include "model/expert_exchange.h"

#include <cstring>
#include <numeric>

namespace causeway {

ExpertOrder ExpertOrder::Of(int64_t experts, const std::vector<int32_t>& expert,
                            const std::vector<int32_t>& row) {
  ExpertOrder out;
  out.first.assign(static_cast<size_t>(experts) + 1, 0);
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
                                              Arena& arena) {
  offer_.tokens = tokens;
  host_.Barrier({"expert_dispatch", layer}, &offer_);

  const int part = layout_.ExpertPartOf(rank_);
  const int copies = layout_.expert_copies();
  struct Home {
    int rank;
    const RoutedTokens& tokens;
  };
  std::vector<Home> homes;
  int64_t rows = 0;
  for (int home = rank_ % copies; home < layout_.world(); home += copies) {
    homes.push_back({home, host_.Shared<Offer>(home - first_rank_)->tokens});
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
  if (outputs_.bytes() < bytes) outputs_ = Buffer(bytes);
  return outputs_.as<float>();
}

std::vector<const float*> ExpertExchange::Combine(int32_t layer) {
  offer_.outputs = outputs_.as<float>();
  host_.Barrier({"expert_combine", layer}, &offer_);
  std::vector<const float*> parts;
  for (int part = 0; part < layout_.ep; ++part) {
    const Offer& worker = *host_.Shared<Offer>(layout_.ExpertRank(rank_, part) - first_rank_);
    const auto home = static_cast<size_t>(rank_ / layout_.expert_copies());
    parts.push_back(worker.outputs + worker.first_slot[home] * config_.hidden_size);
    if (&worker == &offer_) continue;
    reads_.Add("expert_combine",
               (worker.first_slot[home + 1] - worker.first_slot[home]) * config_.hidden_size * 4);
  }
  return parts;
}

}  // namespace causeway
