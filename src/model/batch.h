// What a step computes: a batch of extends, and where its results go.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/buffer.h"
#include "base/view.h"
#include "checkpoint/model_config.h"
#include "parallel/partition.h"

namespace causeway {

// Which logits a sequence wants from a step.
enum class LogitsWanted { kNone, kLast, kAll };

// New tokens of one sequence: positions [begin, end()).
struct Extend {
  std::vector<int32_t> tokens;  // ids at positions begin, begin + 1, ...
  int64_t begin = 0;            // tokens of the sequence that are in the KV cache already
  bool decode = false;          // decode phase: absorbed attention (DESIGN section 5)
  std::vector<int32_t> pages;   // page of positions [64 i, 64 i + 64); covers end()
  LogitsWanted logits = LogitsWanted::kLast;
  int32_t dp = 0;  // the data-parallel group that computes it
  // The transfer of its keys to a decode server, and the tokens of the whole prompt; -1: they stay.
  int64_t room = -1;
  int64_t room_tokens = 0;

  int64_t end() const { return begin + static_cast<int64_t>(tokens.size()); }
};

struct Batch {
  std::vector<Extend> extends;
  std::vector<int64_t> closed_rooms =
      {};  // ended early since the last step: nothing of them is sent

  int64_t tokens() const;
  // Of the extends of one data-parallel group; those of others are empty.
  std::vector<ExtendRange> RangesOf(int dp) const;
};

// The slices of every rank of the world, over all hosts.
using StepSlices = std::vector<std::vector<Slice>>;

// The slices of a batch: each data-parallel group's extends, cut for its context ranks; the ranks
// of a TP group have the same.
StepSlices SlicesOf(const Batch& batch, const Layout& layout, const TokenCost& cost);

// What a step does once this host's cache has the keys of a layer, as far as it will have them.
using LayerHook = std::function<void(const Batch& batch, const StepSlices& slices, int64_t layer)>;

// Rows of a step that the ranks of an attention TP group compute together, at most.
inline constexpr int64_t kTogetherRows = 256;
// Whether the ranks of a TP group compute the rows of their slices together, some columns each,
// where they would otherwise do some rows each: few rows, all of decode steps, on one host. Every
// sum is still one rank's, in its usual order.
bool WorkTogether(const Layout& layout, const Batch& batch, const std::vector<Slice>& slices);
// Of such rows: whether they also score index keys together, some pages each.
inline bool ScoreTogether(const Layout& layout, int64_t rows) { return rows < 4 * layout.tp; }
// Consecutive queries of a sequence that are scored together, at most.
inline constexpr int64_t kScoreRows = 8;

// Every intermediate choice of a step, for `causeway logits --hidden` and the golden tests. Rows
// are the batch's tokens in order, extend after extend.
struct Capture {
  std::vector<std::vector<float>> hidden;  // [layers + 1][T * hidden_size], before layer N
  std::vector<std::vector<int32_t>> router_indices;  // [layers][T * num_experts_per_tok] or empty
  std::vector<std::vector<float>> router_weights;    // the same
  std::vector<std::vector<int32_t>> topk_indices;    // [layers][T * index_topk], -1 padded

  Capture(const ModelConfig& config, int64_t tokens);
};

// Memory of one step that the ranks of a host share. Each rank writes its own rows; the
// communicator's barriers order writes and reads.
class StepOutput {
 public:
  // `capture` may be null. hidden_type: the mode's activation type.
  StepOutput(const ModelConfig& config, DType hidden_type, const Batch& batch, Capture* capture);

  int64_t rows() const { return logits_.dim(0); }
  const Rows& hidden() const { return hidden_; }     // [rows, hidden_size], after model.norm
  View<float, 2> logits() const { return logits_; }  // [rows, vocab_size]
  Capture* capture() const { return capture_; }
  // The row of position p of an extend among hidden() and logits(); -1 if it wants none.
  int64_t RowOf(const Batch& batch, int32_t extend, int64_t position) const;
  // The index of position p of an extend among all tokens of the batch.
  int64_t TokenOf(const Batch& batch, int32_t extend, int64_t position) const;

 private:
  std::vector<int64_t> first_row_;    // per extend
  std::vector<int64_t> first_token_;  // per extend
  Buffer hidden_memory_;
  Buffer logits_memory_;
  Rows hidden_;
  View<float, 2> logits_;
  Capture* capture_;
};

}  // namespace causeway
