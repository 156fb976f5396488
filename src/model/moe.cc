// Feed-forward: dense layers, shared experts and routed experts.
#include <algorithm>
#include <numeric>

#include "model/forward.h"
#include "model/router.h"

namespace causeway {
namespace {

// Rows of a pass: enough that each of 256 experts sees tens of them, few enough to bound scratch.
constexpr int64_t kFeedForwardRows = 2048;
// Rows of one expert that an item computes at a time.
constexpr int64_t kExpertRows = 128;

}  // namespace

void Forward::FeedForward(int64_t layer, const LocalStep& step, View<float, 2> x) {
  const LayerWeights& w = weights_.layer(layer);
  for (int64_t begin = 0; begin < step.rows(); begin += kFeedForwardRows) {
    const ArenaScope scope(arena_);
    const View<float, 2> rows = x.Slice(begin, std::min(step.rows(), begin + kFeedForwardRows));
    // The gate reads unrounded rows: its choices are discrete.
    const Rows exact = Normed(rows, w.post_attention_norm, DType::kF32);
    Rows h = exact;
    if (type_ != DType::kF32) h = Normed(rows, w.post_attention_norm, type_);
    if (!w.is_moe) {
      const TraceZone zone(trace_, "dense mlp", static_cast<int32_t>(layer));
      Mlp(w.mlp, h, rows);
      continue;
    }
    Experts(layer, step, begin, exact, h, rows);
    if (config_.n_shared_experts > 0) {
      const TraceZone zone(trace_, "shared expert", static_cast<int32_t>(layer));
      Mlp(w.moe.shared, h, rows);
    }
  }
}

// x += down(silu(gate(h)) * up(h))
void Forward::Mlp(const MlpWeights& w, const Rows& h, View<float, 2> x) {
  for (int64_t begin = 0; begin < h.rows; begin += kFeedForwardRows / 4) {
    const ArenaScope scope(arena_);
    const int64_t end = std::min(h.rows, begin + kFeedForwardRows / 4);
    const View<float, 2> gate_up = arena_.Floats(end - begin, w.gate_up.n());
    const Rows product = arena_.Matrix(type_, end - begin, w.gate_up.n() / 2);
    ops_.Linear(ops_.Prepare(h.Slice(begin, end), w.gate_up.type(), arena_), w.gate_up,
                Rows::Of(gate_up));
    ops_.SiluMul(gate_up, product);
    ops_.AddLinear(ops_.Prepare(product, w.down.type(), arena_), w.down, x.Slice(begin, end));
  }
}

// x[t] += sum over the token's experts, in ascending id, of weight * expert(h[t]).
//
// Slots (token, expert) are sorted by expert. First all slots' silu(gate) * up, by expert and run
// of rows; then the down projections by column panel: one worker adds all experts' outputs to its
// columns, in ascending expert order, so that the sum's order is fixed without a buffer of outputs.
void Forward::Experts(int64_t layer, const LocalStep& step, int64_t first_row, const Rows& exact,
                      const Rows& h, View<float, 2> x) {
  const MoeWeights& w = weights_.layer(layer).moe;
  const int64_t rows = h.rows;
  const int64_t experts = config_.n_routed_experts;
  const int64_t active = config_.num_experts_per_tok;
  auto* chosen = arena_.Array<int32_t>(rows * active);
  auto* weight = arena_.Array<float>(rows * active);
  {
    const TraceZone zone(trace_, "router", static_cast<int32_t>(layer));
    const ArenaScope scope(arena_);
    const View<float, 2> logits = arena_.Floats(rows, experts);
    float* scratch = arena_.Array<float>(2 * experts);
    ops_.Linear({exact}, w.gate, Rows::Of(logits));
    for (int64_t row = 0; row < rows; ++row) {
      Route(config_, logits.row(row), w.bias.empty() ? nullptr : w.bias.data(),
            chosen + row * active, weight + row * active, scratch);
    }
  }
  if (Capture* capture = step.output.capture()) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t at = step.TokenOf(first_row + row) * active;
      std::copy_n(chosen + row * active, active,
                  capture->router_indices[static_cast<size_t>(layer)].data() + at);
      std::copy_n(weight + row * active, active,
                  capture->router_weights[static_cast<size_t>(layer)].data() + at);
    }
  }

  const TraceZone zone(trace_, "experts", static_cast<int32_t>(layer));
  // Counting sort of the slots by expert; a token's slots keep the order of tokens.
  std::vector<int64_t> first(static_cast<size_t>(experts) + 1, 0);
  for (int64_t i = 0; i < rows * active; ++i) ++first[static_cast<size_t>(chosen[i]) + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  auto* slot_row = arena_.Array<int32_t>(rows * active);
  auto* slot_weight = arena_.Array<float>(rows * active);
  {
    std::vector<int64_t> next = first;
    for (int64_t i = 0; i < rows * active; ++i) {
      const int64_t slot = next[static_cast<size_t>(chosen[i])]++;
      slot_row[slot] = static_cast<int32_t>(i / active);
      slot_weight[slot] = weight[i];
    }
  }
  struct Item {
    int64_t expert;
    int64_t begin;  // slots
    int64_t end;
  };
  std::vector<Item> items;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t end = first[static_cast<size_t>(e) + 1];
    for (int64_t b = first[static_cast<size_t>(e)]; b < end; b += kExpertRows) {
      items.push_back({e, b, std::min(end, b + kExpertRows)});
    }
  }

  const int64_t inner = config_.moe_intermediate_size;
  const MlpWeights& any = w.experts[0];
  const Activation input = ops_.Prepare(h, any.gate_up.type(), arena_);
  const Rows product = arena_.Matrix(type_, rows * active, inner);
  const View<float, 2> gate_up = arena_.Floats(ops_.team().size() * kExpertRows, 2 * inner);
  ops_.ForEachWorker(static_cast<int64_t>(items.size()), [&](int64_t i, int worker, void* scratch) {
    const Item& item = items[static_cast<size_t>(i)];
    const View<float, 2> mine = gate_up.Slice(worker * kExpertRows, (worker + 1) * kExpertRows);
    GemmArgs args = GemmOf(input, w.experts[static_cast<size_t>(item.expert)].gate_up);
    args.a_rows = slot_row + item.begin;
    args.m = item.end - item.begin;
    args.c = mine.data();
    args.c_stride = mine.stride(0);
    args.epilogue = Epilogue::kStoreF32;
    args.scratch = scratch;
    ops_.table().gemm(args);
    const Rows out = product.Slice(item.begin, item.end);
    ops_.table().silu_mul({.gate = mine.data(),
                           .up = mine.data() + inner,
                           .in_stride = mine.stride(0),
                           .m = out.rows,
                           .n = inner,
                           .type = type_,
                           .out = out.data,
                           .out_stride = out.stride});
  });

  const Activation output = ops_.Prepare(product, any.down.type(), arena_);
  ops_.ForEach(any.down.panels(), [&](int64_t panel, void* scratch) {
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t begin = first[static_cast<size_t>(e)];
      const int64_t end = first[static_cast<size_t>(e) + 1];
      if (begin == end) continue;
      GemmArgs args = GemmOf(output.Slice(begin, end), w.experts[static_cast<size_t>(e)].down);
      args.panel_begin = panel;
      args.panel_end = panel + 1;
      args.c = x.data();
      args.c_stride = x.stride(0);
      args.c_rows = slot_row + begin;
      args.c_scale = slot_weight + begin;
      args.epilogue = Epilogue::kAddF32;
      args.scratch = scratch;
      ops_.table().gemm(args);
    }
  });
}

}  // namespace causeway
