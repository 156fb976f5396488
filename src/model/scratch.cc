#include "model/scratch.h"

#include <algorithm>

#include "base/view.h"
#include "model/attention_blocks.h"
#include "model/cost.h"
#include "parallel/partition.h"

namespace causeway {
namespace {

// A block of materialised heads: queries, outputs, and its parts of sums over a TP group. The heads
// are expanded once for a block, which costs as much as attending to them from about 400 queries:
// hence so much.
constexpr int64_t kMaterialisedBytes = int64_t{96} << 20;
constexpr int64_t kMaterialisedLeast = 512;
// Absorbed queries and their outputs: each pass reads w_uk and w_uv of all heads.
constexpr int64_t kAbsorbBytes = int64_t{32} << 20;
constexpr int64_t kAbsorbMost = 256;
// A pass of experts at home: enough that each of 256 experts sees tens of rows.
constexpr int64_t kHomeBytes = int64_t{192} << 20;
constexpr int64_t kHomeLeast = 64;
constexpr int64_t kHomeMost = 2048;
// Rows of all homes of a worker in a pass where tokens travel.
constexpr int64_t kTravelTotal = 2048;
constexpr int64_t kTravelMost = 256;
constexpr int64_t kTravelLeast = 16;
// Pieces of the arena that a pass has at a time, beside those of each worker; each is rounded up to
// 64 bytes.
constexpr int64_t kPieces = 64;
constexpr int64_t kWorkerPieces = 32;

// Bytes of what the passes put into the arena, by the calls that do it.
struct Sizes {
  const ModelConfig& c;
  int64_t type_size;
  int64_t threads;
  int64_t heads;
  int64_t inner;  // of the dense layers, this rank's part
  int64_t sums;   // parts of a sum over the TP group that are in memory at a time

  Sizes(const ModelConfig& config, const Layout& layout, DType type)
      : c(config),
        type_size(SizeOf(type)),
        threads(layout.threads_per_rank),
        heads((config.num_attention_heads + layout.tp - 1) / layout.tp),
        inner((config.intermediate_size + layout.tp - 1) / layout.tp),
        sums(layout.cuts_heads() ? 2 : 0) {}

  static int64_t Floats(int64_t rows, int64_t cols) { return rows * cols * 4; }
  int64_t Matrix(int64_t rows, int64_t cols) const { return rows * cols * type_size; }
  // OpSet::Prepare before int8 weights: values and a scale for each row.
  static int64_t Prepared(int64_t rows, int64_t cols) { return rows * ((cols + 3) / 4 * 4 + 4); }
  // OpSet::LinearColumns: whole panels, and one more.
  static int64_t Columns(int64_t rows, int64_t cols) {
    return Floats(rows, ((cols + kPanel - 1) / kPanel + 1) * kPanel);
  }
  int64_t index_columns() const { return c.index_n_heads * c.index_head_dim; }

  // Forward::PublishKeys.
  int64_t Keys(int64_t rows) const {
    return Matrix(rows, c.hidden_size) + 2 * Prepared(rows, c.hidden_size) +
           Floats(rows, c.latent_dim()) + (c.sparse() ? Floats(rows, c.index_head_dim) : 0);
  }

  // Forward::MakeQueries: what stays, and what one of its passes takes beside it.
  int64_t Queries(int64_t rows) const {
    return Matrix(rows, heads * c.qk_head_dim() + c.q_lora_rank) + Prepared(rows, c.q_lora_rank);
  }
  int64_t QueryPass(int64_t rows) const {
    return Matrix(rows, c.hidden_size) + Prepared(rows, c.hidden_size) +
           Floats(rows, c.q_lora_rank) + Columns(rows, heads * c.qk_head_dim());
  }

