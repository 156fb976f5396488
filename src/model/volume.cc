#include "model/volume.h"

#include <algorithm>
#include <set>

namespace causeway {
namespace {

// How many tokens each rank is home to, and in which order they come in the batch.
std::vector<std::vector<int64_t>> HomeTokens(const Layout& layout, const Batch& batch,
                                             const StepSlices& slices) {
  std::vector<int64_t> first_token;
  int64_t tokens = 0;
  for (const Extend& extend : batch.extends) {
    first_token.push_back(tokens - extend.begin);
    tokens += extend.end() - extend.begin;
  }
  std::vector<std::vector<int64_t>> homes;
  for (int rank = 0; rank < layout.world(); ++rank) {
    std::vector<int64_t> of_group;
    for (const Slice& slice : slices[static_cast<size_t>(rank)]) {
      const int64_t first = first_token[static_cast<size_t>(slice.extend)];
      for (int64_t p = slice.begin; p < slice.end; ++p) of_group.push_back(first + p);
    }
    const Range mine =
        ShareOf(static_cast<int64_t>(of_group.size()), layout.PlaceOf(rank).tp, layout.tp);
    homes.emplace_back(of_group.begin() + mine.begin, of_group.begin() + mine.end);
  }
  return homes;
}

// Rows and slots that leave their homes' parts in one layer.
struct Travel {
  double rows = 0;
  double slots = 0;
};

Travel EvenTravel(const ModelConfig& config, const Layout& layout, const ExpertPlacement& placement,
                  int64_t layer, const std::vector<std::vector<int64_t>>& homes) {
  Travel travel;
  for (int own = 0; own < layout.ep; ++own) {  // the part of a home
    const int first_home = own * layout.expert_copies();
    double tokens = 0;
    for (int home = first_home; home < first_home + layout.expert_copies(); ++home) {
      tokens += static_cast<double>(homes[static_cast<size_t>(home)].size());
    }
    for (int part = 0; part < layout.ep && tokens > 0; ++part) {
      if (part == own) continue;
      std::vector<bool> there(static_cast<size_t>(config.n_routed_experts));
      for (int32_t e = 0; e < config.n_routed_experts; ++e) {
        there[static_cast<size_t>(e)] = placement.PartOf(layer, e, first_home) == part;
      }
      const auto experts = std::count(there.begin(), there.end(), true);
      travel.rows += tokens * (1.0 - ChanceOfNone(config, there));
      travel.slots += tokens * static_cast<double>(config.num_experts_per_tok * experts) /
                      static_cast<double>(config.n_routed_experts);
    }
  }
  return travel;
}

Travel TravelOf(const ModelConfig& config, const Layout& layout, const ExpertPlacement& placement,
                int64_t layer, const std::vector<std::vector<int64_t>>& homes,
                const std::vector<int32_t>& choices) {
  Travel travel;
  const int64_t active = config.num_experts_per_tok;
  for (int home = 0; home < layout.world(); ++home) {
    for (int64_t token : homes[static_cast<size_t>(home)]) {
      std::set<int> parts;
      for (int64_t slot = token * active; slot < (token + 1) * active; ++slot) {
        const int part = placement.PartOf(layer, choices[static_cast<size_t>(slot)], home);
        if (part == layout.ExpertPartOf(home)) continue;
        travel.slots += 1;
        parts.insert(part);
      }
      travel.rows += static_cast<double>(parts.size());
    }
  }
  return travel;
}

}  // namespace

VolumeTypes VolumeTypes::Of(const Weights& weights, const KvShape& cache) {
  return {weights.mode(), weights.layer(0).attention.o.type() == DType::kI8, cache.int8_index};
}

double ChanceOfNone(const ModelConfig& config, const std::vector<bool>& experts) {
  const bool limited = config.topk_method != GateMethod::kGreedy;
  const int64_t groups = limited ? config.n_group : 1;
  const int64_t chosen = limited ? config.topk_group : 1;
  const int64_t size = config.n_routed_experts / groups;
  const int64_t pool = chosen * size;
  // ways[g][m]: sets of g groups, of those seen so far, that hold m of the experts.
  std::vector<std::vector<double>> ways(static_cast<size_t>(chosen) + 1,
                                        std::vector<double>(static_cast<size_t>(pool) + 1, 0.0));
  ways[0][0] = 1;
  for (int64_t group = 0; group < groups; ++group) {
    const auto first = experts.begin() + group * size;
    const auto inside = static_cast<size_t>(std::count(first, first + size, true));
    for (size_t g = static_cast<size_t>(chosen); g > 0; --g) {
      for (size_t m = inside; m <= static_cast<size_t>(pool); ++m) {
        ways[g][m] += ways[g - 1][m - inside];
      }
    }
  }
  double all = 0;
  double none = 0;
  for (int64_t m = 0; m <= pool; ++m) {
    const double sets = ways[static_cast<size_t>(chosen)][static_cast<size_t>(m)];
    double chance = 1;
    for (int64_t k = 0; k < config.num_experts_per_tok; ++k) {
      chance *=
          static_cast<double>(std::max<int64_t>(0, pool - m - k)) / static_cast<double>(pool - k);
    }
    all += sets;
    none += sets * chance;
  }
  return none / all;
}

std::vector<Volume> PredictVolumes(const ModelConfig& config, const VolumeTypes& types,
                                   const Layout& layout, const ExpertPlacement& placement,
                                   const Batch& batch, const StepSlices& slices,
                                   const std::vector<std::vector<int32_t>>* choices) {
  const auto tokens = static_cast<double>(batch.tokens());
  const auto layers = static_cast<double>(config.num_hidden_layers);
  double moe_layers = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) moe_layers += config.IsMoe(i) ? 1 : 0;
  const auto hidden = static_cast<double>(config.hidden_size);
  const auto active = static_cast<double>(config.num_experts_per_tok);
  const auto size = static_cast<double>(SizeOf(types.mode));
  const double others = layout.tp - 1;
  std::vector<Volume> out;
  const auto add = [&](const char* operation, double bytes) {
    if (bytes > 0) out.push_back({operation, bytes});
  };

