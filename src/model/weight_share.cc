// Which part of a model a host holds, and whether the model can be cut so.
#include <algorithm>

#include "model/weights.h"

namespace causeway {
namespace {

// Attention TP sizes, up to `most`, for which `fits` holds: "1, 2 or 4".
template <typename Fits>
std::string LegalSizes(int most, Fits fits) {
  std::string text;
  for (int tp = 1; tp <= most; tp *= 2) {
    if (fits(tp)) text += Text(text.empty() ? "" : ", ", tp);
  }
  return text;
}

// A row-parallel matrix with inner size k can be cut for `tp` ranks if they own whole runs of k.
// int8 sums are exact in any order, but packed in groups of four.
bool CutsRuns(DType mode, QuantMethod method, int64_t k, int tp) {
  const bool int8 = mode == DType::kBf16 && method == QuantMethod::kInt8;
  return SegmentsFor(mode, k) % tp == 0 && (!int8 || k % (int64_t{4} * tp) == 0);
}

// Which experts of each layer lie in the parts [first, last].
std::vector<std::vector<bool>> ExpertsOf(const ModelConfig& config, const Layout& layout,
                                         const RedundantExperts& redundant, int first, int last) {
  const ExpertPlacement placement(config, layout, redundant);
  std::vector<std::vector<bool>> experts(static_cast<size_t>(config.num_hidden_layers));
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    std::vector<bool>& held = experts[static_cast<size_t>(layer)];
    held.resize(static_cast<size_t>(config.n_routed_experts));
    for (int part = first; part <= last; ++part) {
      for (int32_t e = 0; e < config.n_routed_experts; ++e) {
        if (placement.Holds(part, layer, e)) held[static_cast<size_t>(e)] = true;
      }
    }
  }
  return experts;
}

}  // namespace

WeightShare WeightShare::Of(const ModelConfig& config, const Layout& layout, int host,
                            const RedundantExperts& redundant) {
  const int first = host * layout.ranks_per_host();
  const int last = first + layout.ranks_per_host() - 1;
  WeightShare share;
  // A TP group lies in one host, or fills hosts.
  const bool whole = layout.ranks_per_host() >= layout.tp;
  const int first_tp = whole ? 0 : layout.PlaceOf(first).tp;
  const int last_tp = whole ? layout.tp - 1 : layout.PlaceOf(last).tp;
  const auto columns = [&](int64_t total) {
    return Range{ShareOf(total, first_tp, layout.tp).begin, ShareOf(total, last_tp, layout.tp).end};
  };
  share.heads = columns(config.num_attention_heads);
  share.inner = columns(config.intermediate_size);
  const int64_t panels = (config.vocab_size + kPanel - 1) / kPanel;
  share.head_panels = {ShareOf(panels, first, layout.world()).begin,
                       ShareOf(panels, last, layout.world()).end};
  share.redundant = redundant;
  // A host's ranks are consecutive, and so are the parts that they hold.
  share.experts =
      ExpertsOf(config, layout, redundant, layout.ExpertPartOf(first), layout.ExpertPartOf(last));
  return share;
}

WeightShare WeightShare::OfRank(const ModelConfig& config, const Layout& layout, int rank,
                                const RedundantExperts& redundant) {
  const int tp = layout.PlaceOf(rank).tp;
  WeightShare share;
  share.heads = ShareOf(config.num_attention_heads, tp, layout.tp);
  share.inner = ShareOf(config.intermediate_size, tp, layout.tp);
  share.head_panels = ShareOf((config.vocab_size + kPanel - 1) / kPanel, rank, layout.world());
  share.redundant = redundant;
  const int part = layout.ExpertPartOf(rank);
  share.experts = ExpertsOf(config, layout, redundant, part, part);
  return share;
}

Status CheckLayout(const ModelConfig& config, DType mode, const Layout& layout) {
  const int64_t heads = config.num_attention_heads;
  const auto cuts_heads = [&](int tp) { return heads % tp == 0; };
  if (!cuts_heads(layout.tp)) {
    return InvalidArgument(
        Text("attention TP is ", layout.tp, " and num_attention_heads ", heads,
             ": it must divide them evenly; legal: ", LegalSizes(32, cuts_heads)));
  }
  const auto check = [&](const char* what, int64_t k) -> Status {
    const auto cuts = [&](int tp) {
      return cuts_heads(tp) && CutsRuns(mode, config.quant_method, k, tp);
    };
    if (cuts(layout.tp)) return Status();
    return InvalidArgument(Text("attention TP is ", layout.tp, ", which does not cut the ", k,
                                " inner columns of ", what,
                                " evenly; legal for this model: ", LegalSizes(32, cuts)));
  };
  CAUSEWAY_RETURN_IF_ERROR(check("o_proj", heads * config.v_head_dim));
  bool dense = false;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    dense = dense || !config.IsMoe(layer);
  }
  return dense ? check("the dense layers' down_proj", config.intermediate_size) : Status();
}

}  // namespace causeway
