// The forward pass of one rank. SPMD: every rank runs this with its own slices of the same batch;
// every exchange between ranks is a line that names host_, tp_ or expert_exchange_.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/arena.h"
#include "base/trace.h"
#include "cache/kv_cache.h"
#include "kernels/op_set.h"
#include "model/attention_blocks.h"
#include "model/batch.h"
#include "model/expert_exchange.h"
#include "model/host_exchange.h"
#include "model/rope.h"
#include "model/scratch.h"
#include "model/weights.h"
#include "parallel/layout.h"
#include "parallel/partition.h"
#include "parallel/rank_link.h"
#include "parallel/read_counts.h"
#include "parallel/tensor_group.h"

namespace causeway {

// The part of a batch that one rank computes: its slices' tokens, as local rows in order.
struct LocalStep {
  using Block = AttentionBlock;

  const Batch& batch;
  const StepOutput& output;
  const StepSlices& all_slices;
  std::vector<Slice> slices;
  std::vector<int64_t> slice_row;  // first local row of each slice
  std::vector<int32_t> slice;      // per row
  std::vector<int32_t> position;   // per row
  std::vector<Block> blocks;       // all rows, in order
  KeySharing sharing;              // with the ranks of its context group

  int64_t most_blocks = 0;         // of any rank of the world
  int64_t most_rows = 0;           // the same
  std::vector<int64_t> home_rows;  // of each rank of the world: tokens whose experts it adds up

  // `rank` computes slices[rank] of the batch.
  LocalStep(const Batch& batch, const StepOutput& output, const StepSlices& slices,
            const Layout& layout, int rank, const BlockLimits& limits);
  int64_t rows() const { return static_cast<int64_t>(position.size()); }
  // The end of the longest of this rank's sequences, 0 without any.
  int64_t longest() const {
    int64_t end = 0;
    for (const Slice& s : slices) end = std::max(end, s.end);
    return end;
  }
  const Slice& SliceOf(int64_t row) const {
    return slices[static_cast<size_t>(slice[static_cast<size_t>(row)])];
  }
  const Extend& ExtendOf(int64_t row) const {
    return batch.extends[static_cast<size_t>(SliceOf(row).extend)];
  }
  int64_t PositionOf(int64_t row) const { return position[static_cast<size_t>(row)]; }
  // The row's index among all tokens of the batch.
  int64_t TokenOf(int64_t row) const {
    return output.TokenOf(batch, SliceOf(row).extend, PositionOf(row));
  }
};

// Where a layer's keys lie: per local slice, the pages of its extend.
struct LayerPages {
  std::vector<std::vector<const void*>> latents;     // each page [64] of KvShape::latent_bytes
  std::vector<std::vector<const void*>> index_keys;  // each page packed [64, index_dim]
};

// One rank's end of the model. Used by that rank's thread only; weights, cache and tables are
// shared with the other ranks of the host.
class Forward {
 public:
  // `host` joins the ranks of this host, `tensor` those of them in this rank's TP group, `context`
  // those of its ContextGroup (null where that has no other).
  Forward(const Weights& weights, const KvCache& cache, const RopeTable& rope, const Layout& layout,
          int rank, OpSet& ops, RankLink& host, RankLink& tensor, RankLink* context,
          TraceLane& trace);

  // Computes this rank's slices of the batch through every layer, and its share of the vocabulary
  // for all wanted rows. Throws StepFailed. On return on every rank, output holds the results.
  void Run(const Batch& batch, const StepSlices& slices, StepOutput& output);
  // Called in Run for every layer, once this host's cache has the keys of all tokens of the step
  // that it will have; in the middle of the layer, so that it should not take long. Empty: nothing.
  void SetLayerHook(LayerHook hook) { layer_hook_ = std::move(hook); }

  // Bytes of scratch memory that this rank holds beside weights and KV, and the bound that steps so
  // far had (ScratchBound): never less.
  int64_t scratch_bytes() const {
    return arena_.bytes() + ops_.scratch_bytes() + tp_.bytes() + expert_exchange_.bytes();
  }
  int64_t scratch_bound() const { return scratch_bound_; }
  // Since the last ClearCounters; between steps only.
  const ReadCounts& reads() const { return reads_; }
  // How many of the tokens that this rank is home to chose each expert.
  const ExpertCounts& expert_counts() const { return expert_counts_; }
  void ClearCounters();

