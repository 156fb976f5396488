// What a step moves, predicted from the layout. Written from the definitions, apart from the code
// that moves the bytes, so that tests can hold one against the other.
#include "model/volume.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "model/attention_blocks.h"
#include "model/cost.h"
#include "model/scratch.h"

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

// Between what tokens travel: parts of the experts, or hosts.
struct Places {
  int count = 0;
  std::function<int(int home)> of_home;
  std::function<int(int home, int part)> of_part;  // where a part's worker for this home is
};

Places PartsOf(const Layout& layout) {
  return {layout.ep, [&layout](int home) { return layout.ExpertPartOf(home); },
          [](int, int part) { return part; }};
}

Places HostsOf(const Layout& layout) {
  return {layout.hosts, [&layout](int home) { return layout.HostOf(home); },
          [&layout](int home, int part) { return layout.HostOf(layout.ExpertRank(home, part)); }};
}

// Rows and slots that leave their homes' places.
struct Travel {
  double rows = 0;
  double slots = 0;
};

// Of one layer, all choices of the gate equally likely.
Travel EvenTravel(const ModelConfig& config, const Places& places, const ExpertPlacement& placement,
                  int64_t layer, const std::vector<std::vector<int64_t>>& homes) {
  Travel travel;
  std::map<std::vector<bool>, double> chances;  // that a token has none of these experts
  for (size_t h = 0; h < homes.size(); ++h) {
    const auto tokens = static_cast<double>(homes[h].size());
    if (homes[h].empty()) continue;
    const int home = static_cast<int>(h);
    // The experts that each place computes for this home.
    std::vector<std::vector<bool>> there(
        static_cast<size_t>(places.count),
        std::vector<bool>(static_cast<size_t>(config.n_routed_experts)));
    for (int32_t e = 0; e < config.n_routed_experts; ++e) {
      const int place = places.of_part(home, placement.PartOf(layer, e, home));
      there[static_cast<size_t>(place)][static_cast<size_t>(e)] = true;
    }
    for (int place = 0; place < places.count; ++place) {
      if (place == places.of_home(home)) continue;
      const std::vector<bool>& held = there[static_cast<size_t>(place)];
      auto chance = chances.find(held);
      if (chance == chances.end()) {
        chance = chances.emplace(held, ChanceOfNone(config, held)).first;
      }
      travel.rows += tokens * (1.0 - chance->second);
      travel.slots += tokens *
                      static_cast<double>(config.num_experts_per_tok *
                                          std::count(held.begin(), held.end(), true)) /
                      static_cast<double>(config.n_routed_experts);
    }
  }
  return travel;
}

// Of one layer, with the experts that its tokens chose.
Travel ChosenTravel(const ModelConfig& config, const Places& places,
                    const ExpertPlacement& placement, int64_t layer,
                    const std::vector<std::vector<int64_t>>& homes,
                    const std::vector<int32_t>& choices) {
  Travel travel;
  const int64_t active = config.num_experts_per_tok;
  for (size_t h = 0; h < homes.size(); ++h) {
    const int home = static_cast<int>(h);
    for (int64_t token : homes[h]) {
      // A row travels once to each place, however many of its experts are there.
      std::set<int> elsewhere;
      for (int64_t slot = token * active; slot < (token + 1) * active; ++slot) {
        const int part = placement.PartOf(layer, choices[static_cast<size_t>(slot)], home);
        const int place = places.of_part(home, part);
        if (place == places.of_home(home)) continue;
        travel.slots += 1;
        elsewhere.insert(place);
      }
      travel.rows += static_cast<double>(elsewhere.size());
    }
  }
  return travel;
}

