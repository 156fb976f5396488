#include "model/forward.h"

#include <algorithm>
#include <cstring>

#include "model/cost.h"

namespace causeway {
LocalStep::LocalStep(const Batch& batch_in, const StepOutput& output_in, const StepSlices& all,
                     const Layout& layout, int rank, const BlockLimits& limits)
    : batch(batch_in), output(output_in), all_slices(all), slices(all[static_cast<size_t>(rank)]) {
  for (int other = 0; other < layout.world(); ++other) {
    const std::vector<Slice>& others = all[static_cast<size_t>(other)];
    int64_t tokens = 0;
    for (const Slice& s : others) tokens += s.end - s.begin;
    home_rows.push_back(ShareOf(tokens, layout.PlaceOf(other).tp, layout.tp).size());
    most_rows = std::max(most_rows, tokens);
    std::vector<Block> of_other = BlocksOf(batch, others, limits);
    most_blocks = std::max(most_blocks, static_cast<int64_t>(of_other.size()));
    if (other == rank) blocks = std::move(of_other);
  }
  for (size_t s = 0; s < slices.size(); ++s) {
    slice_row.push_back(rows());
    for (int64_t p = slices[s].begin; p < slices[s].end; ++p) {
      slice.push_back(static_cast<int32_t>(s));
      position.push_back(static_cast<int32_t>(p));
    }
  }
  sharing = SharedKeysOf(batch, all, ContextGroup(layout, rank), limits);
}

namespace {

// What this rank has of `total` columns, counted from the first that its host has.
Range PartOf(const TensorGroup& group, int64_t total, const Range& host) {
  const Range share = group.ShareOfColumns(total);
  return {share.begin - host.begin, share.end - host.begin};
}

// Row sums of columns [begin, end) of an int8 matrix that is cut over ranks.
std::vector<int32_t> PartSums(const TensorGroup& group, const Weight& w, int64_t begin,
                              int64_t end) {
  if (w.empty() || w.type() != DType::kI8 || group.whole()) return {};
  std::vector<int32_t> sums;
  for (int64_t j = 0; j < w.n(); ++j) sums.push_back(w.SumOf(j, begin, end - begin));
  return sums;
}

}  // namespace

Forward::Forward(const Weights& weights, const KvCache& cache, const RopeTable& rope,
                 const Layout& layout, int rank, OpSet& ops, RankLink& host, RankLink& tensor,
                 RankLink* context, TraceLane& trace)
    : weights_(weights),
      config_(weights.config()),
      cache_(cache),
      rope_(rope),
      layout_(layout),
      rank_(rank),
      ops_(ops),
      host_(host),
      tp_(tensor, layout, rank, reads_),
      context_(context),
      context_group_(ContextGroup(layout, rank)),
      expert_exchange_(weights.config(), layout, rank, weights.share().redundant, host, reads_),
      host_exchange_(layout, layout.HostOf(rank), cache),
      expert_counts_(static_cast<size_t>(config_.num_hidden_layers)),
      trace_(trace),
      heads_(PartOf(tp_, config_.num_attention_heads, weights.share().heads)),
      inner_(PartOf(tp_, config_.intermediate_size, weights.share().inner)),
      type_(weights.mode()),
      pass_rows_(PassRows::Of(config_, layout, type_)),
      softmax_scale_(SoftmaxScale(weights.config())) {
  for (int other = 0; other < layout.hosts; ++other) {
    const Range panels = WeightShare::Of(config_, layout_, other).head_panels;
    head_columns_.push_back(
        {panels.begin * kPanel, std::min(panels.end * kPanel, config_.vocab_size)});
  }
  const int64_t value = config_.v_head_dim;
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    const LayerWeights& w = weights.layer(i);
    o_sums_.push_back(PartSums(tp_, w.attention.o, heads_.begin * value, heads_.end * value));
    down_sums_.push_back(PartSums(tp_, w.mlp.down, inner_.begin, inner_.end));
  }
  ClearCounters();
}

Range Forward::ColumnsTogether(int64_t total) const {
  const Range panels = tp_.HostRows((total + kPanel - 1) / kPanel);
  return {std::min(total, panels.begin * kPanel), std::min(total, panels.end * kPanel)};
}

