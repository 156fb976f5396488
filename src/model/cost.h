// FLOPs and bytes of the model, counted once: for the balanced partition, for "share of peak" in
// benchmarks and for the planner. A multiply-add is two FLOPs.
#pragma once

#include <cstdint>

#include "cache/kv_cache.h"
#include "checkpoint/model_config.h"
#include "model/weights.h"
#include "parallel/partition.h"

namespace causeway {

struct FlopCounts {
  double projections = 0;  // q, kv, o and kv_b (expanded per key or absorbed per query: equal)
  double attention = 0;    // scores and weighted values
  double indexer = 0;      // its projections and scores
  double feed_forward = 0;
  double head = 0;
  double kv_b = 0;          // of projections: keys and values of the heads, never in int8
  double index_scores = 0;  // of indexer
  double total() const { return projections + attention + indexer + feed_forward + head; }
};

// Prefill computes queries at positions below this with materialised heads over all their keys
// (a mask hides those that were not selected) and the others with absorbed heads over the selected
// keys: the form that needs fewer FLOPs, up to the next page border. Dense models: no position is
// above it. The form of a query depends on nothing else (decode is always absorbed).
int64_t MaterialisedEnd(const ModelConfig& config);

// What the cheapest exact form needs for the tokens at positions [begin, end) of one sequence whose
// earlier tokens are cached, with `logit_rows` rows of logits: the causal half only; per query the
// cheaper of materialised heads over all earlier keys and absorbed heads over min(position + 1,
// index_topk) keys; scores of the indexer only from position index_topk on.
FlopCounts NecessaryFlops(const ModelConfig& config, int64_t begin, int64_t end,
                          int64_t logit_rows);

// What a thread can do in a second at most, of FLOPs in the mode's float type and of int8's.
struct PeakFlops {
  double real = 0;
  double int8 = 0;
};
// Seconds that one thread needs for these FLOPs at the least: products with int8 weights (w8a8
// checkpoints in bfloat16 mode) and scores of int8 index keys at the peak of int8.
double LeastSeconds(const FlopCounts& flops, const PeakFlops& peak, bool int8_weights,
                    bool int8_index);

// Bytes that a decode step reads, however the work is spread.
struct DecodeBytes {
  double weights = 0;  // of layers and lm_head
  double keys = 0;     // latents and index keys
  double total() const { return weights + keys; }
};

// What a decode step of `batch` sequences with `context` tokens each must read at the least: every
// weight once, of the routed experts as many as so many tokens choose if all choices are equally
// likely; per sequence the latents that it attends to and, where it has to choose, all index keys.
// `weights` holds the whole model.
DecodeBytes NecessaryDecodeBytes(const Weights& weights, const KvShape& shape, int64_t context,
                                 int64_t batch);

// How much longer a FLOP takes in attention and in index scores (top-k included) than in linear
// layers; fitted so that the ranks of `bench prefill` end together on the machine of
// docs/performance.md.
inline constexpr double kAbsorbedWeight = 1.05;
inline constexpr double kMaterialisedWeight = 1.1;
inline constexpr double kIndexWeight = 1.1;
// The same of products of int8 weights and of int8 index keys, in linear layers and index scores.
inline constexpr double kInt8Weight = 0.59;

// The cost of a token as this engine computes it, for parallel::Partition: FLOPs, weighted.
// Ranks of a host expand keys for each other (model/attention_blocks.h), each an equal share: what
// is left of `again` is between hosts. int8_index: index keys are int8 (KvShape).
TokenCost PartitionCost(const ModelConfig& config, const Layout& layout, bool int8_index);

}  // namespace causeway
