#include "kernels/op_set.h"

#include <algorithm>
#include <cmath>

namespace causeway {
namespace {

// Rows of an elementwise item, and of a matrix product's item: enough to amortise the streaming of
// the weights, few enough that two threads share a chunk evenly.
constexpr int64_t kElementRows = 64;
constexpr int64_t kGemmRows = 192;
// Rows that are normed before they are quantised: they stay in a first- or second-level cache.
constexpr int64_t kInputRows = 4;
// Items of panels for each thread, so that a slow thread leaves its share to others.
constexpr int64_t kPanelItems = 8;

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

Activation Activation::Of(DType type, DType weight_type, int64_t rows, int64_t cols, Arena& arena) {
  Activation out;
  out.rows = arena.Matrix(type, rows, cols);
  if (weight_type == DType::kI8) {
    // Products read int8 in groups of four: the row is padded with zeros.
    out.quantized = arena.Matrix(DType::kI8, rows, (cols + 3) / 4 * 4);
    out.scale = arena.Array<float>(rows);
  }
  return out;
}

OpSet::OpSet(const OpTable& table, ThreadTeam& team) : table_(table), team_(team) {
  // One scratch memory per worker: ops of one item need not allocate. Each worker is the first to
  // write to its own, which so lies on its NUMA node.
  for (int worker = 0; worker < team.size(); ++worker) {
    scratch_.push_back(Buffer::Untouched(kScratchBytes));
  }
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

Activation OpSet::Prepare(const Rows& rows, DType weight_type, Arena& arena,
                          const float* row_amax) const {
  Activation out;
  out.rows = rows;
  if (weight_type != DType::kI8) return out;
  out.quantized = arena.Matrix(DType::kI8, rows.rows, (rows.cols + 3) / 4 * 4);
  out.scale = arena.Array<float>(rows.rows);
  ForRows(rows.rows, [&](int64_t begin, int64_t end) { Quantize(out, begin, end, row_amax); });
  return out;
}

void OpSet::Quantize(const Activation& x, int64_t begin, int64_t end, const float* row_amax) const {
  table_.quantize({.type = x.rows.type,
                   .x = x.rows.row(begin),
                   .x_stride = x.rows.stride,
                   .m = end - begin,
                   .k = x.rows.cols,
                   .out = static_cast<int8_t*>(x.quantized.row(begin)),
                   .out_stride = x.quantized.stride,
                   .scale = x.scale + begin,
                   .row_amax = row_amax == nullptr ? nullptr : row_amax + begin});
}

GemmArgs GemmOf(const Activation& x, const Weight& w) {
  CHECK(x.rows.cols == w.k(), NameOf(x.rows.type), "[", x.rows.rows, ",", x.rows.cols, "] times ",
        NameOf(w.type()), "[", w.n(), ",", w.k(), "]");
  return GemmOf(x, w, 0);
}

GemmArgs GemmOf(const Activation& x, const Weight& w, int64_t k_begin) {
  const bool int8 = w.type() == DType::kI8;
  const Rows& a = int8 ? x.quantized : x.rows;
  const int64_t k = x.rows.cols;
  CHECK(a.type == InputType(w.type()) && k_begin >= 0 && k_begin + k <= w.k(), NameOf(a.type), "[",
        x.rows.rows, ",", k, "] from ", k_begin, " times ", NameOf(w.type()), "[", w.n(), ",",
        w.k(), "]");
  // A part must be whole runs of k, or for int8, whose sums are exact, whole groups.
  CHECK(int8 ? k_begin % 4 == 0
             : w.segments() * k % w.k() == 0 && k_begin * w.segments() % w.k() == 0,
        k, " from ", k_begin, " of ", w.k(), " in ", w.segments(), " runs");
  GemmArgs args{};
  args.type = w.type();
  args.a = a.data;
  args.a_stride = a.stride;
  args.m = x.rows.rows;
  args.w = w.packed();
  args.n = w.n();
  args.k = k;
  args.w_k = w.k();
  args.k_begin = k_begin;
  args.panel_end = w.panels();
  args.segments = int8 ? 1 : static_cast<int32_t>(w.segments() * k / w.k());
  args.a_scale = x.scale;
  args.w_scale = w.scale();
  args.w_sum = w.sum();
  args.k_block = w.fp8_blocks().columns;
  args.k_offset = w.fp8_blocks().offset;
  return args;
}

bool SiluFits(const GemmArgs& args, int64_t begin, int64_t end) {
  return args.n % (2 * kPanel) == 0 && begin % kPanel == 0 && end % kPanel == 0;
}

void SetSilu(int64_t begin, int64_t end, const Rows& out, GemmArgs& args) {
  args.panel_begin = begin / kPanel;
  args.panel_end = end / kPanel;
  // Products write column j to column j.
  args.c = static_cast<char*>(out.data) - begin * SizeOf(out.type);
  args.c_stride = out.stride;
  args.epilogue = out.type == DType::kBf16 ? Epilogue::kSiluMulBf16 : Epilogue::kSiluMulF32;
}

void OpSet::Gemm(GemmArgs args) const {
  const int64_t panels = args.panel_end - args.panel_begin;
  if (args.m == 0 || panels == 0) return;
  if (team_.size() == 1) {
    args.scratch = scratch_[0].data();
    table_.gemm(args);
    return;
  }
  // Many rows: items of rows, so that every item streams the weights once. Few: items of panels,
  // each of which makes the rows ready for itself.
  // Rows only where every thread gets at least one item of full size.
  const bool by_rows = args.m >= kGemmRows * team_.size();
  const int64_t run = std::max<int64_t>(1, panels / (kPanelItems * team_.size()));
  const int64_t items = by_rows ? (args.m + kGemmRows - 1) / kGemmRows : (panels + run - 1) / run;
  const GemmArgs whole = args;
  ForEach(items, [&](int64_t item, void* scratch) {
    GemmArgs part = whole;
    part.scratch = scratch;
    if (by_rows) {
      const int64_t begin = item * kGemmRows;
      part.m = std::min(kGemmRows, whole.m - begin);
      part.a = static_cast<const char*>(whole.a) +
               begin * whole.a_stride * SizeOf(InputType(whole.type));
      const bool rounds =
          whole.epilogue == Epilogue::kStoreBf16 || whole.epilogue == Epilogue::kSiluMulBf16;
      const int64_t out_size = rounds ? 2 : 4;
      part.c = static_cast<char*>(whole.c) + begin * whole.c_stride * out_size;
      if (whole.a_scale != nullptr) part.a_scale = whole.a_scale + begin;
    } else {
      part.panel_begin = whole.panel_begin + item * run;
      part.panel_end = std::min(whole.panel_end, part.panel_begin + run);
    }
    table_.gemm(part);
  });
}

void OpSet::LinearPanels(const Activation& x, const Weight& w, int64_t panel_begin,
                         int64_t panel_end, const Rows& out) const {
  CHECK(out.rows == x.rows.rows && out.cols == w.n(), out.rows, "x", out.cols, " for ", x.rows.rows,
        "x", w.n());
  CHECK(out.type == DType::kF32 || out.type == DType::kBf16, "output type");
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

View<float, 2> OpSet::LinearColumns(const Activation& x, const Weight& w, int64_t begin,
                                    int64_t end, Arena& arena) const {
  CHECK(0 <= begin && begin <= end && end <= w.n(), begin, " ", end, " of ", w.n());
  // Whole panels; the few columns beside those asked for are computed too, and not shown.
  const int64_t first = begin / kPanel;
  const int64_t last = (end + kPanel - 1) / kPanel;
  // The same for equal widths, wherever they begin.
  const int64_t stride = ((end - begin + kPanel - 1) / kPanel + 1) * kPanel;
  float* out = arena.Array<float>(x.rows.rows * stride);
  GemmArgs args = GemmOf(x, w);
  const int64_t depth =
      (w.k() + PackGroup(w.type()) - 1) / PackGroup(w.type()) * PackGroup(w.type());
  // Where panel `first` begins in the packed matrix: k is padded to whole groups.
  args.w = static_cast<const char*>(w.packed()) + first * kPanel * depth * SizeOf(w.type());
  args.n = std::min(w.n(), last * kPanel) - first * kPanel;
  args.panel_end = last - first;
  if (w.type() == DType::kI8) {
    args.w_scale += first * kPanel;
    args.w_sum += first * kPanel;
  } else if (w.type() == DType::kF8) {
    args.w_scale += first * w.blocks();
  }
  args.c = out;
  args.c_stride = stride;
  args.epilogue = Epilogue::kStoreF32;
  Gemm(args);
  return View<float, 2>(out + begin - first * kPanel, {x.rows.rows, end - begin}, {stride, 1});
}

void OpSet::PartOfLinear(const Activation& x, const Weight& w, int64_t k_begin,
                         const int32_t* w_sum, void* out) const {
  GemmArgs args = GemmOf(x, w, k_begin);
  // int8 parts stay int32, so that adding them up is exact; the caller applies the scales.
  const bool int8 = w.type() == DType::kI8;
  if (int8) args.w_sum = w_sum;
  args.c = out;
  args.c_stride = w.n();
  args.epilogue = int8 ? Epilogue::kStoreI32 : Epilogue::kStoreF32;
  Gemm(args);
}

void OpSet::AddLinearPanels(const Activation& x, const Weight& w, int64_t panel_begin,
                            int64_t panel_end, View<float, 2> out) const {
  CHECK(out.dim(0) == x.rows.rows && out.dim(1) == w.n(), out.dim(0), "x", out.dim(1));
  GemmArgs args = GemmOf(x, w);
  args.c = out.data();
  args.c_stride = out.stride(0);
  args.epilogue = Epilogue::kAddF32;
  args.panel_begin = panel_begin;
  args.panel_end = panel_end;
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

void OpSet::NormInput(View<const float, 2> x, const float* weight, float eps, const Activation& out,
                      const Rows& exact) const {
  CheckSameShape(x, out.rows);
  if (exact.data != nullptr) {
    CheckSameShape(x, exact);
    CHECK(exact.type == DType::kF32 && out.rows.type == DType::kBf16, "f32 beside bf16");
  }
  ForRows(x.dim(0), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += kInputRows) {
      const int64_t last = std::min(end, row + kInputRows);
      NormArgs args = NormOf(x, weight, nullptr, eps, out.rows, row, last);
      if (exact.data != nullptr) {
        args.out_f32 = static_cast<float*>(exact.row(row));
        args.out_f32_stride = exact.stride;
      }
      table_.rms_norm(args);
      if (out.quantized.data != nullptr) Quantize(out, row, last, nullptr);
    }
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

void OpSet::SiluMul(View<const float, 2> gate, View<const float, 2> up, const Rows& out) const {
  CheckSameShape(gate, out);
  CheckSameShape(up, out);
  // One stride serves both, as they are halves of one product.
  CHECK(gate.stride(0) == up.stride(0), gate.stride(0), " ", up.stride(0));
  ForRows(out.rows, [&](int64_t begin, int64_t end) {
    table_.silu_mul({.gate = gate.row(begin),
                     .up = up.row(begin),
                     .in_stride = gate.stride(0),
                     .m = end - begin,
                     .n = out.cols,
                     .type = out.type,
                     .out = out.row(begin),
                     .out_stride = out.stride});
  });
}

void OpSet::SiluProduct(const Activation& x, const Weight& w, int64_t begin, int64_t end,
                        Arena& arena, const Rows& out) const {
  const int64_t half = w.n() / 2;
  CHECK(0 <= begin && begin <= end && end <= half, begin, " ", end, " of ", half);
  CHECK(out.rows == x.rows.rows && out.cols == end - begin, out.rows, "x", out.cols);
  GemmArgs args = GemmOf(x, w);
  if (!SiluFits(args, begin, end)) {
    SiluMul(LinearColumns(x, w, begin, end, arena),
            LinearColumns(x, w, half + begin, half + end, arena), out);
    return;
  }
  SetSilu(begin, end, out, args);
  Gemm(args);
}

void OpSet::RowAmax(const Rows& rows, float* amax) const {
  ForRows(rows.rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float most = 0.0f;
      for (int64_t i = 0; i < rows.cols; ++i) {
        const float x = rows.type == DType::kF32 ? static_cast<const float*>(rows.row(row))[i]
                                                 : FromBf16(static_cast<Bf16*>(rows.row(row))[i]);
        most = std::max(most, std::fabs(x));
      }
      amax[row] = most;
    }
  });
}

}  // namespace causeway