  // Forward::Select: the choice, and what making it takes beside it.
  int64_t Selection(int64_t rows) const { return c.sparse() ? Floats(rows, c.index_topk + 1) : 0; }
  int64_t SelectPass(int64_t rows) const {
    if (!c.sparse()) return 0;
    const int64_t candidates = 2 * c.index_topk + kTopKSlack;
    return Matrix(rows, index_columns()) + Floats(rows, c.index_n_heads) +
           std::max(Floats(rows, index_columns()) + Floats(rows, c.hidden_size),
                    Prepared(rows * c.index_n_heads, c.index_head_dim)) +
           Floats(kScoreRows, kPiecePages * kPage) +
           threads *
               Floats(1, kScoreRows * kScorePages * kPage + candidates * (1 + 2 * kScoreRows));
  }
  int64_t Absorb(int64_t rows) const {
    return Matrix(rows, heads * (c.latent_dim() + c.kv_lora_rank));
  }
  int64_t value() const {
    return (c.v_head_dim + kPanelGranule - 1) / kPanelGranule * kPanelGranule;
  }
  // A head's keys and values.
  int64_t Head(int64_t keys) const {
    return Matrix((keys + kPage - 1) / kPage * kPage, c.qk_head_dim() + value());
  }
  // Forward::ReserveSharedKeys.
  int64_t SharedKeys(int64_t keys) const {
    const int64_t head = Head(keys);
    return std::min(2 * ((heads + 1) / 2) * head, std::max(kSharedKeyBytes, 2 * head));
  }
  // Forward::SelectMask and AttendMaterialised, with what an int8 cache needs.
  int64_t Materialised(int64_t rows, int64_t keys, bool shared) const {
    const int64_t pages = (keys + kPage - 1) / kPage;
    const int64_t head = Head(keys);
    const int64_t expand = (shared ? 0 : std::min(std::max(kExpandBytes, head), heads * head)) +
                           Floats(threads * kBlocksTogether, kDenseStateFloats + kPage * value()) +
                           Floats(threads * kPage, c.qk_nope_head_dim + c.v_head_dim) +
                           Matrix(threads * kPage, c.latent_dim());
    const int64_t mask = c.sparse() ? rows * pages * 8 : 0;
    const int64_t chosen = std::min(rows, kSelectRows);
    return mask + std::max(expand, Selection(chosen) + SelectPass(chosen));
  }
  // A block of attention from its queries to its output projection.
  int64_t Block(int64_t rows, int64_t attention) const {
    const int64_t columns = heads * c.v_head_dim;
    const int64_t o_proj = Prepared(rows, columns) + 2 * Floats(rows, 1);
    return Queries(rows) + std::max(QueryPass(std::min(rows, kProjectRows)),
                                    Matrix(rows, columns) + std::max(attention, o_proj));
  }

  int64_t Sums(int64_t rows) const { return sums * Floats(rows, c.hidden_size); }
  // What a rank shows to its TP group of columns that they make together, at most.
  int64_t Together(int64_t rows) const {
    const int64_t widest =
        std::max({c.hidden_size, c.latent_dim(), c.q_lora_rank, index_columns(), c.n_routed_experts,
                  c.n_shared_experts * c.moe_intermediate_size,
                  c.num_experts_per_tok * c.moe_intermediate_size});
    const int64_t scores = c.sparse() ? Floats(kScoreRows, kPiecePages * kPage) : 0;
    return sums * std::max(Floats(std::min(rows, kTogetherRows), widest), scores);
  }