// Of all layers.
Travel TravelOf(const ModelConfig& config, const Layout& layout, const Places& places,
                const ExpertPlacement& placement, const std::vector<std::vector<int64_t>>& homes,
                const std::vector<std::vector<int32_t>>* choices) {
  Travel travel;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.IsMoe(layer) || !layout.tokens_travel()) continue;
    const Travel of_layer = choices == nullptr
                                ? EvenTravel(config, places, placement, layer, homes)
                                : ChosenTravel(config, places, placement, layer, homes,
                                               (*choices)[static_cast<size_t>(layer)]);
    travel.rows += of_layer.rows;
    travel.slots += of_layer.slots;
  }
  return travel;
}

double MoeLayers(const ModelConfig& config) {
  double count = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) count += config.IsMoe(i) ? 1 : 0;
  return count;
}

// Bytes of a row as experts read it: int8 is padded to groups of four and comes with a scale.
double DispatchedRow(const ModelConfig& config, const VolumeTypes& types) {
  return static_cast<double>(types.int8 ? (config.hidden_size + 3) / 4 * 4 + 4
                                        : config.hidden_size * SizeOf(types.mode));
}

double WantedRows(const Batch& batch) {
  double wanted = 0;
  for (const Extend& extend : batch.extends) {
    if (extend.tokens.empty()) continue;
    if (extend.logits == LogitsWanted::kAll) wanted += static_cast<double>(extend.tokens.size());
    if (extend.logits == LogitsWanted::kLast) wanted += 1;
  }
  return wanted;
}

// (token, host) pairs where the host will read the token's keys, now or in later steps, and none of
// its ranks computes them.
double KeysAbroad(const Layout& layout, const Batch& batch, const StepSlices& slices) {
  double pairs = 0;
  for (size_t i = 0; i < batch.extends.size(); ++i) {
    const Extend& extend = batch.extends[i];
    std::vector<std::set<int>> computed(extend.tokens.size());  // on which hosts
    std::set<int> readers;
    for (int rank = 0; rank < layout.world(); ++rank) {
      if (layout.PlaceOf(rank).dp == extend.dp) readers.insert(layout.HostOf(rank));
      for (const Slice& slice : slices[static_cast<size_t>(rank)]) {
        if (static_cast<size_t>(slice.extend) != i) continue;
        for (int64_t p = slice.begin; p < slice.end; ++p) {
          computed[static_cast<size_t>(p - extend.begin)].insert(layout.HostOf(rank));
        }
      }
    }
    // Every host that will read the keys, less those that compute them.
    for (const std::set<int>& hosts : computed) {
      pairs += static_cast<double>(readers.size() - hosts.size());
    }
  }
  return pairs;
}

// What the cache holds of a token in one layer.
KvShape KeysOf(const ModelConfig& config, const VolumeTypes& types) {
  return {.layers = 1,
          .latent_dim = config.latent_dim(),
          .index_dim = config.index_head_dim,
          .type = types.mode,
          .int8_index = types.int8_index,
          .int8_kv = types.int8_kv};
}

// What the TP groups that work together read of each other's columns, beside what they read anyway.
struct TogetherVolumes {
  double unselected = 0;  // tokens whose selection nobody makes, as they see all keys
  std::map<std::string, double> bytes;
};

