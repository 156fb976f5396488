#include "model/cost.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "kernels/op_table.h"
#include "model/attention_blocks.h"

namespace causeway {
namespace {

double D(int64_t value) { return static_cast<double>(value); }

// Of expanding the latent of a key to the keys and values of all heads, per layer.
double ExpandFlops(const ModelConfig& c) {
  return 2.0 * D(c.kv_lora_rank * c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim));
}

// Per token and layer.
double ProjectionFlops(const ModelConfig& c) {
  const double heads = D(c.num_attention_heads);
  const double query_in = D(c.q_lora_rank > 0 ? c.q_lora_rank : c.hidden_size);
  double flops = 2.0 * query_in * heads * D(c.qk_head_dim());
  if (c.q_lora_rank > 0) flops += 2.0 * D(c.hidden_size) * D(c.q_lora_rank);
  flops += 2.0 * D(c.hidden_size) * D(c.latent_dim());
  flops += ExpandFlops(c);
  flops += 2.0 * heads * D(c.v_head_dim) * D(c.hidden_size);
  return flops;
}

double IndexProjectionFlops(const ModelConfig& c) {
  if (!c.sparse()) return 0.0;
  return 2.0 * D(c.q_lora_rank) * D(c.index_n_heads * c.index_head_dim) +
         2.0 * D(c.hidden_size) * D(c.index_head_dim + c.index_n_heads);
}

// Per token, all layers.
double FeedForwardFlops(const ModelConfig& c) {
  double flops = 0.0;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    if (c.IsMoe(layer)) {
      flops += 6.0 * D(c.hidden_size) * D(c.moe_intermediate_size) *
               D(c.num_experts_per_tok + c.n_shared_experts);
      flops += 2.0 * D(c.hidden_size) * D(c.n_routed_experts);
    } else {
      flops += 6.0 * D(c.hidden_size) * D(c.intermediate_size);
    }
  }
  return flops;
}

// Per visible key and layer.
double MaterialisedKeyFlops(const ModelConfig& c) {
  return 2.0 * D(c.num_attention_heads) * D(c.qk_head_dim() + c.v_head_dim);
}
double AbsorbedKeyFlops(const ModelConfig& c) {
  return 2.0 * D(c.num_attention_heads) * D(c.latent_dim() + c.kv_lora_rank);
}

}  // namespace

// Where materialised attention to all p + 1 keys begins to cost more than absorbed attention to
// index_topk of them, at the next page border. V3.2: 2048 * 1088 / 320 = 6963.2, hence 6976.
int64_t MaterialisedEnd(const ModelConfig& c) {
  if (!c.sparse()) return std::numeric_limits<int64_t>::max();
  const double keys = D(c.index_topk) * AbsorbedKeyFlops(c) / MaterialisedKeyFlops(c);
  return static_cast<int64_t>(std::ceil(keys / D(kPage))) * kPage;
}

FlopCounts NecessaryFlops(const ModelConfig& c, int64_t begin, int64_t end, int64_t logit_rows) {
  const double layers = D(c.num_hidden_layers);
  const double tokens = D(end - begin);
  FlopCounts out;
  out.projections = tokens * layers * ProjectionFlops(c);
  out.kv_b = tokens * layers * ExpandFlops(c);
  out.indexer = tokens * layers * IndexProjectionFlops(c);
  out.feed_forward = tokens * FeedForwardFlops(c);
  out.head = 2.0 * D(logit_rows) * D(c.hidden_size) * D(c.vocab_size);
  for (int64_t p = begin; p < end; ++p) {
    const double keys = D(p + 1);
    double attention = keys * MaterialisedKeyFlops(c);
    if (c.sparse()) {
      attention = std::min(attention, std::min(keys, D(c.index_topk)) * AbsorbedKeyFlops(c));
      if (p >= c.index_topk) {
        out.index_scores += layers * 2.0 * keys * D(c.index_n_heads * c.index_head_dim);
      }
    }
    out.attention += layers * attention;
  }
  out.indexer += out.index_scores;
  return out;
}

double LeastSeconds(const FlopCounts& flops, const PeakFlops& peak, bool int8_weights,
                    bool int8_index) {
  double int8 = 0.0;
  if (int8_weights) int8 += flops.projections - flops.kv_b + flops.feed_forward;
  if (int8_index) int8 += flops.index_scores;
  return (flops.total() - int8) / peak.real + int8 / peak.int8;
}

namespace {

double BytesOf(std::initializer_list<const Weight*> weights) {
  double bytes = 0.0;
  for (const Weight* w : weights) bytes += D(w->bytes());
  return bytes;
}

double BytesOf(const std::vector<Weight>& weights) {
  double bytes = 0.0;
  for (const Weight& w : weights) bytes += D(w.bytes());
  return bytes;
}

double BytesOf(const MlpWeights& w) { return BytesOf({&w.gate_up, &w.down}); }

}  // namespace

DecodeBytes NecessaryDecodeBytes(const Weights& weights, const KvShape& shape, int64_t context,
                                 int64_t batch) {
  const ModelConfig& c = weights.config();
  const bool chooses = c.sparse() && context > c.index_topk;
  DecodeBytes out;
  out.weights = BytesOf({&weights.head()});
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const LayerWeights& w = weights.layer(i);
    const AttentionWeights& a = w.attention;
    // kv_b expands keys, which decode never does.
    out.weights += BytesOf({&a.q_a, &a.q_b, &a.kv_a, &a.o, &a.indexer.wk});
    out.weights += BytesOf(a.w_uk) + BytesOf(a.w_uv);
    if (chooses) out.weights += BytesOf({&a.indexer.wq_b, &a.indexer.weights_proj});
    if (!w.is_moe) {
      out.weights += BytesOf(w.mlp);
      continue;
    }
    out.weights += BytesOf({&w.moe.gate}) + BytesOf(w.moe.shared);
    double experts = 0.0;
    for (const MlpWeights& expert : w.moe.experts) experts += BytesOf(expert);
    const double missed = 1.0 - D(c.num_experts_per_tok) / D(c.n_routed_experts);
    out.weights += experts * (1.0 - std::pow(missed, D(batch)));
  }
  const int64_t attended = chooses ? c.index_topk : context;
  out.keys = D(attended * shape.latent_bytes());
  if (chooses) out.keys += D(context * shape.index_bytes());
  out.keys *= D(batch * c.num_hidden_layers);
  return out;
}

TokenCost PartitionCost(const ModelConfig& c, const Layout& layout, bool int8_index) {
  const double layers = D(c.num_hidden_layers);
  TokenCost cost;
  cost.linear = layers * (ProjectionFlops(c) + IndexProjectionFlops(c)) + FeedForwardFlops(c);
  if (c.quant_method == QuantMethod::kInt8) cost.linear *= kInt8Weight;
  const auto sharing = static_cast<int>(ContextGroup(layout, 0).size());
  if (sharing < layout.cp) cost.again = layers * ExpandFlops(c) / sharing;
  cost.dense = kMaterialisedWeight * layers * MaterialisedKeyFlops(c);
  if (c.sparse()) {
    cost.dense_end = MaterialisedEnd(c);
    cost.flat = kAbsorbedWeight * layers * AbsorbedKeyFlops(c) * D(c.index_topk);
    cost.index = kIndexWeight * layers * 2.0 * D(c.index_n_heads * c.index_head_dim);
    if (int8_index) cost.index *= kInt8Weight;
    cost.index_from = c.index_topk;
  }
  return cost;
}

}  // namespace causeway