void Forward::ClearCounters() {
  reads_.Clear();
  for (size_t i = 0; i < expert_counts_.size(); ++i) {
    const bool is_moe = config_.IsMoe(static_cast<int64_t>(i));
    expert_counts_[i].assign(static_cast<size_t>(is_moe ? config_.n_routed_experts : 0), 0);
  }
}

void Forward::Run(const Batch& batch, const StepSlices& slices, StepOutput& output) {
  const LocalStep step(batch, output, slices, layout_, rank_,
                       {MaterialisedEnd(config_), pass_rows_.materialised});
  const ScratchBytes bound = ScratchBound(config_, layout_, type_,
                                          {step.rows(), step.most_rows, step.longest(),
                                           output.rows(), MostSharedPages(step.sharing) * kPage});
  arena_.Limit(bound.arena);
  together_ = WorkTogether(layout_, batch, step.slices);
  scratch_bound_ = std::max(scratch_bound_, bound.total());
  const ArenaScope scope(arena_);
  const View<float, 2> x = arena_.Floats(step.rows(), config_.hidden_size);  // residual stream
  ReserveSharedKeys(step);
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
  // This rank's keys are on their way; queries meanwhile.
  host_.Arrive(exchange, nullptr,
               [this, exchange, &batch = step.batch, &slices = step.all_slices](
                   Communicator& hosts) { host_exchange_.Keys(hosts, exchange, batch, slices); });
  bool keys_ready = false;
  const auto wait_for_keys = [&] {
    if (keys_ready) return;
    const TraceZone zone(trace_, "kv wait", exchange.layer);
    host_.Wait();  // now every rank has every earlier key
    CountKeys(step);
    if (layer_hook_) layer_hook_(step.batch, step.all_slices, index);
    keys_ready = true;
  };
  const auto add_output = [&](const Rows& attended, View<float, 2> rows) {
    const TraceZone zone(trace_, "o_proj", exchange.layer);
    AddRowParallel({"o_proj", exchange.layer}, attended, weights_.layer(index).attention.o,
                   heads_.begin * config_.v_head_dim, o_sums_[static_cast<size_t>(index)], rows);
  };
  const int64_t attended_columns = heads_.size() * config_.v_head_dim;
  const auto own_blocks = static_cast<int64_t>(step.blocks.size());
  for (int64_t i = 0; i < own_blocks; ++i) {
    const LocalStep::Block& block = step.blocks[static_cast<size_t>(i)];
    const ArenaScope block_scope(arena_);
    const View<float, 2> rows = x.Slice(block.begin, block.end);
    const Queries queries = MakeQueries(index, step, block, rows);
    wait_for_keys();
    const Rows attended = arena_.Matrix(type_, block.rows(), attended_columns);
    Attend(index, step, i, rows, queries, pages, attended);
    add_output(attended, rows);
  }
  wait_for_keys();  // a rank without tokens takes part in the exchange all the same
  // And one with fewer blocks than others of its context group expands its share of their keys.
  const auto rounds = static_cast<int64_t>(step.sharing.size());
  for (int64_t i = own_blocks; i < rounds; ++i)
    AttendShared(index, step, i, nullptr, nullptr, [] {});
  for (int64_t i = own_blocks; i < tp_.SumsOf(own_blocks, step.most_blocks); ++i) {
    add_output(arena_.Matrix(type_, 0, attended_columns), x.Slice(x.dim(0), x.dim(0)));
  }

  FeedForward(index, step, x);
}

void Forward::CountKeys(const LocalStep& step) {
  int64_t rows = -tp_.HostRows(step.rows()).size();  // what PublishKeys has stored
  for (const Extend& extend : step.batch.extends) {
    if (extend.dp == layout_.PlaceOf(rank_).dp) rows += extend.end() - extend.begin;
  }
  const KvShape& shape = cache_.shape();
  reads_.Add("latent_keys", rows * shape.latent_bytes());
  if (config_.sparse()) reads_.Add("index_keys", rows * shape.index_bytes());
}

