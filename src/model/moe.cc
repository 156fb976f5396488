// Feed-forward: dense layers, shared experts and routed experts.
#include <algorithm>
#include <numeric>

#include "model/forward.h"
#include "model/router.h"

namespace causeway {
namespace {

// Slots, of all experts together, up to which memory bounds the experts' products.
constexpr int64_t kStreamedSlots = 128;

}  // namespace

void Forward::FeedForward(int64_t layer, const LocalStep& step, View<float, 2> x) {
  const LayerWeights& w = weights_.layer(layer);
  if (!w.is_moe) {
    DenseMlp(layer, step, x);
    return;
  }
  // The ranks of a TP group hold the same tokens; here each is home to some of them, or computes
  // some columns of all.
  const auto layer_number = static_cast<int32_t>(layer);
  const bool together = experts_together();
  const Range own = tp_.HomeRows(step.rows());
  const Range home = together ? Range{0, step.rows()} : own;
  const bool travel = layout_.tokens_travel();
  const int64_t pass = travel ? pass_rows_.travel : pass_rows_.home;
  // A rank without tokens takes part all the same where they travel.
  const int64_t most =
      travel ? *std::max_element(step.home_rows.begin(), step.home_rows.end()) : home.size();
  for (int64_t begin = 0; begin < most; begin += pass) {
    const ArenaScope scope(arena_);
    const int64_t first = home.begin + std::min(home.size(), begin);
    const View<float, 2> rows = x.Slice(first, std::min(home.end, first + pass));
    // The gate reads unrounded rows: its choices are discrete. Experts and the shared expert read
    // what the mode and their weights ask for, all made in one pass.
    const bool int8 = w.moe.input_type == DType::kI8 ||
                      (config_.n_shared_experts > 0 && w.moe.shared.gate_up.type() == DType::kI8);
    const Activation h =
        Activation::Of(type_, int8 ? DType::kI8 : type_, rows.dim(0), config_.hidden_size, arena_);
    Rows exact = h.rows;
    if (type_ != DType::kF32) exact = arena_.Matrix(DType::kF32, rows.dim(0), config_.hidden_size);
    ops_.NormInput(rows, w.post_attention_norm.data(), static_cast<float>(config_.rms_norm_eps), h,
                   type_ == DType::kF32 ? Rows() : exact);
    const Range counted = {std::clamp(own.begin - first, int64_t{0}, rows.dim(0)),
                           std::clamp(own.end - first, int64_t{0}, rows.dim(0))};
    const RoutedTokens tokens = RouteTokens(layer, step, first, counted, exact, h);
    if (travel) {
      // What is left of each rank's rows, at most a pass: all ranks make the same number of passes.
      std::vector<int64_t> home_rows = step.home_rows;  // of each rank, in this pass
      for (int64_t& count : home_rows) count = std::clamp(count - begin, int64_t{0}, pass);
      ExpertsElsewhere(layer, tokens, home_rows, rows);
    } else {
      ExpertsAtHome(layer, tokens, rows);
    }
    if (config_.n_shared_experts > 0) {
      const TraceZone zone(trace_, "shared expert", layer_number);
      SharedExpert(layer, h, rows);
    }
  }
  const TraceZone zone(trace_, "moe wait", layer_number);
  const CollectiveName name{"moe_rows", layer_number};
  const int64_t bytes = x.dim(1) * 4;
  if (together) {
    tp_.ShareColumns(name, x.data(), step.rows(), bytes, bytes, kPanel * 4);
  } else {
    tp_.ShareHomeRows(name, x.data(), step.rows(), bytes);
  }
}

// x += down(silu(gate(h)) * up(h)), the inner columns cut over the TP group.
void Forward::DenseMlp(int64_t layer, const LocalStep& step, View<float, 2> x) {
  const LayerWeights& w = weights_.layer(layer);
  const auto layer_number = static_cast<int32_t>(layer);
  const TraceZone zone(trace_, "dense mlp", layer_number);
  for (int64_t begin = 0; begin < tp_.SumsOf(x.dim(0), step.most_rows); begin += kMlpRows) {
    const ArenaScope scope(arena_);
    const int64_t first = std::min(x.dim(0), begin);
    const View<float, 2> rows = x.Slice(first, std::min(x.dim(0), first + kMlpRows));
    const Activation h = NormedInput(rows, w.post_attention_norm, w.mlp.gate_up.type());
    const Rows product = arena_.Matrix(type_, rows.dim(0), inner_.size());
    ops_.SiluProduct(h, w.mlp.gate_up, inner_.begin, inner_.end, arena_, product);
    AddRowParallel({"dense_mlp", layer_number}, product, w.mlp.down, inner_.begin,
                   down_sums_[static_cast<size_t>(layer)], rows);
  }
}

// The same for a shared expert, whole at the home of each token.
void Forward::SharedExpert(int64_t layer, const Activation& h, View<float, 2> x) {
  const MlpWeights& w = weights_.layer(layer).moe.shared;
  const int64_t inner = w.gate_up.n() / 2;
  const bool together = experts_together();
  const Range part = together ? ColumnsTogether(inner) : Range{0, inner};
  const Range panels = together ? tp_.HostRows(w.down.panels()) : Range{0, w.down.panels()};
  for (int64_t begin = 0; begin < h.rows.rows; begin += kMlpRows) {
    const ArenaScope scope(arena_);
    const int64_t end = std::min(h.rows.rows, begin + kMlpRows);
    const Activation input = h.Slice(begin, end);
    const Rows product = arena_.Matrix(type_, end - begin, inner);
    ops_.SiluProduct(input, w.gate_up, part.begin, part.end, arena_,
                     product.Columns(part.begin, part.end));
    if (together) ShareProduct({"shared_inner", static_cast<int32_t>(layer)}, product);
    ops_.AddLinearPanels(ops_.Prepare(product, w.down.type(), arena_), w.down, panels.begin,
                         panels.end, x.Slice(begin, end));
  }
}

// The gate's choice for the rows from `first_row` of the step on: exact [rows, hidden] in f32 is
// what it reads, h what the experts will read.
RoutedTokens Forward::RouteTokens(int64_t layer, const LocalStep& step, int64_t first_row,
                                  Range home, const Rows& exact, const Activation& h) {
  const TraceZone zone(trace_, "router", static_cast<int32_t>(layer));
  const MoeWeights& w = weights_.layer(layer).moe;
  const int64_t rows = h.rows.rows;
  const int64_t experts = config_.n_routed_experts;
  const int64_t active = config_.num_experts_per_tok;
  auto* chosen = arena_.Array<int32_t>(rows * active);
  auto* weight = arena_.Array<float>(rows * active);
  // Logits are given back before the step goes on; the choices stay.
  {
    const ArenaScope scope(arena_);
    const View<float, 2> logits = arena_.Floats(rows, experts);
    float* scratch = arena_.Array<float>(2 * experts);
    if (experts_together()) {
      Project({"gate", static_cast<int32_t>(layer)}, {exact}, w.gate, Rows::Of(logits));
    } else {
      ops_.Linear({exact}, w.gate, Rows::Of(logits));
    }
    for (int64_t row = 0; row < rows; ++row) {
      Route(config_, logits.row(row), w.bias.empty() ? nullptr : w.bias.data(),
            chosen + row * active, weight + row * active, scratch);
    }
  }
  std::vector<int64_t>& counts = expert_counts_[static_cast<size_t>(layer)];
  // Every home counts its own tokens' choices, so that none is counted twice.
  for (int64_t i = home.begin * active; i < home.end * active; ++i) {
    ++counts[static_cast<size_t>(chosen[i])];
  }
  if (Capture* capture = step.output.capture()) {
    for (int64_t row = home.begin; row < home.end; ++row) {
      const int64_t at = step.TokenOf(first_row + row) * active;
      std::copy_n(chosen + row * active, active,
                  capture->router_indices[static_cast<size_t>(layer)].data() + at);
      std::copy_n(weight + row * active, active,
                  capture->router_weights[static_cast<size_t>(layer)].data() + at);
    }
  }
  return {h, rows, chosen, weight};
}

void Forward::ShareProduct(CollectiveName name, const Rows& product) {
  const int64_t size = SizeOf(product.type);
  tp_.ShareColumns(name, product.data, product.rows, product.stride * size, product.cols * size,
                   kPanel * size);
}

Rows Forward::ExpertProducts(int64_t layer, const Activation& input, const ExpertOrder& order,
                             Range inner) {
  struct Item {
    int64_t expert;
    int64_t begin;  // slots
    int64_t end;
  };
  // An expert with many rows is several items, so that one hot expert does not hold up the team.
  std::vector<Item> items;
  for (int64_t e = 0; e < config_.n_routed_experts; ++e) {
    const int64_t end = order.first[static_cast<size_t>(e) + 1];
    for (int64_t b = order.first[static_cast<size_t>(e)]; b < end; b += kExpertRows) {
      items.push_back({e, b, std::min(end, b + kExpertRows)});
    }
  }
  const std::vector<MlpWeights>& experts = weights_.layer(layer).moe.experts;
  const int64_t all = config_.moe_intermediate_size;
  const Rows product = arena_.Matrix(type_, order.slots(), all);
  const ArenaScope scope(arena_);
  // Where gate and up are not whole panels: both of an item, for each worker.
  const View<float, 2> gate_up =
      arena_.Floats(all % kPanel == 0 ? 0 : ops_.team().size() * kExpertRows, 2 * all);
  ops_.ForEachWorker(static_cast<int64_t>(items.size()), [&](int64_t i, int worker, void* scratch) {
    const Item& item = items[static_cast<size_t>(i)];
    const Rows out = product.Slice(item.begin, item.end).Columns(inner.begin, inner.end);
    GemmArgs args = GemmOf(input, experts[static_cast<size_t>(item.expert)].gate_up);
    args.a_rows = order.row.data() + item.begin;
    args.m = out.rows;
    args.scratch = scratch;
    if (SiluFits(args, inner.begin, inner.end)) {
      SetSilu(inner.begin, inner.end, out, args);
      ops_.table().gemm(args);
      return;
    }
    const View<float, 2> mine = gate_up.Slice(worker * kExpertRows, (worker + 1) * kExpertRows);
    args.c = mine.data();
    args.c_stride = mine.stride(0);
    args.epilogue = Epilogue::kStoreF32;
    ops_.table().gemm(args);
    ops_.table().silu_mul({.gate = mine.data() + inner.begin,
                           .up = mine.data() + all + inner.begin,
                           .in_stride = mine.stride(0),
                           .m = out.rows,
                           .n = inner.size(),
                           .type = type_,
                           .out = out.data,
                           .out_stride = out.stride});
  });
  return product;
}

// x[t] += sum over the token's experts, in ascending id, of weight * expert(h[t]).
//
// First all slots' silu(gate) * up, by expert and run of rows; then the down projections by column
// panel: one worker adds all experts' outputs to its columns, in ascending expert order, so that
// the sum's order is fixed without a buffer of outputs. Many slots go panel by panel, whose outputs
// stay in the cache; few, which memory bounds, take as many panels of an expert in one stream as a
// worker has.
void Forward::ExpertsAtHome(int64_t layer, const RoutedTokens& tokens, View<float, 2> x) {
  const ArenaScope scope(arena_);  // the slots' products go before the shared expert's come
  const TraceZone zone(trace_, "experts", static_cast<int32_t>(layer));
  const MoeWeights& w = weights_.layer(layer).moe;
  const int64_t active = config_.num_experts_per_tok;
  const std::vector<int32_t> expert(tokens.experts, tokens.experts + tokens.rows * active);
  std::vector<int32_t> row(expert.size());
  for (size_t i = 0; i < row.size(); ++i)
    row[i] = static_cast<int32_t>(static_cast<int64_t>(i) / active);
  const ExpertOrder order = ExpertOrder::Of(config_.n_routed_experts, expert, row);
  // Weights in the order of the slots, as the products below read them.
  std::vector<float> weight;
  for (int32_t slot : order.slot) weight.push_back(tokens.weights[slot]);

  const bool together = experts_together();
  const int64_t inner = config_.moe_intermediate_size;
  const Rows product = ExpertProducts(layer, tokens.input, order,
                                      together ? ColumnsTogether(inner) : Range{0, inner});
  if (together) ShareProduct({"expert_inner", static_cast<int32_t>(layer)}, product);
  const Activation output = ops_.Prepare(product, w.down_type, arena_);
  const int64_t all_panels = (config_.hidden_size + kPanel - 1) / kPanel;
  const Range panels = together ? tp_.HostRows(all_panels) : Range{0, all_panels};
  const int64_t workers = ops_.team().size();
  const int64_t run = order.slots() > kStreamedSlots ? 1 : (panels.size() + workers - 1) / workers;
  const int64_t items = run == 0 ? 0 : (panels.size() + run - 1) / run;
  ops_.ForEach(items, [&](int64_t item, void* scratch) {
    const int64_t first_panel = panels.begin + item * run;
    for (int64_t e = 0; e < config_.n_routed_experts; ++e) {
      const int64_t begin = order.first[static_cast<size_t>(e)];
      const int64_t end = order.first[static_cast<size_t>(e) + 1];
      if (begin == end) continue;
      GemmArgs args = GemmOf(output.Slice(begin, end), w.experts[static_cast<size_t>(e)].down);
      args.panel_begin = first_panel;
      args.panel_end = std::min(panels.end, first_panel + run);
      args.c = x.data();
      args.c_stride = x.stride(0);
      args.c_rows = order.row.data() + begin;
      args.c_scale = weight.data() + begin;
      args.epilogue = Epilogue::kAddF32;
      args.scratch = scratch;
      ops_.table().gemm(args);
    }
  });
}

// The same sum where experts are spread over ranks: each comes back as one row for every slot, and
// its home adds them in the same order.
void Forward::ExpertsElsewhere(int64_t layer, const RoutedTokens& tokens,
                               const std::vector<int64_t>& home_rows, View<float, 2> x) {
  const auto layer_number = static_cast<int32_t>(layer);
  const MoeWeights& w = weights_.layer(layer).moe;
  // The work is done before its memory goes; `outputs` lives in the exchange, for other ranks.
  {
    ExpertExchange::Work work;
    {
      const TraceZone zone(trace_, "expert dispatch", layer_number);
      work = expert_exchange_.Dispatch(layer_number, tokens, home_rows, arena_);
    }
    const TraceZone zone(trace_, "experts", layer_number);
    const ExpertOrder order = ExpertOrder::Of(config_.n_routed_experts, work.expert, work.row);
    const Activation output =
        ops_.Prepare(ExpertProducts(layer, work.input, order, {0, config_.moe_intermediate_size}),
                     w.down_type, arena_);
    float* outputs = expert_exchange_.Outputs(order.slots());
    ops_.ForEach(config_.n_routed_experts, [&](int64_t e, void* scratch) {
      const int64_t begin = order.first[static_cast<size_t>(e)];
      const int64_t end = order.first[static_cast<size_t>(e) + 1];
      if (begin == end) return;
      GemmArgs args = GemmOf(output.Slice(begin, end), w.experts[static_cast<size_t>(e)].down);
      args.c = outputs;
      args.c_stride = config_.hidden_size;
      // Each slot's output to its own place, in the order in which its home expects them.
      args.c_rows = order.slot.data() + begin;
      args.epilogue = Epilogue::kStoreF32;
      args.scratch = scratch;
      ops_.table().gemm(args);
    });
  }
  const TraceZone zone(trace_, "expert combine", layer_number);
  // `next` walks each part's outputs: a part has them in the order of this rank's tokens and
  // choices.
  std::vector<const float*> next = expert_exchange_.Combine(layer_number);  // of each part
  const int64_t active = config_.num_experts_per_tok;
  std::vector<std::pair<int32_t, int64_t>> slots(static_cast<size_t>(active));
  std::vector<const float*> outputs(static_cast<size_t>(active));
  for (int64_t row = 0; row < tokens.rows; ++row) {
    for (int64_t j = 0; j < active; ++j) {
      const int32_t expert = tokens.experts[row * active + j];
      const float*& output = next[static_cast<size_t>(expert_exchange_.PartOf(layer, expert))];
      outputs[static_cast<size_t>(j)] = output;
      output += config_.hidden_size;
      slots[static_cast<size_t>(j)] = {expert, j};
    }
    // In ascending expert, as ExpertsAtHome adds them: the same bits.
    std::sort(slots.begin(), slots.end());
    float* to = x.row(row);
    for (const auto& [expert, j] : slots) {
      const float* y = outputs[static_cast<size_t>(j)];
      const float weight = tokens.weights[row * active + j];
      for (int64_t c = 0; c < config_.hidden_size; ++c) to[c] = to[c] + weight * y[c];
    }
  }
}

}  // namespace causeway
