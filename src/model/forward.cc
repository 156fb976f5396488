#include "model/forward.h"

#include <algorithm>
#include <cstring>

namespace causeway {
namespace {

// Rows of a block: they bound the scratch for queries. Materialised heads are expanded once for a
// block, which costs as much as attending to them from about 400 queries, hence the larger number.
constexpr int64_t kAbsorbedRows = 512;
constexpr int64_t kMaterialisedRows = 4096;

}  // namespace

LocalStep::LocalStep(const Batch& batch_in, const StepOutput& output_in, std::vector<Slice> mine,
                     bool dense_model)
    : batch(batch_in), output(output_in), slices(std::move(mine)) {
  for (size_t s = 0; s < slices.size(); ++s) {
    const bool materialised =
        dense_model && !batch.extends[static_cast<size_t>(slices[s].extend)].decode;
    const int64_t limit = materialised ? kMaterialisedRows : kAbsorbedRows;
    slice_row.push_back(rows());
    for (int64_t p = slices[s].begin; p < slices[s].end; ++p) {
      if (blocks.empty() || blocks.back().materialised != materialised ||
          blocks.back().rows() == limit) {
        blocks.push_back({rows(), rows(), materialised});
      }
      ++blocks.back().end;
      slice.push_back(static_cast<int32_t>(s));
      position.push_back(static_cast<int32_t>(p));
    }
  }
}

Forward::Forward(const Weights& weights, const KvCache& cache, const RopeTable& rope, OpSet& ops,
                 Communicator& comm, TraceLane& trace)
    : weights_(weights),
      config_(weights.config()),
      cache_(cache),
      rope_(rope),
      ops_(ops),
      comm_(comm),
      trace_(trace),
      type_(weights.mode()),
      softmax_scale_(SoftmaxScale(weights.config())) {}

void Forward::Run(const Batch& batch, const std::vector<Slice>& slices, StepOutput& output) {
  const ArenaScope scope(arena_);
  const LocalStep step(batch, output, slices, !config_.sparse());
  const View<float, 2> x = arena_.Floats(step.rows(), config_.hidden_size);  // residual stream
  {
    const TraceZone zone(trace_, "embed");
    for (int64_t row = 0; row < step.rows(); ++row) {
      const Extend& extend = step.ExtendOf(row);
      weights_.Embed(extend.tokens[static_cast<size_t>(step.PositionOf(row) - extend.begin)],
                     x.row(row));
    }
  }
  CaptureHidden(0, step, x);
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    Layer(layer, step, x);
    CaptureHidden(layer + 1, step, x);
  }
  Logits(step, x, output);
}

void Forward::Layer(int64_t index, const LocalStep& step, View<float, 2> x) {
  const ArenaScope scope(arena_);
  const LayerPages pages = PagesOf(index, step);

  PublishKeys(index, step, x);
  const CollectiveName exchange{"kv_exchange", static_cast<int32_t>(index)};
  comm_.Arrive(exchange);  // this rank's keys are on their way; queries meanwhile
  bool keys_ready = false;
  const auto wait_for_keys = [&] {
    if (keys_ready) return;
    const TraceZone zone(trace_, "kv wait", exchange.layer);
    comm_.Wait(exchange);  // now every rank has every earlier key
    keys_ready = true;
  };
  for (const LocalStep::Block& block : step.blocks) {
    const ArenaScope block_scope(arena_);
    const View<float, 2> rows = x.Slice(block.begin, block.end);
    const Queries queries = MakeQueries(index, step, block, rows);
    wait_for_keys();
    const Selection selected = Select(index, step, block, rows, queries, pages);
    const Rows attended =
        arena_.Matrix(type_, block.rows(), config_.num_attention_heads * config_.v_head_dim);
    Attend(index, step, block, queries, selected, pages, attended);
    const TraceZone zone(trace_, "o_proj", exchange.layer);
    const Weight& o = weights_.layer(index).attention.o;
    ops_.AddLinear(ops_.Prepare(attended, o.type(), arena_), o, rows);
  }
  wait_for_keys();  // a rank without tokens takes part in the exchange all the same

  FeedForward(index, step, x);
}

void Forward::CaptureHidden(int64_t index, const LocalStep& step, View<const float, 2> x) const {
  Capture* capture = step.output.capture();
  if (capture == nullptr) return;
  float* hidden = capture->hidden[static_cast<size_t>(index)].data();
  for (int64_t row = 0; row < step.rows(); ++row) {
    std::copy_n(x.row(row), config_.hidden_size, hidden + step.TokenOf(row) * config_.hidden_size);
  }
}

// The head is vocabulary-parallel over the ranks: the rank that owns a wanted row hands it over
// normed, then every rank computes its panels of the vocabulary for all rows.
void Forward::Logits(const LocalStep& step, View<const float, 2> x, StepOutput& output) {
  const ArenaScope scope(arena_);
  {
    const TraceZone zone(trace_, "final norm");
    for (int64_t row = 0; row < step.rows(); ++row) {
      const int64_t out = output.RowOf(step.batch, step.SliceOf(row).extend, step.PositionOf(row));
      if (out < 0) continue;
      ops_.RmsNorm(x.Slice(row, row + 1), weights_.final_norm().data(),
                   static_cast<float>(config_.rms_norm_eps), output.hidden().Slice(out, out + 1));
    }
  }
  {
    const TraceZone zone(trace_, "head wait");
    comm_.Barrier({"hidden_exchange"});
  }
  {
    const TraceZone zone(trace_, "head");
    const int64_t panels = weights_.head().panels();
    const Activation hidden = ops_.Prepare(output.hidden(), weights_.head().type(), arena_);
    ops_.LinearPanels(hidden, weights_.head(), panels * comm_.rank() / comm_.size(),
                      panels * (comm_.rank() + 1) / comm_.size(), Rows::Of(output.logits()));
  }
  const TraceZone zone(trace_, "head wait");
  comm_.Barrier({"logits_exchange"});
}

LayerPages Forward::PagesOf(int64_t layer, const LocalStep& step) const {
  LayerPages pages;
  for (const Slice& slice : step.slices) {
    const Extend& extend = step.batch.extends[static_cast<size_t>(slice.extend)];
    auto& latents = pages.latents.emplace_back();
    auto& index_keys = pages.index_keys.emplace_back();
    for (int64_t p = 0; p * kPage < slice.end; ++p) {
      const int32_t page = extend.pages[static_cast<size_t>(p)];
      latents.push_back(cache_.LatentPage(layer, page));
      if (config_.sparse()) index_keys.push_back(cache_.IndexPage(layer, page));
    }
  }
  return pages;
}

Rows Forward::Normed(View<const float, 2> x, const std::vector<float>& weight, DType type) {
  const Rows out = arena_.Matrix(type, x.dim(0), x.dim(1));
  ops_.RmsNorm(x, weight.data(), static_cast<float>(config_.rms_norm_eps), out);
  return out;
}

}  // namespace causeway
