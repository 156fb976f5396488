// The lightning indexer: which keys a query attends to. Equations: docs/model.md, "Indexer".
#include <algorithm>
#include <cstring>

#include "model/forward.h"

namespace causeway {
namespace {

// Pages of an item of ScoreInPieces.
constexpr int64_t kPieceItem = 8;
constexpr float kKeyNormEps = 1e-6f;  // of the index keys' LayerNorm, fixed in the model family

// What a worker scores and selects with: 8 x 1024 scores, and for each of the 8 queries the keys
// and positions of up to 2 topk + 512 candidates. For a topk of 2048 that is 346 KB a worker,
// whatever the context.
struct ScoreMemory {
  View<float, 2> scores;  // [kScoreRows, kScorePages * 64]
  TopKCandidates candidates[kScoreRows];
  uint32_t* list;  // of TopKArgs

  ScoreMemory(int64_t topk, Arena& arena) : scores(arena.Floats(kScoreRows, kScorePages * kPage)) {
    const int64_t capacity = 2 * topk + kTopKSlack;
    list = arena.Array<uint32_t>(capacity);
    for (TopKCandidates& c : candidates) {
      c = {.keys = arena.Array<uint32_t>(capacity),
           .positions = arena.Array<int32_t>(capacity),
           .capacity = capacity};
    }
  }
};

}  // namespace

// The choice of up to kScoreRows consecutive queries, the first of which stands at
// `first_position`: scores and selects in turns, block by block of keys, so that no row of scores
// is ever whole.
class Forward::Selector {
 public:
  // All must outlive it; `memory` is used by this alone.
  Selector(const OpTable& table, const ModelConfig& config, IndexQueries queries,
           int64_t first_position, const std::vector<const void*>& pages, ScoreMemory& memory)
      : table_(table),
        config_(config),
        queries_(queries),
        first_position_(first_position),
        pages_(pages),
        memory_(memory) {
    // Empty again, with the memory kept.
    for (int64_t i = 0; i < rows(); ++i) {
      TopKCandidates& c = memory.candidates[i];
      c = {.keys = c.keys, .positions = c.positions, .capacity = c.capacity};
    }
  }

  int64_t rows() const { return queries_.rows.rows; }
  int64_t page_count() const { return (first_position_ + rows() - 1) / kPage + 1; }

  // Scores of the keys of pages [begin, end), not masked: out [rows, *], from column 0 on.
  void Score(int64_t begin, int64_t end, View<float, 2> out, void* scratch) const {
    table_.index_scores({.type = queries_.rows.type,
                         .q = queries_.rows.data,
                         .q_stride = queries_.rows.stride,
                         .weight = queries_.weight.data(),
                         .weight_stride = queries_.weight.stride(0),
                         .m = rows(),
                         .heads = config_.index_n_heads,
                         .dim = config_.index_head_dim,
                         .key_pages = pages_.data(),
                         .page_begin = begin,
                         .page_end = end,
                         .scores = out.data(),
                         .scores_stride = out.stride(0),
                         .scratch = scratch});
  }

  // Row i takes its scores of pages [begin, end), which come in order.
  void Take(int64_t i, int64_t begin, int64_t end, View<float, 2> scores) {
    const int64_t keys = std::min(end * kPage, first_position_ + i + 1);  // the causal part
    table_.top_k({.scores = scores.row(i),
                  .n = std::max<int64_t>(keys - begin * kPage, 0),
                  .k = config_.index_topk,
                  .last = end == page_count(),
                  .candidates = &memory_.candidates[i],
                  .list = memory_.list});
  }

  // What row i has chosen, ascending, when it has taken all pages.
  void Chosen(int64_t i, int32_t* positions, int32_t* count) const {
    const TopKCandidates& chosen = memory_.candidates[i];
    std::copy_n(chosen.positions, chosen.count, positions);
    *count = static_cast<int32_t>(chosen.count);
  }