void Forward::AddRowParallel(CollectiveName name, const Rows& in, const Weight& w, int64_t k_begin,
                             const std::vector<int32_t>& sums, View<float, 2> x) {
  const ArenaScope scope(arena_);
  if (tp_.whole()) {  // nothing to add up: the product goes straight into x
    ops_.AddLinear(ops_.Prepare(in, w.type(), arena_), w, x);
    return;
  }
  float* row_amax = nullptr;
  if (w.type() == DType::kI8) {  // the scale of a row is that of the whole row
    auto* mine = arena_.Array<float>(in.rows);
    row_amax = arena_.Array<float>(in.rows);
    ops_.RowAmax(in, mine);
    tp_.MaxOf(name, mine, in.rows, row_amax);
  }
  const Activation input = ops_.Prepare(in, w.type(), arena_, row_amax);
  ops_.PartOfLinear(input, w, k_begin, sums.data(), tp_.Partial(in.rows, w.n()));
  if (w.type() == DType::kI8) {
    tp_.AddScaledSum(name, in.rows, w.n(), input.scale, w.scale(), x);
  } else {
    tp_.AddTreeSum(name, in.rows, w.n(), x);
  }
}

void Forward::CaptureHidden(int64_t index, const LocalStep& step, View<const float, 2> x) const {
  Capture* capture = step.output.capture();
  if (capture == nullptr) return;
  float* hidden = capture->hidden[static_cast<size_t>(index)].data();
  const Range mine = tp_.HomeRows(step.rows());
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    std::copy_n(x.row(row), config_.hidden_size, hidden + step.TokenOf(row) * config_.hidden_size);
  }
}

// The head is vocabulary-parallel over all ranks: the rank that owns a wanted row hands it over
// normed, then every rank computes its panels of the vocabulary for all rows.
void Forward::Logits(const LocalStep& step, View<const float, 2> x, StepOutput& output) {
  const ArenaScope scope(arena_);
  int64_t others = output.rows();  // rows of hidden that other ranks hand over
  {
    const TraceZone zone(trace_, "final norm");
    const Range mine = tp_.HomeRows(step.rows());
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      const int64_t out = output.RowOf(step.batch, step.SliceOf(row).extend, step.PositionOf(row));
      if (out < 0) continue;
      --others;
      ops_.RmsNorm(x.Slice(row, row + 1), weights_.final_norm().data(),
                   static_cast<float>(config_.rms_norm_eps), output.hidden().Slice(out, out + 1));
    }
  }
  {
    const TraceZone zone(trace_, "head wait");
    const CollectiveName name{"hidden_exchange"};
    host_.Barrier(name, nullptr, [&](Communicator& hosts) {
      host_exchange_.Hidden(hosts, name, step.batch, step.all_slices, output);
    });
    reads_.Add("hidden_exchange", others * config_.hidden_size * SizeOf(type_));
  }
  {
    const TraceZone zone(trace_, "head");
    const Range host = weights_.share().head_panels;
    const int64_t all = (config_.vocab_size + kPanel - 1) / kPanel;
    const Range mine = ShareOf(all, rank_, layout_.world());
    const Activation hidden = ops_.Prepare(output.hidden(), weights_.head().type(), arena_);
    ops_.LinearPanels(
        hidden, weights_.head(), mine.begin - host.begin, mine.end - host.begin,
        Rows::Of(output.logits())
            .Columns(host.begin * kPanel, std::min(host.end * kPanel, config_.vocab_size)));
  }
  const TraceZone zone(trace_, "head wait");
  const CollectiveName name{"logits_exchange"};
  host_.Barrier(name, nullptr, [&](Communicator& hosts) {
    host_exchange_.Logits(hosts, name, head_columns_, output);
  });
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

Rows Forward::Normed(View<const float, 2> x, const std::vector<float>& weight) {
  const Rows out = arena_.Matrix(DType::kF32, x.dim(0), x.dim(1));
  ops_.RmsNorm(x, weight.data(), static_cast<float>(config_.rms_norm_eps), out);
  return out;
}

Activation Forward::NormedInput(View<const float, 2> x, const std::vector<float>& weight,
                                DType weight_type) {
  const Activation out = Activation::Of(type_, weight_type, x.dim(0), x.dim(1), arena_);
  ops_.NormInput(x, weight.data(), static_cast<float>(config_.rms_norm_eps), out);
  return out;
}

}  // namespace causeway
