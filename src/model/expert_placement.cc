// Every expert has a first part, by its number, and with redundancy some have a second one. The
// choice is a pure function of flags and counts, so all ranks and hosts make the same.
#include "model/expert_placement.h"

#include <algorithm>
#include <numeric>

namespace causeway {

Status RedundantExperts::Check(const ModelConfig& config, const Layout& layout) const {
  if (per_layer < 0 || per_layer > config.n_routed_experts) {
    return InvalidArgument(Text("--ep-num-redundant-experts is ", per_layer,
                                "; expected 0 to n_routed_experts = ", config.n_routed_experts));
  }
  if (per_layer > 0 && !layout.cuts_experts()) {
    return InvalidArgument(Text("--ep-num-redundant-experts is ", per_layer,
                                ": it needs experts in several parts (--ep-size above 1)"));
  }
  if (counts.empty()) return Status();
  if (static_cast<int64_t>(counts.size()) != config.num_hidden_layers) {
    return InvalidArgument(Text("--init-expert-location has ", counts.size(),
                                " layers; the model has ", config.num_hidden_layers));
  }
  // Counts of another model would place copies by numbers that mean nothing here.
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    const bool is_moe = config.IsMoe(static_cast<int64_t>(layer));
    const int64_t expected = is_moe ? config.n_routed_experts : 0;
    if (static_cast<int64_t>(counts[layer].size()) != expected) {
      return InvalidArgument(Text("--init-expert-location: layer ", layer, " has ",
                                  counts[layer].size(), " experts; the model's has ", expected));
    }
  }
  return Status();
}

ExpertPlacement::ExpertPlacement(const ModelConfig& config, const Layout& layout,
                                 const RedundantExperts& redundant)
    : layout_(layout), parts_(static_cast<size_t>(config.num_hidden_layers)) {
  const auto experts = static_cast<size_t>(config.n_routed_experts);
  for (size_t layer = 0; layer < parts_.size(); ++layer) {
    if (!config.IsMoe(static_cast<int64_t>(layer))) continue;
    parts_[layer].resize(experts);
    for (int part = 0; part < layout.ep; ++part) {
      const Range range = ShareOf(config.n_routed_experts, part, layout.ep);
      std::fill(parts_[layer].begin() + range.begin, parts_[layer].begin() + range.end,
                // Both the same: held once.
                Parts{part, part});
    }
    // Without counts all are equally hot, and the first ones get copies.
    PlaceCopies(
        parts_[layer], redundant,
        redundant.counts.empty() ? std::vector<int64_t>(experts, 1) : redundant.counts[layer]);
  }
}

void ExpertPlacement::PlaceCopies(std::vector<Parts>& of_layer, const RedundantExperts& redundant,
                                  std::vector<int64_t> counts) const {
  if (!layout_.cuts_experts()) return;
  // Loads in half tokens: a copy takes half of its expert's.
  std::vector<int64_t> load(static_cast<size_t>(layout_.ep), 0);
  for (size_t e = 0; e < of_layer.size(); ++e) {
    load[static_cast<size_t>(of_layer[e].first)] += 2 * counts[e];
  }
  std::vector<size_t> hottest(of_layer.size());
  std::iota(hottest.begin(), hottest.end(), size_t{0});
  std::stable_sort(hottest.begin(), hottest.end(),
                   [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  // Heaviest first, so that the lightest part so far is a good place for each.
  hottest.resize(static_cast<size_t>(redundant.per_layer));
  for (size_t e : hottest) {
    Parts& parts = of_layer[e];
    // The part with the least load so far, other than the expert's own.
    int least = parts.first == 0 ? 1 : 0;
    for (int part = least + 1; part < layout_.ep; ++part) {
      if (part == parts.first) continue;
      if (load[static_cast<size_t>(part)] < load[static_cast<size_t>(least)]) least = part;
    }
    parts.second = least;
    load[static_cast<size_t>(parts.first)] -= counts[e];
    load[static_cast<size_t>(parts.second)] += counts[e];
  }
}

bool ExpertPlacement::Holds(int part, int64_t layer, int32_t expert) const {
  const Parts& parts = parts_[static_cast<size_t>(layer)][static_cast<size_t>(expert)];
  return part == parts.first || part == parts.second;
}

int ExpertPlacement::PartOf(int64_t layer, int32_t expert, int home) const {
  const Parts& parts = parts_[static_cast<size_t>(layer)][static_cast<size_t>(expert)];
  const int own = layout_.ExpertPartOf(home);
  if (own == parts.first || own == parts.second) return own;
  const int among_others = own - (own > parts.first ? 1 : 0) - (own > parts.second ? 1 : 0);
  return among_others % 2 == 0 ? parts.first : parts.second;
}

}  // namespace causeway