TogetherVolumes ReadTogether(const ModelConfig& c, const VolumeTypes& types, const Layout& layout,
                             const Batch& batch, const StepSlices& slices) {
  TogetherVolumes out;
  const double layers = static_cast<double>(c.num_hidden_layers);
  const double moe_layers = layout.tokens_travel() ? 0.0 : MoeLayers(c);
  const int64_t size = SizeOf(types.mode);
  for (int rank = 0; rank < layout.world(); rank += layout.tp) {
    const std::vector<Slice>& mine = slices[static_cast<size_t>(rank)];
    if (!WorkTogether(layout, batch, mine)) continue;
    int64_t rows = 0;
    bool chooses = false;
    double scored = 0;  // (row, page) pairs of those that choose, runs of kScoreRows
    for (const Slice& slice : mine) {
      rows += slice.end - slice.begin;
      if (!c.sparse()) continue;
      for (int64_t p = std::max(slice.begin, c.index_topk); p < slice.end; p += kScoreRows) {
        const int64_t end = std::min(slice.end, p + kScoreRows);
        scored += static_cast<double>((end - p) * ((end - 1) / kPage + 1));
        chooses = true;
      }
    }
    // A row of `bytes`, of which each rank reads what the others have made.
    const auto add = [&](const char* operation, double times, double bytes) {
      out.bytes[operation] += times * (layout.tp - 1) * bytes;
    };
    const auto row = [&](const char* operation, double times, int64_t bytes) {
      add(operation, times, static_cast<double>(rows * bytes));
    };
    row("kv_a", layers, c.latent_dim() * 4);
    row("q_a", layers, c.q_lora_rank * 4);
    row("gate", moe_layers, c.n_routed_experts * 4);
    row("expert_inner", moe_layers, c.num_experts_per_tok * c.moe_intermediate_size * size);
    row("shared_inner", moe_layers, c.n_shared_experts * c.moe_intermediate_size * size);
    if (!c.sparse()) continue;
    row("index_k", layers, c.index_head_dim * 4);
    if (chooses) {
      row("index_q", layers, c.index_n_heads * c.index_head_dim * 4);
      if (ScoreTogether(layout, rows)) add("index_scores", layers, scored * kPage * 4);
    } else {
      out.unselected += static_cast<double>(rows);
    }
  }
  return out;
}

// Bytes of expanded heads that ranks of a context group read of each other, in a layer.
double HeadKeys(const ModelConfig& c, const VolumeTypes& types, const Layout& layout,
                const Batch& batch, const StepSlices& slices) {
  const BlockLimits limits{MaterialisedEnd(c), PassRows::Of(c, layout, types.mode).materialised};
  const int64_t value = (c.v_head_dim + kPanelGranule - 1) / kPanelGranule * kPanelGranule;
  const int64_t page = kPage * (c.qk_head_dim() + value) * SizeOf(types.mode);
  double bytes = 0;
  for (int rank = 0; rank < layout.world(); ++rank) {
    const std::vector<int> group = ContextGroup(layout, rank);
    const auto member = std::find(group.begin(), group.end(), rank) - group.begin();
    const int64_t heads = ShareOf(c.num_attention_heads, layout.PlaceOf(rank).tp, layout.tp).size();
    const int64_t others =
        heads - ShareOf(heads, member, static_cast<int64_t>(group.size())).size();
    for (const auto& round : SharedKeysOf(batch, slices, group, limits)) {
      for (const SharedKeys& keys : round) {
        bytes += static_cast<double>(keys.pages[static_cast<size_t>(member)] * others * page);
      }
    }
  }
  return bytes;
}

}  // namespace