  const double readers = layout.cp * layout.tp - 1;
  const KvShape keys{.latent_dim = config.latent_dim(),
                     .index_dim = config.index_head_dim,
                     .type = types.mode,
                     .int8_index = types.int8_index};
  add("latent_keys", layers * tokens * readers * static_cast<double>(keys.latent_bytes()));
  if (config.sparse()) {
    add("index_keys", layers * tokens * readers * static_cast<double>(keys.index_bytes()));
    add("selected_counts", layers * tokens * others * 4);
    add("selected_keys", layers * tokens * others * 4 * static_cast<double>(config.index_topk));
  }
  // Of a token, over the T ranks: parts that are added up, sums that come back, and maxima.
  const double all_reduce = 2 * hidden * others * 4 + (types.int8 ? layout.tp * others * 4 : 0);
  add("o_proj", layers * tokens * all_reduce);
  add("dense_mlp", (layers - moe_layers) * tokens * all_reduce);

  const auto homes = HomeTokens(layout, batch, slices);
  Travel travel;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.IsMoe(layer) || !layout.tokens_travel()) continue;
    const Travel of_layer = choices == nullptr ? EvenTravel(config, layout, placement, layer, homes)
                                               : TravelOf(config, layout, placement, layer, homes,
                                                          (*choices)[static_cast<size_t>(layer)]);
    travel.rows += of_layer.rows;
    travel.slots += of_layer.slots;
  }
  // int8 rows are padded to groups of four and come with a scale.
  const double row =
      types.int8 ? static_cast<double>((config.hidden_size + 3) / 4 * 4 + 4) : hidden * size;
  if (layout.tokens_travel()) {
    add("expert_choices", moe_layers * tokens * (layout.ep - 1) * active * 4);
    add("expert_dispatch", travel.rows * row);
    add("expert_combine", travel.slots * hidden * 4);
  }
  add("moe_rows", moe_layers * tokens * others * hidden * 4);

  double wanted = 0;
  for (const Extend& extend : batch.extends) {
    if (extend.tokens.empty()) continue;
    if (extend.logits == LogitsWanted::kAll) wanted += static_cast<double>(extend.tokens.size());
    if (extend.logits == LogitsWanted::kLast) wanted += 1;
  }
  add("hidden_exchange", wanted * (layout.world() - 1) * hidden * size);
  return out;
}

}  // namespace causeway
