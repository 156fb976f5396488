// The lightning indexer: which keys a query attends to. Equations: docs/model.md, "Indexer".
#include <algorithm>

#include "model/forward.h"

namespace causeway {
namespace {

constexpr float kKeyNormEps = 1e-6f;  // of the index keys' LayerNorm, fixed in the model family
// Queries scored together, so that a page of keys is read once for all of them.
constexpr int64_t kScoreRows = 8;

}  // namespace

void Forward::PublishIndexKeys(int64_t layer, const LocalStep& step, int64_t first_row,
                               const Activation& h) {
  const IndexerWeights& w = weights_.layer(layer).attention.indexer;
  const int64_t rows = h.rows.rows;
  const ArenaScope scope(arena_);
  const View<float, 2> k = arena_.Floats(rows, config_.index_head_dim);
  const View<float, 2> normed = arena_.Floats(rows, config_.index_head_dim);
  const Rows keys = arena_.Matrix(type_, rows, config_.index_head_dim);
  ops_.Linear(ops_.Prepare(h.rows, w.wk.type(), arena_), w.wk, Rows::Of(k));
  ops_.LayerNorm(k, w.norm.data(), w.bias.data(), kKeyNormEps, Rows::Of(normed));
  ops_.Rotate(normed, 1, 0, config_.indexer_rope_interleave, rope_.view(),
              step.position.data() + first_row, keys);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t p = step.PositionOf(first_row + i);
    cache_.StoreIndexKey(layer, step.ExtendOf(first_row + i).pages[static_cast<size_t>(p / kPage)],
                         p % kPage, keys.row(i));
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
  int64_t longest = 0;                            // keys
  const Range mine = tp_.HostRows(block.rows());  // the others' come from their ranks, below
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const int64_t keys = step.PositionOf(block.begin + row) + 1;
    if (keys <= topk) continue;
    longest = std::max(longest, keys);
    const auto at = static_cast<size_t>(block.begin + row);
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
    // Rows of q and weight are the block's; only `mine` are computed.
    const Rows q = arena_.Matrix(type_, block.rows(), dim);
    const View<float, 2> weight = arena_.Floats(block.rows(), config_.index_n_heads);
    {
      const ArenaScope project(arena_);
      const View<float, 2> plain = arena_.Floats(mine.size(), dim);
      ops_.Linear(queries.latent.Slice(mine.begin, mine.end), w.wq_b, Rows::Of(plain));
      ops_.Rotate(plain, config_.index_n_heads, 0, config_.indexer_rope_interleave, rope_.view(),
                  step.position.data() + block.begin + mine.begin, q.Slice(mine.begin, mine.end));
      const Rows h =
          Normed(x.Slice(mine.begin, mine.end), weights_.layer(layer).input_norm, DType::kF32);
      ops_.Linear({h}, w.weights_proj, Rows::Of(weight.Slice(mine.begin, mine.end)));
    }
    const int64_t padded = (longest + kPage - 1) / kPage * kPage;
    const View<float, 2> scores = arena_.Floats(ops_.team().size() * kScoreRows, padded);
    const auto items = static_cast<int64_t>(runs.size());
    ops_.ForEachWorker(items, [&](int64_t item, int worker, void* scratch) {
      const Run& run = runs[static_cast<size_t>(items - 1 - item)];  // longest first
      const auto slice =
          static_cast<size_t>(step.slice[static_cast<size_t>(block.begin + run.row)]);
      const int64_t last = step.PositionOf(block.begin + run.row + run.rows - 1);
      const View<float, 2> mine = scores.Slice(worker * kScoreRows, (worker + 1) * kScoreRows);
      ops_.table().index_scores({.type = type_,
                                 .q = q.row(run.row),
                                 .q_stride = q.stride,
                                 .weight = weight.row(run.row),
                                 .weight_stride = weight.stride(0),
                                 .m = run.rows,
                                 .heads = config_.index_n_heads,
                                 .dim = config_.index_head_dim,
                                 .key_pages = pages.index_keys[slice].data(),
                                 .page_begin = 0,
                                 .page_end = last / kPage + 1,
                                 .scores = mine.data(),
                                 .scores_stride = mine.stride(0),
                                 .scratch = scratch});
      for (int64_t i = 0; i < run.rows; ++i) {
        const int64_t row = run.row + i;
        count[row] =
            static_cast<int32_t>(ops_.table().top_k({.scores = mine.row(i),
                                                     .n = step.PositionOf(block.begin + row) + 1,
                                                     .k = topk,
                                                     .positions = positions + row * topk,
                                                     .scratch = scratch}));
      }
    });
  }
  const auto layer_number = static_cast<int32_t>(layer);
  tp_.ShareHostRows({"selected_counts", layer_number}, count, block.rows(), sizeof(*count));
  tp_.ShareHostRows({"selected_keys", layer_number}, positions, block.rows(),
                    topk * static_cast<int64_t>(sizeof(*positions)));
  if (Capture* capture = step.output.capture()) {
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      int32_t* chosen = capture->topk_indices[static_cast<size_t>(layer)].data() +
                        step.TokenOf(block.begin + row) * topk;
      const int64_t keys = step.PositionOf(block.begin + row) + 1;
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