 private:
  // What attention asks of a block of rows.
  struct Queries {
    Activation latent;  // [rows, q_lora_rank]: the normed query latent, which the indexer shares
    Rows heads;         // [rows, this rank's heads * (nope + rope)], rotated
  };
  // Which keys each row of a block sees: all up to its own position, or the chosen ones.
  struct Selection {
    int64_t width = 0;                   // index_topk; 0: every row sees all its keys
    const int32_t* positions = nullptr;  // [rows, width], ascending
    const int32_t* count = nullptr;      // per row; 0: all keys
  };
  // The same for materialised heads: bit j of word [row, p] is set if the row sees key 64 p + j.
  struct KeyMask {
    int64_t stride = 0;               // words of a row
    const uint64_t* words = nullptr;  // [rows, stride]; null: every row sees all its keys
  };

  void Layer(int64_t index, const LocalStep& step, View<float, 2> x);
  void Logits(const LocalStep& step, View<const float, 2> x, StepOutput& output);
  // Counts the keys of this step that other ranks of the data-parallel group have written.
  void CountKeys(const LocalStep& step);
  // The residual stream before layer `index`, if the step is captured.
  void CaptureHidden(int64_t index, const LocalStep& step, View<const float, 2> x) const;
  LayerPages PagesOf(int64_t layer, const LocalStep& step) const;

  // attention.cc
  void PublishKeys(int64_t layer, const LocalStep& step, View<const float, 2> x);
  // a: the row's part of x kv_a^T; scratch: [latent_dim].
  void StoreLatent(int64_t layer, const LocalStep& step, int64_t row, const float* a,
                   float* scratch) const;
  Queries MakeQueries(int64_t layer, const LocalStep& step, const LocalStep::Block& block,
                      View<const float, 2> x);
  // x W^T: where the ranks of the TP group work together each makes some panels of columns, which
  // come to all.
  void Project(CollectiveName name, const Activation& x, const Weight& w, const Rows& out);
  // x: the residual stream of the block's rows, for the indexer.
  void Attend(int64_t layer, const LocalStep& step, int64_t block_index, View<const float, 2> x,
              const Queries& queries, const LayerPages& pages, const Rows& out);
  KeyMask SelectMask(int64_t layer, const LocalStep& step, const LocalStep::Block& block,
                     View<const float, 2> x, const Queries& queries, const LayerPages& pages);
  void AttendAbsorbed(const AttentionWeights& w, const LocalStep& step, int64_t first_row,
                      const Rows& queries, const Selection& selection, int64_t selection_row,
                      const LayerPages& pages, const Rows& out);
  // Keys and values of a head, [pages] of panels as dense attention reads them.
  struct HeadPanels {
    int64_t head = 0;  // of this rank's
    const void* keys = nullptr;
    const void* values = nullptr;
  };
  // Queries of one 64-aligned run of positions.
  struct QueryBlock {
    int64_t row;  // in the block
    int64_t position;
    int64_t count;
  };
  // What materialised heads of a block attend with, and to where.
  struct HeadQueries {
    const Rows& queries;
    const KeyMask& mask;
    const Rows& out;
  };
  // The block's rows of one sequence, ascending.
  std::vector<QueryBlock> QueryBlocksOf(const LocalStep& step, const LocalStep::Block& block,
                                        int32_t extend) const;
  void AttendMaterialised(int64_t layer, const LocalStep& step, const LocalStep::Block& block,
                          const HeadQueries& with);
  // The same with keys that the context group expands together, after `select` has chosen which
  // ones count; block null: none of this rank's rows attends in this round.
  void AttendShared(int64_t layer, const LocalStep& step, int64_t round,
                    const LocalStep::Block* block, const HeadQueries* with,
                    const std::function<void()>& select);
  // Expands `heads` of this rank for `pages` pages of a sequence to the panels at `memory`.
  void ExpandHeads(int64_t layer, const Extend& extend, Range heads, int64_t pages, char* memory);
  // The panels of `heads` that lie at `memory`, head after head.
  std::vector<HeadPanels> PanelsAt(const char* memory, Range heads, int64_t pages) const;
  void AttendHeads(const std::vector<QueryBlock>& query_blocks,
                   const std::vector<HeadPanels>& heads, const HeadQueries& with);
  int64_t KeyPanel() const { return kPage * config_.qk_head_dim(); }  // elements of a page
  int64_t ValuePanel() const {
    return kPage * ((config_.v_head_dim + kPanelGranule - 1) / kPanelGranule * kPanelGranule);
  }
  int64_t HeadBytes(int64_t pages) const {
    return pages * (KeyPanel() + ValuePanel()) * SizeOf(type_);
  }
  // Memory for what this rank expands for its context group in this step.
  void ReserveSharedKeys(const LocalStep& step);