  // All of it on this thread; positions: [rows, topk], count: [rows].
  void Run(void* scratch, int32_t* positions, int32_t* count) {
    for (int64_t page = 0; page < page_count(); page += kScorePages) {
      const int64_t end = std::min(page + kScorePages, page_count());
      Score(page, end, memory_.scores, scratch);
      for (int64_t i = 0; i < rows(); ++i) Take(i, page, end, memory_.scores);
    }
    for (int64_t i = 0; i < rows(); ++i) Chosen(i, positions + i * config_.index_topk, count + i);
  }

 private:
  const OpTable& table_;
  const ModelConfig& config_;
  const IndexQueries queries_;
  const int64_t first_position_;
  const std::vector<const void*>& pages_;
  ScoreMemory& memory_;
};

void Forward::PublishIndexKeys(int64_t layer, const LocalStep& step, int64_t first_row,
                               Range stored, const Activation& h) {
  const IndexerWeights& w = weights_.layer(layer).attention.indexer;
  const ArenaScope scope(arena_);
  const int64_t dim = config_.index_head_dim;
  const View<float, 2> k = arena_.Floats(h.rows.rows, dim);
  const Activation input =
      h.quantized.data == nullptr ? ops_.Prepare(h.rows, w.wk.type(), arena_) : h;
  Project({"index_k", static_cast<int32_t>(layer)}, input, w.wk, Rows::Of(k));
  const KvShape& shape = cache_.shape();
  const DType type = type_;
  ops_.ForEach(h.rows.rows, [&](int64_t i, void* scratch) {
    const int64_t row = first_row + i;
    if (!stored.Contains(row)) return;
    // Normed and rotated in f32, rounded once to the mode's type, and from that to int8.
    auto* normed = static_cast<float*>(scratch);
    float* key = normed + dim;
    ops_.table().layer_norm({.x = k.row(i),
                             .x_stride = dim,
                             .m = 1,
                             .n = dim,
                             .weight = w.norm.data(),
                             .bias = w.bias.data(),
                             .eps = kKeyNormEps,
                             .out_f32 = normed,
                             .out_f32_stride = dim});
    const int32_t position = step.position[static_cast<size_t>(row)];
    ops_.table().rotate({.x = normed,
                         .x_stride = dim,
                         .m = 1,
                         .heads = 1,
                         .head_dim = dim,
                         .rope_begin = 0,
                         .rope_dim = config_.qk_rope_head_dim,
                         .interleaved = config_.indexer_rope_interleave,
                         .cos = rope_.view().cos,
                         .sin = rope_.view().sin,
                         .positions = &position,
                         .type = type,
                         .out = key,
                         .out_stride = dim});
    const void* values = key;
    if (shape.int8_index) {  // values, then the scale
      auto* int8_key = reinterpret_cast<int8_t*>(key + dim);
      float scale;
      ops_.table().quantize({.type = type,
                             .x = key,
                             .x_stride = dim,
                             .m = 1,
                             .k = dim,
                             .out = int8_key,
                             .out_stride = dim,
                             .scale = &scale});
      std::memcpy(int8_key + dim, &scale, sizeof(scale));
      values = int8_key;
    }
    const int64_t p = step.PositionOf(row);
    cache_.StoreIndexKey(layer, step.ExtendOf(row).pages[static_cast<size_t>(p / kPage)], p % kPage,
                         values);
  });
}

// The choice of a few rows, with the scores of up to kPiecePages pages made by all threads of this
// rank, or of all ranks of the TP group, before any is looked at.
void Forward::ScoreInPieces(int64_t layer, Selector& selector, bool together, View<float, 2> scores,
                            Range own, int32_t* positions, int32_t* count) {
  const int64_t pages = selector.page_count();
  for (int64_t page = 0; page < pages; page += kPiecePages) {
    const int64_t end = std::min(page + kPiecePages, pages);
    const Range part = together ? tp_.HostRows(end - page) : Range{0, end - page};
    ops_.ForEach((part.size() + kPieceItem - 1) / kPieceItem, [&](int64_t item, void* scratch) {
      const int64_t begin = part.begin + item * kPieceItem;
      const int64_t item_end = std::min(part.end, begin + kPieceItem);
      const View<float, 2> out(scores.data() + begin * kPage,
                               {selector.rows(), (item_end - begin) * kPage},
                               {scores.stride(0), 1});
      selector.Score(page + begin, page + item_end, out, scratch);
    });
    if (together) {
      tp_.ShareColumns({"index_scores", static_cast<int32_t>(layer)}, scores.data(),
                       selector.rows(), scores.stride(0) * 4, (end - page) * kPage * 4, kPage * 4);
    }
    for (int64_t i = 0; i < selector.rows(); ++i) {
      if (own.Contains(i)) selector.Take(i, page, end, scores);
    }
  }
  for (int64_t i = 0; i < selector.rows(); ++i) {
    if (own.Contains(i)) selector.Chosen(i, positions + i * config_.index_topk, count + i);
  }
}

// The index queries of rows `mine` of the block, in the arena.
Forward::IndexQueries Forward::MakeIndexQueries(int64_t layer, const LocalStep& step,
                                                const LocalStep::Block& block, Range mine,
                                                View<const float, 2> x, const Queries& queries) {
  const IndexerWeights& w = weights_.layer(layer).attention.indexer;
  const int64_t dim = config_.index_n_heads * config_.index_head_dim;
  const Rows q = arena_.Matrix(type_, mine.size(), dim);
  const View<float, 2> weight = arena_.Floats(mine.size(), config_.index_n_heads);
  {
    // The unrotated projection is needed only until it has been rotated.
    const ArenaScope project(arena_);
    const View<float, 2> plain = arena_.Floats(mine.size(), dim);
    Project({"index_q", static_cast<int32_t>(layer)}, queries.latent.Slice(mine.begin, mine.end),
            w.wq_b, Rows::Of(plain));
    ops_.Rotate(plain, config_.index_n_heads, 0, config_.indexer_rope_interleave, rope_.view(),
                step.position.data() + block.begin + mine.begin, q);
    // Weights read the hidden state unrounded, since what they select is discrete.
    const Rows h = Normed(x.Slice(mine.begin, mine.end), weights_.layer(layer).input_norm);
    ops_.Linear({h}, w.weights_proj, Rows::Of(weight));
  }
  if (!cache_.shape().int8_index) return {q, weight};
  // Quantised head by head.
  const int64_t heads = mine.size() * config_.index_n_heads;
  const Activation int8_heads =
      ops_.Prepare(Rows::Dense(q.data, type_, heads, config_.index_head_dim), DType::kI8, arena_);
  // The query's scales go into the weights; the keys' scales are in their pages.
  for (int64_t i = 0; i < heads; ++i) weight.data()[i] *= int8_heads.scale[i];
  return {Rows::Dense(int8_heads.quantized.data, DType::kI8, mine.size(), dim), weight};
}

// Rows at positions below index_topk see everything, and need no scores; the others see the
// index_topk best keys.
Forward::Selection Forward::Select(int64_t layer, const LocalStep& step,
                                   const LocalStep::Block& block, View<const float, 2> x,
                                   const Queries& queries, const LayerPages& pages) {
  Selection out;
  if (!config_.sparse()) return out;
  const TraceZone zone(trace_, "indexer", static_cast<int32_t>(layer));
  const int64_t topk = config_.index_topk;
  auto* positions = arena_.Array<int32_t>(block.rows() * topk);
  auto* count = arena_.Array<int32_t>(block.rows());
  std::fill_n(count, block.rows(), 0);
  out = {topk, positions, count};

  // Runs of at most kScoreRows rows of one slice that need scores.
  struct Run {
    int64_t row;  // in the block
    int64_t rows;
  };
  std::vector<Run> runs;
  const Range own = tp_.HostRows(block.rows());  // the others' come from their ranks, below
  // Where there are too few rows to keep the ranks of the group busy, they score them together,
  // some pages each; the same for the threads of a rank.
  const bool together = together_ && ScoreTogether(layout_, block.rows());
  const Range mine = together_ ? Range{0, block.rows()} : own;  // whose queries are made
  const Range scored = together ? mine : own;
  // Rows that see all of their keys need no scores.
  const auto needs = [&](int64_t row) { return step.PositionOf(block.begin + row) >= topk; };
  for (int64_t row = scored.begin; row < scored.end; ++row) {
    if (!needs(row)) continue;
    const auto at = static_cast<size_t>(block.begin + row);
    // Within one slice positions follow each other, as Selector takes for granted.
    if (!runs.empty() && runs.back().row + runs.back().rows == row &&
        runs.back().rows < kScoreRows && step.slice[at] == step.slice[at - 1]) {
      ++runs.back().rows;
    } else {
      runs.push_back({row, 1});
    }
  }
  bool needed = false;
  for (int64_t row = mine.begin; row < mine.end; ++row) needed = needed || needs(row);
  // Where queries are made together, every rank takes part whichever rows it scores.
  if (together_ ? needed : !runs.empty()) {
    const ArenaScope scope(arena_);
    const IndexQueries all = MakeIndexQueries(layer, step, block, mine, x, queries);
    std::vector<ScoreMemory> memory;
    for (int i = 0; i < ops_.team().size(); ++i) memory.emplace_back(topk, arena_);
    const auto items = static_cast<int64_t>(runs.size());
    const auto selector = [&](const Run& run, int worker) {
      const auto first = static_cast<size_t>(block.begin + run.row);
      const int64_t begin = run.row - mine.begin;
      return Selector(ops_.table(), config_, all.Slice(begin, begin + run.rows),
                      step.position[first],
                      pages.index_keys[static_cast<size_t>(step.slice[first])],
                      memory[static_cast<size_t>(worker)]);
    };
    if (together || (!together_ && items < ops_.team().size())) {
      const View<float, 2> scores = arena_.Floats(kScoreRows, kPiecePages * kPage);
      for (const Run& run : runs) {
        Selector chooser = selector(run, 0);
        ScoreInPieces(layer, chooser, together, scores, {own.begin - run.row, own.end - run.row},
                      positions + run.row * topk, count + run.row);
      }
    } else {
      ops_.ForEachWorker(items, [&](int64_t item, int worker, void* scratch) {
        const Run& run = runs[static_cast<size_t>(items - 1 - item)];  // longest first
        selector(run, worker).Run(scratch, positions + run.row * topk, count + run.row);
      });
    }
  }
  // The rows of other ranks of this host's TP group are fetched: attention needs all of the
  // block's.
  if (!together_ || needed) {
    const auto layer_number = static_cast<int32_t>(layer);
    tp_.ShareHostRows({"selected_counts", layer_number}, count, block.rows(), sizeof(*count));
    tp_.ShareHostRows({"selected_keys", layer_number}, positions, block.rows(),
                      topk * static_cast<int64_t>(sizeof(*positions)));
  }
  if (Capture* capture = step.output.capture()) {
    for (int64_t row = own.begin; row < own.end; ++row) {
      int32_t* chosen = capture->topk_indices[static_cast<size_t>(layer)].data() +
                        step.TokenOf(block.begin + row) * topk;
      const int64_t keys = step.PositionOf(block.begin + row) + 1;
      // 0 stands for "all keys".
      if (count[row] == 0) {
        for (int64_t i = 0; i < keys; ++i) chosen[i] = static_cast<int32_t>(i);
      } else {
        std::copy_n(positions + row * topk, count[row], chosen);
      }
    }
  }
  return out;
}

}  // namespace causeway
