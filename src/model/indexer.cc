// The lightning indexer: which keys a query attends to. Equations: docs/model.md, "Indexer".
#include <algorithm>
#include <cstring>

#include "model/forward.h"

namespace causeway {
namespace {

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

// Consecutive queries, rotated and in the type of the index keys, with their heads' weights.
struct IndexQueries {
  Rows rows;                    // [rows, index_n_heads * index_head_dim]
  View<const float, 2> weight;  // [rows, index_n_heads], times the scales of int8 heads

  IndexQueries Slice(int64_t begin, int64_t end) const {
    return {rows.Slice(begin, end), weight.Slice(begin, end)};
  }
};

// Scores and selects in turns, block by block of keys, so that no row of scores is ever whole.
// The first query stands at `first_position`; positions: [rows, topk], count: [rows].
void SelectRows(const OpTable& table, const ModelConfig& config, const IndexQueries& queries,
                int64_t first_position, const std::vector<const void*>& pages, ScoreMemory& memory,
                void* scratch, int32_t* positions, int32_t* count) {
  const int64_t topk = config.index_topk;
  const int64_t rows = queries.rows.rows;
  const int64_t last_page = (first_position + rows - 1) / kPage;
  // Empty again, with the memory kept.
  for (int64_t i = 0; i < rows; ++i) {
    TopKCandidates& c = memory.candidates[i];
    c = {.keys = c.keys, .positions = c.positions, .capacity = c.capacity};
  }
  for (int64_t page = 0; page <= last_page; page += kScorePages) {
    const int64_t page_end = std::min(page + kScorePages, last_page + 1);
    table.index_scores({.type = queries.rows.type,
                        .q = queries.rows.data,
                        .q_stride = queries.rows.stride,
                        .weight = queries.weight.data(),
                        .weight_stride = queries.weight.stride(0),
                        .m = rows,
                        .heads = config.index_n_heads,
                        .dim = config.index_head_dim,
                        .key_pages = pages.data(),
                        .page_begin = page,
                        .page_end = page_end,
                        .scores = memory.scores.data(),
                        .scores_stride = memory.scores.stride(0),
                        .scratch = scratch});
    for (int64_t i = 0; i < rows; ++i) {  // the causal part only
      const int64_t end = std::min(page_end * kPage, first_position + i + 1);
      table.top_k({.scores = memory.scores.row(i),
                   .n = std::max<int64_t>(end - page * kPage, 0),
                   .k = topk,
                   .last = page_end > last_page,
                   .candidates = &memory.candidates[i],
                   .list = memory.list});
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    const TopKCandidates& chosen = memory.candidates[i];
    std::copy_n(chosen.positions, chosen.count, positions + i * topk);
    count[i] = static_cast<int32_t>(chosen.count);
  }
}

}  // namespace

void Forward::PublishIndexKeys(int64_t layer, const LocalStep& step, int64_t first_row,
                               const Activation& h) {
  const IndexerWeights& w = weights_.layer(layer).attention.indexer;
  const int64_t rows = h.rows.rows;
  const ArenaScope scope(arena_);
  const View<float, 2> k = arena_.Floats(rows, config_.index_head_dim);
  const View<float, 2> normed = arena_.Floats(rows, config_.index_head_dim);
  // Rotated in f32 and rounded once, to the mode's type.
  const Rows keys = arena_.Matrix(type_, rows, config_.index_head_dim);
  ops_.Linear(ops_.Prepare(h.rows, w.wk.type(), arena_), w.wk, Rows::Of(k));
  ops_.LayerNorm(k, w.norm.data(), w.bias.data(), kKeyNormEps, Rows::Of(normed));
  ops_.Rotate(normed, 1, 0, config_.indexer_rope_interleave, rope_.view(),
              step.position.data() + first_row, keys);
  const KvShape& shape = cache_.shape();
  const Activation stored = ops_.Prepare(keys, shape.index_type(), arena_);
  auto* int8_key = arena_.Array<char>(shape.index_bytes());  // values, then the scale
  for (int64_t i = 0; i < rows; ++i) {
    const void* key = keys.row(i);
    if (shape.int8_index) {
      std::memcpy(int8_key, stored.quantized.row(i), static_cast<size_t>(shape.index_dim));
      std::memcpy(int8_key + shape.index_dim, &stored.scale[i], sizeof(float));
      key = int8_key;
    }
    const int64_t p = step.PositionOf(first_row + i);
    cache_.StoreIndexKey(layer, step.ExtendOf(first_row + i).pages[static_cast<size_t>(p / kPage)],
                         p % kPage, key);
  }
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
  const int64_t dim = config_.index_n_heads * config_.index_head_dim;
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
  const Range mine = tp_.HostRows(block.rows());  // the others' come from their ranks, below
  // Rows that see all of their keys need no scores.
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    if (step.PositionOf(block.begin + row) < topk) continue;
    const auto at = static_cast<size_t>(block.begin + row);
    // Within one slice positions follow each other, as SelectRows takes for granted.
    if (!runs.empty() && runs.back().row + runs.back().rows == row &&
        runs.back().rows < kScoreRows && step.slice[at] == step.slice[at - 1]) {
      ++runs.back().rows;
    } else {
      runs.push_back({row, 1});
    }
  }
  if (!runs.empty()) {
    const ArenaScope scope(arena_);
    const IndexerWeights& w = weights_.layer(layer).attention.indexer;
    const Rows q = arena_.Matrix(type_, mine.size(), dim);
    const View<float, 2> weight = arena_.Floats(mine.size(), config_.index_n_heads);
    {
      // The unrotated projection is needed only until it has been rotated.
      const ArenaScope project(arena_);
      const View<float, 2> plain = arena_.Floats(mine.size(), dim);
      ops_.Linear(queries.latent.Slice(mine.begin, mine.end), w.wq_b, Rows::Of(plain));
      ops_.Rotate(plain, config_.index_n_heads, 0, config_.indexer_rope_interleave, rope_.view(),
                  step.position.data() + block.begin + mine.begin, q);
      // Weights read the hidden state unrounded, since what they select is discrete.
      const Rows h =
          Normed(x.Slice(mine.begin, mine.end), weights_.layer(layer).input_norm, DType::kF32);
      ops_.Linear({h}, w.weights_proj, Rows::Of(weight));
    }
    IndexQueries all{q, weight};
    if (cache_.shape().int8_index) {  // quantised head by head
      const int64_t heads = mine.size() * config_.index_n_heads;
      const Activation int8_heads = ops_.Prepare(
          Rows::Dense(q.data, type_, heads, config_.index_head_dim), DType::kI8, arena_);
      // The query's scales go into the weights; the keys' scales are in their pages.
      for (int64_t i = 0; i < heads; ++i) weight.data()[i] *= int8_heads.scale[i];
      all.rows = Rows::Dense(int8_heads.quantized.data, DType::kI8, mine.size(), dim);
    }
    std::vector<ScoreMemory> memory;
    for (int i = 0; i < ops_.team().size(); ++i) memory.emplace_back(topk, arena_);
    const auto items = static_cast<int64_t>(runs.size());
    ops_.ForEachWorker(items, [&](int64_t item, int worker, void* scratch) {
      const Run& run = runs[static_cast<size_t>(items - 1 - item)];  // longest first
      const auto first = static_cast<size_t>(block.begin + run.row);
      const int64_t begin = run.row - mine.begin;
      SelectRows(ops_.table(), config_, all.Slice(begin, begin + run.rows), step.position[first],
                 pages.index_keys[static_cast<size_t>(step.slice[first])],
                 memory[static_cast<size_t>(worker)], scratch, positions + run.row * topk,
                 count + run.row);
    });
  }
  // The rows of other ranks of this host's TP group are fetched: attention needs all of the
  // block's.
  const auto layer_number = static_cast<int32_t>(layer);
  tp_.ShareHostRows({"selected_counts", layer_number}, count, block.rows(), sizeof(*count));
  tp_.ShareHostRows({"selected_keys", layer_number}, positions, block.rows(),
                    topk * static_cast<int64_t>(sizeof(*positions)));
  if (Capture* capture = step.output.capture()) {
    for (int64_t row = mine.begin; row < mine.end; ++row) {
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
