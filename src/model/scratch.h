// Scratch: what a rank holds beside weights and KV cache while it computes a step. Every part has a
// bound that is stated here, and the arena refuses to grow beyond it.
//
// Work goes through the model in passes of so many rows that a pass fits into a fixed number of
// bytes. What grows with the step is the residual stream alone (4 bytes x hidden x the rank's
// rows), and what grows with the context is one head's keys and values beyond kExpandBytes. No
// number here changes a bit of the results.
#pragma once

#include <cstdint>

#include "checkpoint/model_config.h"
#include "kernels/op_table.h"
#include "model/batch.h"
#include "parallel/layout.h"

namespace causeway {

// Rows of one pass of the projections in f32, before rounding, of the indexer's choice for
// materialised heads, and of a dense or shared MLP.
inline constexpr int64_t kProjectRows = 512;
inline constexpr int64_t kSelectRows = 512;
inline constexpr int64_t kMlpRows = 512;
// Rows of a block of absorbed attention: queries, outputs and selected positions.
inline constexpr int64_t kAbsorbedRows = 512;
// Pages of keys between two looks at the scores of up to kScoreRows queries, for all of which a
// page is read once.
inline constexpr int64_t kScorePages = 16;
// Pages of keys that the threads of a rank or the ranks of a TP group score for a few queries
// before they are looked at.
inline constexpr int64_t kPiecePages = 256;
// Rows of one expert that an item computes at a time.
inline constexpr int64_t kExpertRows = 128;
// Blocks of 64 queries that walk the pages of a head together, and how many pages each takes in its
// turn: with what is kept of the blocks, they fit into a second-level cache of 1 MB.
inline constexpr int64_t kBlocksTogether = 6;
inline constexpr int64_t kPagesTogether = 8;
// Bound on the memory of expanded keys and values of materialised heads; one head at least.
inline constexpr int64_t kExpandBytes = int64_t{64} << 20;
// The same of those that a rank expands for its context group (attention_blocks.h), which stay for
// the whole step; in halves, of one head at least, where the group takes turns.
inline constexpr int64_t kSharedKeyBytes = int64_t{48} << 20;

// Rows of the passes that are as long as their bytes allow.
struct PassRows {
  int64_t materialised = 0;  // a block of materialised heads: queries, outputs, parts of sums
  int64_t absorb = 0;        // absorbed queries and weighted latents of all heads
  int64_t home = 0;          // experts whose tokens stay
  int64_t travel = 0;        // of each home, where tokens travel

  static PassRows Of(const ModelConfig& config, const Layout& layout, DType type);
};

// What decides how much a rank needs for a step.
struct StepSize {
  int64_t rows = 0;         // tokens that the rank computes
  int64_t most_rows = 0;    // of any rank
  int64_t keys = 0;         // of the longest sequence, the new ones included
  int64_t logit_rows = 0;   // that want logits, in the whole batch
  int64_t shared_keys = 0;  // of the longest sequence that the context group expands together
};

struct ScratchBytes {
  int64_t arena = 0;    // the residual stream and the largest pass
  int64_t workers = 0;  // kScratchBytes for each thread
  int64_t sums = 0;     // parts of sums over a TP group
  int64_t experts = 0;  // outputs of experts for other ranks' tokens, if all of them came here
  int64_t total() const { return arena + workers + sums + experts; }
};

// The most that a rank needs for a step, in memory of its own; what hosts send each other is not in
// it. type: of activations.
ScratchBytes ScratchBound(const ModelConfig& config, const Layout& layout, DType type,
                          const StepSize& step);

// The same over the steps of a prompt of `tokens` that is computed alone in chunks of `chunk`
// tokens (-1: at once), for the rank that needs most. int8_index as in PartitionCost.
ScratchBytes PrefillScratchBound(const ModelConfig& config, const Layout& layout, DType type,
                                 bool int8_index, int64_t tokens, int64_t chunk);

}  // namespace causeway