VolumeTypes VolumeTypes::Of(const Weights& weights, const KvShape& cache) {
  return {weights.mode(), weights.layer(0).attention.o.type() == DType::kI8, cache.int8_index,
          cache.int8_kv};
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
    // Downwards, so that a group is counted once.
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
    // One expert after the other, without repetition: none of them among the m.
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
  const double moe_layers = MoeLayers(config);
  const auto hidden = static_cast<double>(config.hidden_size);
  const auto active = static_cast<double>(config.num_experts_per_tok);
  const auto size = static_cast<double>(SizeOf(types.mode));
  const double others = layout.tp - 1;
  std::vector<Volume> out;
  const auto add = [&](const char* operation, double bytes) {
    if (bytes > 0) out.push_back({operation, bytes});
  };

  const double readers = layout.cp * layout.tp - 1;
  const KvShape keys = KeysOf(config, types);
  add("latent_keys", layers * tokens * readers * static_cast<double>(keys.latent_bytes()));
  add("head_keys", layers * HeadKeys(config, types, layout, batch, slices));
  const TogetherVolumes together = ReadTogether(config, types, layout, batch, slices);
  if (config.sparse()) {
    add("index_keys", layers * tokens * readers * static_cast<double>(keys.index_bytes()));
    const double selected = layers * (tokens - together.unselected) * others * 4;
    add("selected_counts", selected);
    add("selected_keys", selected * static_cast<double>(config.index_topk));
  }
  for (const auto& [operation, bytes] : together.bytes) add(operation.c_str(), bytes);
  // Of a token, over the T ranks: parts that are added up, sums that come back, and maxima.
  const double all_reduce = 2 * hidden * others * 4 + (types.int8 ? layout.tp * others * 4 : 0);
  add("o_proj", layers * tokens * all_reduce);
  add("dense_mlp", (layers - moe_layers) * tokens * all_reduce);

  const Travel travel = TravelOf(config, layout, PartsOf(layout), placement,
                                 HomeTokens(layout, batch, slices), choices);
  if (layout.tokens_travel()) {
    add("expert_choices", moe_layers * tokens * (layout.ep - 1) * active * 4);
    add("expert_dispatch", travel.rows * DispatchedRow(config, types));
    add("expert_combine", travel.slots * hidden * 4);
  }
  add("moe_rows", moe_layers * tokens * others * hidden * 4);

  add("hidden_exchange", WantedRows(batch) * (layout.world() - 1) * hidden * size);
  return out;
}

std::vector<Volume> PredictHostVolumes(const ModelConfig& config, const VolumeTypes& types,
                                       const Layout& layout, const ExpertPlacement& placement,
                                       const Batch& batch, const StepSlices& slices,
                                       const std::vector<std::vector<int32_t>>* choices) {
  std::vector<Volume> out;
  const auto add = [&](const char* operation, double bytes) {
    if (bytes > 0) out.push_back({operation, bytes});
  };
  const auto tokens = static_cast<double>(batch.tokens());
  const auto layers = static_cast<double>(config.num_hidden_layers);
  const double moe_layers = MoeLayers(config);
  const auto hidden = static_cast<double>(config.hidden_size);
  const auto size = static_cast<double>(SizeOf(types.mode));
  const double other_hosts = layout.hosts - 1;

  const auto key = static_cast<double>(KeysOf(config, types).BytesPerToken());
  add("kv_exchange", layers * KeysAbroad(layout, batch, slices) * key);

  // A TP group inside one host adds nothing here.
  const double of_group = std::max(1, layout.tp / layout.ranks_per_host());  // hosts
  const double all_reduce =
      2 * hidden * (of_group - 1) * 4 + (types.int8 ? of_group * (of_group - 1) * 4 : 0);
  add("o_proj", layers * tokens * all_reduce);
  add("dense_mlp", (layers - moe_layers) * tokens * all_reduce);
  add("moe_rows", moe_layers * tokens * (of_group - 1) * hidden * 4);

  if (layout.tokens_travel()) {
    const Travel travel = TravelOf(config, layout, HostsOf(layout), placement,
                                   HomeTokens(layout, batch, slices), choices);
    const double ids = static_cast<double>(config.num_experts_per_tok) * 4;
    const double rows =
        layout.moe_a2a == MoeA2a::kAllToAll ? travel.rows : moe_layers * tokens * other_hosts;
    add("expert_dispatch",
        moe_layers * tokens * other_hosts * ids + rows * DispatchedRow(config, types));
    add("expert_combine", travel.slots * hidden * 4);
  }

  // Host 0 samples: other hosts' columns have to reach it.
  const Range panels = WeightShare::Of(config, layout, 0).head_panels;  // of host 0, from 0 on
  const int64_t abroad = std::max<int64_t>(0, config.vocab_size - panels.end * kPanel);
  add("hidden_exchange", WantedRows(batch) * other_hosts * hidden * size);
  add("logits_exchange", WantedRows(batch) * static_cast<double>(abroad) * 4);
  return out;
}

}  // namespace causeway