  // Forward::SharedExpert; DenseMlp norms its rows beside that.
  int64_t Mlp(int64_t rows, int64_t columns) const {
    return Matrix(rows, columns) + 2 * Columns(rows, columns) + Prepared(rows, columns) +
           2 * Floats(rows, 1);
  }
  int64_t DenseMlp(int64_t rows) const {
    return Matrix(rows, c.hidden_size) + Prepared(rows, c.hidden_size) + Mlp(rows, inner);
  }
  // What a pass of experts holds for its own tokens, and for slots that it computes.
  int64_t Tokens(int64_t rows) const {
    return Floats(rows, c.hidden_size) + Matrix(rows, c.hidden_size) +
           Prepared(rows, c.hidden_size) + Floats(rows, 2 * c.num_experts_per_tok);
  }
  int64_t Slots(int64_t slots) const {
    return Matrix(slots, c.moe_intermediate_size) + Prepared(slots, c.moe_intermediate_size);
  }
  int64_t Experts(int64_t rows, int64_t work_rows, bool travel) const {
    const int64_t gate = Floats(rows + 2, c.n_routed_experts);
    const int64_t items = Floats(threads * kExpertRows, 2 * c.moe_intermediate_size);
    int64_t work = Slots(work_rows * c.num_experts_per_tok) + items;
    if (travel) work += Matrix(work_rows, c.hidden_size) + Prepared(work_rows, c.hidden_size);
    const int64_t shared =
        Mlp(std::min(rows, kMlpRows), c.n_shared_experts * c.moe_intermediate_size);
    return Tokens(rows) + std::max(gate, std::max(work, shared));
  }
};

}  // namespace

PassRows PassRows::Of(const ModelConfig& config, const Layout& layout, DType type) {
  const Sizes sizes(config, layout, type);
  PassRows out;
  const int64_t block_row =
      sizes.Matrix(1, sizes.heads * (config.qk_head_dim() + config.v_head_dim)) + sizes.Sums(1);
  out.materialised = std::max(kMaterialisedLeast, kMaterialisedBytes / block_row);
  out.absorb = std::clamp(kAbsorbBytes / sizes.Absorb(1), int64_t{1}, kAbsorbMost);
  const int64_t home_row = sizes.Tokens(1) + sizes.Slots(config.num_experts_per_tok);
  out.home = std::clamp(kHomeBytes / home_row, kHomeLeast, kHomeMost);
  out.travel = std::clamp(kTravelTotal / layout.ep, kTravelLeast, kTravelMost);
  return out;
}

ScratchBytes ScratchBound(const ModelConfig& c, const Layout& layout, DType type,
                          const StepSize& step) {
  const Sizes sizes(c, layout, type);
  const PassRows pass = PassRows::Of(c, layout, type);
  const int64_t rows = step.rows;
  int64_t most = sizes.Keys(std::min(rows, kProjectRows));

  const int64_t block = std::min(rows, pass.materialised);
  const int64_t keys = std::min(step.keys, MaterialisedEnd(c));
  most = std::max(most, sizes.Block(block, sizes.Materialised(block, keys, step.shared_keys > 0)));
  const int64_t absorbed = std::min(rows, kAbsorbedRows);
  const int64_t choice_or_pass =
      std::max(sizes.SelectPass(absorbed), sizes.Absorb(std::min(absorbed, pass.absorb)));
  most = std::max(most, sizes.Block(absorbed, sizes.Selection(absorbed) + choice_or_pass));

  most = std::max(most, sizes.DenseMlp(std::min(rows, kMlpRows)));
  ScratchBytes out;
  if (c.n_routed_experts > 0) {
    const bool travel = layout.tokens_travel();
    const int64_t own = std::min(rows, travel ? pass.travel : pass.home);
    // All that the homes of this worker offer in a pass, one in each part.
    const int64_t work = travel ? layout.ep * std::min(step.most_rows, pass.travel) : own;
    most = std::max(most, sizes.Experts(own, work, travel));
    if (travel) out.experts = Sizes::Floats(work * c.num_experts_per_tok, c.hidden_size);
  }
  most = std::max(most, Sizes::Prepared(step.logit_rows, c.hidden_size));
  out.arena = Sizes::Floats(rows, c.hidden_size) + sizes.SharedKeys(step.shared_keys) + most +
              64 * (kPieces + kWorkerPieces * layout.threads_per_rank);
  out.workers = layout.threads_per_rank * kScratchBytes;
  out.sums = std::max(sizes.Sums(std::max(block, std::min(rows, kMlpRows))), sizes.Together(rows));
  return out;
}

ScratchBytes PrefillScratchBound(const ModelConfig& config, const Layout& layout, DType type,
                                 bool int8_index, int64_t tokens, int64_t chunk) {
  const TokenCost cost = PartitionCost(config, layout, int8_index);
  if (chunk <= 0) chunk = tokens;
  ScratchBytes out;
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t end = std::min(tokens, begin + chunk);
    StepSize step{.keys = end, .logit_rows = 1};
    for (const auto& slices : Partition(layout.partition, layout.cp, cost, {{begin, end}})) {
      int64_t rows = 0;
      for (const Slice& slice : slices) rows += slice.end - slice.begin;
      step.most_rows = std::max(step.most_rows, rows);
    }
    step.rows = step.most_rows;
    const bool shares = ContextGroup(layout, 0).size() > 1 && begin < MaterialisedEnd(config);
    step.shared_keys = shares ? std::min(end, MaterialisedEnd(config)) : 0;
    const ScratchBytes bytes = ScratchBound(config, layout, type, step);
    if (bytes.total() > out.total()) out = bytes;
  }
  return out;
}

}  // namespace causeway