  // indexer.cc
  class Selector;
  // Consecutive queries, rotated and in the type of the index keys, with their heads' weights.
  struct IndexQueries {
    Rows rows;                    // [rows, index_n_heads * index_head_dim]
    View<const float, 2> weight;  // [rows, index_n_heads], times the scales of int8 heads

    IndexQueries Slice(int64_t begin, int64_t end) const {
      return {rows.Slice(begin, end), weight.Slice(begin, end)};
    }
  };
  IndexQueries MakeIndexQueries(int64_t layer, const LocalStep& step, const LocalStep::Block& block,
                                Range mine, View<const float, 2> x, const Queries& queries);
  // own: the selector's rows whose choice this rank makes; positions and count begin at its row 0.
  void ScoreInPieces(int64_t layer, Selector& selector, bool together, View<float, 2> scores,
                     Range own, int32_t* positions, int32_t* count);
  // h: of the rows from first_row on, of which those in `stored` are this rank's to store.
  void PublishIndexKeys(int64_t layer, const LocalStep& step, int64_t first_row, Range stored,
                        const Activation& h);
  Selection Select(int64_t layer, const LocalStep& step, const LocalStep::Block& block,
                   View<const float, 2> x, const Queries& queries, const LayerPages& pages);

  // Whether the ranks of the TP group compute the experts' products of this step together: as all
  // else, unless tokens travel to their experts.
  bool experts_together() const { return together_ && !layout_.tokens_travel(); }
  // Of `total` columns that are cut so, in whole panels: this rank's.
  Range ColumnsTogether(int64_t total) const;

  // moe.cc
  void FeedForward(int64_t layer, const LocalStep& step, View<float, 2> x);
  void DenseMlp(int64_t layer, const LocalStep& step, View<float, 2> x);
  void SharedExpert(int64_t layer, const Activation& h, View<float, 2> x);
  // `home`: those of the rows whose choices are counted here.
  RoutedTokens RouteTokens(int64_t layer, const LocalStep& step, int64_t first_row, Range home,
                           const Rows& exact, const Activation& h);
  void ExpertsAtHome(int64_t layer, const RoutedTokens& tokens, View<float, 2> x);
  void ExpertsElsewhere(int64_t layer, const RoutedTokens& tokens,
                        const std::vector<int64_t>& home_rows, View<float, 2> x);
  // The columns of a product that the ranks of the TP group make together come to all.
  void ShareProduct(CollectiveName name, const Rows& product);
  // silu(gate) * up of the slots in `order`, by expert: the columns `inner` of [slots,
  // moe_intermediate_size].
  Rows ExpertProducts(int64_t layer, const Activation& input, const ExpertOrder& order,
                      Range inner);

  // x += in W^T, where each rank of the TP group has some of the columns of `in`, from k_begin of
  // this host's part of W on. `sums`: see PartSums.
  void AddRowParallel(CollectiveName name, const Rows& in, const Weight& w, int64_t k_begin,
                      const std::vector<int32_t>& sums, View<float, 2> x);

  // The rows normed, in f32, in the arena.
  Rows Normed(View<const float, 2> x, const std::vector<float>& weight);
  // The same in the mode's type, as the input of products with weights of that type.
  Activation NormedInput(View<const float, 2> x, const std::vector<float>& weight,
                         DType weight_type);

  const Weights& weights_;
  const ModelConfig& config_;
  const KvCache& cache_;
  const RopeTable& rope_;
  const Layout& layout_;
  const int rank_;
  OpSet& ops_;
  RankLink& host_;
  ReadCounts reads_;
  TensorGroup tp_;
  RankLink* const context_;  // null: alone
  const std::vector<int> context_group_;
  ExpertExchange expert_exchange_;
  HostExchange host_exchange_;
  std::vector<Range> head_columns_;  // of each host: ids whose logits it computes
  ExpertCounts expert_counts_;
  LayerHook layer_hook_;
  TraceLane& trace_;
  const Range heads_;  // of this rank, among those that this host holds
  const Range inner_;  // columns of dense layers, the same
  // Per layer: row sums of this rank's columns of an int8 o_proj or down_proj, where they are a
  // part.
  std::vector<std::vector<int32_t>> o_sums_;
  std::vector<std::vector<int32_t>> down_sums_;
  const DType type_;  // of activations: f32 or bf16
  const PassRows pass_rows_;
  // What other ranks read of this one's keys, in turns: what is written in one turn may still be
  // read in the next, and in no later one.
  struct {
    char* turns[2] = {};
    int64_t bytes = 0;  // of each
    int64_t used = 0;   // turns so far
  } shared_keys_;
  const float softmax_scale_;
  int64_t scratch_bound_ = 0;
  bool together_ = false;  // WorkTogether of the step under way
  Arena arena_;
};

}  // namespace causeway
