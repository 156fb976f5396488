#include "kernels/op_set.h"

#include <algorithm>

namespace causeway {
namespace {

// Rows of an elementwise item, and of a matrix product's item: enough to amortise the streaming of
// the weights, few enough that two threads share a chunk evenly.
constexpr int64_t kElementRows = 64;
constexpr int64_t kGemmRows = 192;

}  // namespace

Activation Activation::Slice(int64_t begin, int64_t end) const {
  Activation out;
  out.rows = rows.Slice(begin, end);
  if (quantized.data != nullptr) {
    out.quantized = quantized.Slice(begin, end);
    out.scale = scale + begin;
  }
  return out;
}

OpSet::OpSet(const OpTable& table, ThreadTeam& team) : table_(table), team_(team) {
  for (int worker = 0; worker < team.size(); ++worker) scratch_.emplace_back(kScratchBytes);
}

void OpSet::ForEach(int64_t items, const std::function<void(int64_t, void*)>& body) const {
  team_.ParallelFor(items, [&](int64_t item, int worker) {
    body(item, scratch_[static_cast<size_t>(worker)].data());
  });
}

void OpSet::ForEachWorker(int64_t items,
                          const std::function<void(int64_t, int, void*)>& body) const {
  team_.ParallelFor(items, [&](int64_t item, int worker) {
    body(item, worker, scratch_[static_cast<size_t>(worker)].data());
  });
}

void OpSet::ForRows(int64_t m, const std::function<void(int64_t, int64_t)>& body) const {
  team_.ParallelFor((m + kElementRows - 1) / kElementRows, [&](int64_t item, int) {
    body(item * kElementRows, std::min(m, (item + 1) * kElementRows));
  });
}

Activation OpSet::Prepare(const Rows& rows, DType weight_type, Arena& arena) const {
  Activation out;
  out.rows = rows;
  if (weight_type != DType::kI8) return out;
  const int64_t padded = (rows.cols + 3) / 4 * 4;
  out.quantized = arena.Matrix(DType::kI8, rows.rows, padded);
  auto* scale = arena.Array<float>(rows.rows);
  out.scale = scale;
  ForRows(rows.rows, [&](int64_t begin, int64_t end) {
    table_.quantize({.type = rows.type,
                     .x = rows.row(begin),
                     .x_stride = rows.stride,
                     .m = end - begin,
                     .k = rows.cols,
                     .out = static_cast<int8_t*>(out.quantized.row(begin)),
                     .out_stride = padded,
                     .scale = scale + begin});
  });
  return out;
}

GemmArgs GemmOf(const Activation& x, const Weight& w) {
  const bool int8 = w.type() == DType::kI8;
  const Rows& a = int8 ? x.quantized : x.rows;
  CHECK(a.type == w.type() && x.rows.cols == w.k(), NameOf(a.type), "[", x.rows.rows, ",",
        x.rows.cols, "] times ", NameOf(w.type()), "[", w.n(), ",", w.k(), "]");
  GemmArgs args{};
  args.type = w.type();
  args.a = a.data;
  args.a_stride = a.stride;
  args.m = x.rows.rows;
  args.w = w.packed();
  args.n = w.n();
  args.k = w.k();
  args.panel_end = w.panels();
  args.segments = w.segments();
  args.a_scale = x.scale;
  args.w_scale = w.scale();
  args.w_sum = w.sum();
  return args;
}

void OpSet::Gemm(GemmArgs args) const {
  const int64_t panels = args.panel_end - args.panel_begin;
  if (args.m == 0 || panels == 0) return;
  if (team_.size() == 1) {
    args.scratch = scratch_[0].data();
    table_.gemm(args);
    return;
  }
  // Many rows: items of rows, so that every item streams the weights once. Few: items of panels.
  const bool by_rows = args.m >= kGemmRows * team_.size();
  const int64_t items = by_rows ? (args.m + kGemmRows - 1) / kGemmRows : panels;
  const GemmArgs whole = args;
  ForEach(items, [&](int64_t item, void* scratch) {
    GemmArgs part = whole;
    part.scratch = scratch;
    if (by_rows) {
      const int64_t begin = item * kGemmRows;
      part.m = std::min(kGemmRows, whole.m - begin);
      part.a = static_cast<const char*>(whole.a) + begin * whole.a_stride * SizeOf(whole.type);
      const int64_t out_size = whole.epilogue == Epilogue::kStoreBf16 ? 2 : 4;
      part.c = static_cast<char*>(whole.c) + begin * whole.c_stride * out_size;
      if (whole.a_scale != nullptr) part.a_scale = whole.a_scale + begin;
    } else {
      part.panel_begin = whole.panel_begin + item;
      part.panel_end = part.panel_begin + 1;
    }
    table_.gemm(part);
  });
}

void OpSet::LinearPanels(const Activation& x, const Weight& w, int64_t panel_begin,
                         int64_t panel_end, const Rows& out) const {
  CHECK(out.rows == x.rows.rows && out.cols == w.n(), out.rows, "x", out.cols, " for ", x.rows.rows,
        "x", w.n());
  CHECK(out.type != DType::kI8, "output type");
  CHECK(0 <= panel_begin && panel_begin <= panel_end && panel_end <= w.panels(), panel_begin, " ",
        panel_end);
  GemmArgs args = GemmOf(x, w);
  args.panel_begin = panel_begin;
  args.panel_end = panel_end;
  args.c = out.data;
  args.c_stride = out.stride;
  args.epilogue = out.type == DType::kBf16 ? Epilogue::kStoreBf16 : Epilogue::kStoreF32;
  Gemm(args);
}

void OpSet::Linear(const Activation& x, const Weight& w, const Rows& out) const {
  LinearPanels(x, w, 0, w.panels(), out);
}

void OpSet::AddLinear(const Activation& x, const Weight& w, View<float, 2> out) const {
  CHECK(out.dim(0) == x.rows.rows && out.dim(1) == w.n(), out.dim(0), "x", out.dim(1));
  GemmArgs args = GemmOf(x, w);
  args.c = out.data();
  args.c_stride = out.stride(0);
  args.epilogue = Epilogue::kAddF32;
  Gemm(args);
}

namespace {

NormArgs NormOf(View<const float, 2> x, const float* weight, const float* bias, float eps,
                const Rows& out, int64_t begin, int64_t end) {
  NormArgs args{};
  args.x = x.row(begin);
  args.x_stride = x.stride(0);
  args.m = end - begin;
  args.n = x.dim(1);
  args.weight = weight;
  args.bias = bias;
  args.eps = eps;
  if (out.type == DType::kBf16) {
    args.out_bf16 = static_cast<uint16_t*>(out.row(begin));
    args.out_bf16_stride = out.stride;
  } else {
    args.out_f32 = static_cast<float*>(out.row(begin));
    args.out_f32_stride = out.stride;
  }
  return args;
}

void CheckSameShape(View<const float, 2> x, const Rows& out) {
  CHECK(x.dim(0) == out.rows && x.dim(1) == out.cols, x.dim(0), "x", x.dim(1), " to ", out.rows,
        "x", out.cols);
}

}  // namespace

void OpSet::RmsNorm(View<const float, 2> x, const float* weight, float eps, const Rows& out) const {
  CheckSameShape(x, out);
  ForRows(x.dim(0), [&](int64_t begin, int64_t end) {
    table_.rms_norm(NormOf(x, weight, nullptr, eps, out, begin, end));
  });
}

void OpSet::LayerNorm(View<const float, 2> x, const float* weight, const float* bias, float eps,
                      const Rows& out) const {
  CheckSameShape(x, out);
  ForRows(x.dim(0), [&](int64_t begin, int64_t end) {
    table_.layer_norm(NormOf(x, weight, bias, eps, out, begin, end));
  });
}

void OpSet::Rotate(View<const float, 2> x, int64_t heads, int64_t rope_begin, bool interleaved,
                   const RopeView& rope, const int32_t* positions, const Rows& out) const {
  CheckSameShape(x, out);
  CHECK(x.dim(1) % heads == 0 && rope_begin + rope.rope_dim <= x.dim(1) / heads, x.dim(1), " ",
        heads, " ", rope_begin);
  ForRows(x.dim(0), [&](int64_t begin, int64_t end) {
    table_.rotate({.x = x.row(begin),
                   .x_stride = x.stride(0),
                   .m = end - begin,
                   .heads = heads,
                   .head_dim = x.dim(1) / heads,
                   .rope_begin = rope_begin,
                   .rope_dim = rope.rope_dim,
                   .interleaved = interleaved,
                   .cos = rope.cos,
                   .sin = rope.sin,
                   .positions = positions + begin,
                   .type = out.type,
                   .out = out.row(begin),
                   .out_stride = out.stride});
  });
}

void OpSet::SiluMul(View<const float, 2> gate_up, const Rows& out) const {
  CHECK(gate_up.dim(0) == out.rows && gate_up.dim(1) == 2 * out.cols, gate_up.dim(1), " ",
        out.cols);
  ForRows(out.rows, [&](int64_t begin, int64_t end) {
    table_.silu_mul({.gate = gate_up.row(begin),
                     .up = gate_up.row(begin) + out.cols,
                     .in_stride = gate_up.stride(0),
                     .m = end - begin,
                     .n = out.cols,
                     .type = out.type,
                     .out = out.row(begin),
                     .out_stride = out.stride});
  });
}

}  // namespace causeway
