// Matrix products: every type, epilogue, panel width and way to find rows.
#include <algorithm>
#include <memory>
#include <numeric>

#include "kernels/op_cases.h"

namespace causeway {
namespace {

struct GemmCase {
  DType type;
  int64_t m;
  int64_t n;
  int64_t k;
  Epilogue epilogue = Epilogue::kStoreF32;
  int32_t segments = 1;
  int64_t panel_begin = 0;
  int64_t panel_end = -1;  // -1: all
  bool gather = false;     // a_rows, with rows that come twice
  bool scatter = false;    // c_rows, a permutation with holes
  bool scaled = false;     // c_scale
  int64_t gap = 0;         // elements between the rows of a and of c
  int64_t k_before = 0;    // columns of the packed matrix before and after the k in use
  int64_t k_after = 0;
  Spread spread = Spread::kUniform;
  Fp8Blocks blocks = {};  // fp8 only
};

const char* NameOf(Epilogue epilogue) {
  return epilogue == Epilogue::kStoreF32      ? "store_f32"
         : epilogue == Epilogue::kStoreBf16   ? "store_bf16"
         : epilogue == Epilogue::kStoreI32    ? "store_i32"
         : epilogue == Epilogue::kSiluMulF32  ? "silu_mul_f32"
         : epilogue == Epilogue::kSiluMulBf16 ? "silu_mul_bf16"
                                              : "add_f32";
}

OpResult Run(const GemmCase& c, const OpTable& table, uint64_t seed, void* scratch) {
  RandomValues random(seed);
  const bool int8 = c.type == DType::kI8;
  const int64_t a_cols = int8 ? (c.k + 3) / 4 * 4 : c.k;
  // Three rows more than are asked for: some are never read.
  const int64_t a_rows = c.gather ? c.m + 3 : c.m;
  // int8 rows keep a stride that is a multiple of four.
  const int64_t a_stride = a_cols + (int8 ? c.gap * 4 : c.gap);
  const GuardedBytes a =
      RandomArray(InputType(c.type), Span(a_rows, a_cols, a_stride), random, c.spread);
  if (int8) {  // the padding of a row is zero
    for (int64_t i = 0; i < a_rows; ++i) {
      for (int64_t k = c.k; k < a_cols; ++k) static_cast<int8_t*>(a.data())[i * a_stride + k] = 0;
    }
  }
  // A part of k is a part of a larger packed matrix.
  const int64_t w_k = c.k_before + c.k + c.k_after;
  const Weight weight =
      RandomWeight(c.type, c.n, w_k, w_k == c.k ? c.segments : 1, random, c.spread, c.blocks);
  GuardedArray<int32_t> sums(c.n);
  // Of the columns in use only, as GemmArgs asks where the product takes a part.
  for (int64_t j = 0; j < c.n; ++j) sums[j] = int8 ? weight.SumOf(j, c.k_before, c.k) : 0;
  const GuardedBytes packed = PackedCopy(weight);
  const GuardedBytes a_scale = RandomArray(DType::kF32, a_rows, random);
  const GuardedBytes c_scale = RandomArray(DType::kF32, c.m, random);
  const GuardedArray<int32_t> gathered(c.m);
  for (int32_t& row : gathered) row = static_cast<int32_t>(random.Below(a_rows));

  // Two rows more than are written: what is scattered has holes.
  const int64_t c_rows = c.scatter ? c.m + 2 : c.m;
  std::vector<int64_t> rows(static_cast<size_t>(c_rows));
  std::iota(rows.begin(), rows.end(), 0);
  if (c.scatter) {
    for (size_t i = rows.size(); i > 1; --i) {
      std::swap(rows[i - 1], rows[static_cast<size_t>(random.Below(static_cast<int64_t>(i)))]);
    }
  }
  rows.resize(static_cast<size_t>(c.m));
  const GuardedArray<int32_t> scattered(c.m);
  std::copy(rows.begin(), rows.end(), scattered.begin());
  const bool rounds = c.epilogue == Epilogue::kStoreBf16 || c.epilogue == Epilogue::kSiluMulBf16;
  const DType out_type = rounds ? DType::kBf16 : DType::kF32;
  // Random values first, as kAddF32 adds to them.
  const OutputMatrix out(out_type, c_rows, c.n, c.n + c.gap, random);

  GemmArgs args{};
  args.type = c.type;
  args.a = a.data();
  args.a_stride = a_stride;
  args.a_rows = c.gather ? gathered.data() : nullptr;
  args.m = c.m;
  args.w = packed.data();
  args.n = c.n;
  args.k = c.k;
  args.panel_begin = c.panel_begin;
  args.panel_end = c.panel_end < 0 ? weight.panels() : c.panel_end;
  args.segments = c.segments;
  args.a_scale = int8 ? static_cast<const float*>(a_scale.data()) : nullptr;
  args.w_scale = weight.scale();
  args.w_sum = sums.data();
  if (w_k != c.k) args.w_k = w_k;
  args.k_begin = c.k_before;
  args.c = out.data();
  args.c_stride = c.n + c.gap;
  args.c_rows = c.scatter ? scattered.data() : nullptr;
  args.c_scale = c.scaled ? static_cast<const float*>(c_scale.data()) : nullptr;
  args.epilogue = c.epilogue;
  args.k_block = c.blocks.columns;
  args.k_offset = c.blocks.offset;
  args.scratch = scratch;
  table.gemm(args);

  OpResult result;
  // Only the columns of the panels asked for may change.
  const int64_t begin = std::min(c.n, args.panel_begin * kPanel);
  out.Collect(rows, begin, std::max(begin, std::min(c.n, args.panel_end * kPanel)), &result);
  return result;
}

void Add(GemmCase c, std::vector<OpCase>* cases) {
  if (c.type == DType::kF8) c.k = (c.k + 4 * c.segments - 1) / (4 * c.segments) * 4 * c.segments;
  OpCase out;
  out.op = "gemm";
  out.name =
      Text("gemm ", NameOf(c.type), " m=", c.m, " n=", c.n, " k=", c.k, " ", NameOf(c.epilogue),
           " segments=", c.segments, " panels=[", c.panel_begin, ",", c.panel_end,
           ") gather=", c.gather, " scatter=", c.scatter, " scaled=", c.scaled, " gap=", c.gap,
           " k_before=", c.k_before, " k_after=", c.k_after,
           c.type == DType::kF8 ? Text(" blocks=", c.blocks.columns, "-", c.blocks.offset) : "",
           c.spread == Spread::kTiny ? " tiny" : "");
  out.work = c.m * c.n * c.k;
  // Products of bf16 values are exact without fma too, unless they underflow.
  out.fused = c.type == DType::kF32 || (c.type != DType::kI8 && c.spread == Spread::kTiny);
  // Each of k steps rounds a partial sum of about sqrt(k) / 3, for values below 1.
  out.tolerance.absolute =
      c.spread == Spread::kTiny ? 0x1p-120 : 0x1p-23 * static_cast<double>(c.k + 4);
  if (c.epilogue == Epilogue::kStoreBf16) out.tolerance.relative = 0x1p-7;
  const bool rounds = c.epilogue == Epilogue::kSiluMulBf16;
  if (rounds || c.epilogue == Epilogue::kSiluMulF32) {
    // The reference calls std::exp. An error of one half is multiplied by the other, below 8; int8
    // halves are exact and large.
    out.exact = false;
    out.tolerance = {8 * out.tolerance.absolute, rounds ? 0x1p-7 : 2e-6};
  }
  out.run = [c](const OpTable& table, uint64_t seed, void* scratch) {
    return Run(c, table, seed, scratch);
  };
  cases->push_back(std::move(out));
}

}  // namespace

void AddGemmCases(std::vector<OpCase>* cases) {
  constexpr DType kTypes[] = {DType::kF32, DType::kBf16, DType::kI8, DType::kF8};
  constexpr Epilogue kEpilogues[] = {Epilogue::kStoreF32, Epilogue::kStoreBf16, Epilogue::kAddF32};
  for (const DType type : kTypes) {
    // bf16 needs an even k, fp8 a multiple of 4 (Add rounds up what stands here).
    const int64_t even = type == DType::kBf16 ? 2 : type == DType::kF8 ? 4 : 1;
    // No rows, one row, and every remainder of the register tiles (2, 6, 8 and 12 rows).
    for (int64_t m = 0; m <= 26; ++m) {
      Add({.type = type, .m = m, .n = 70, .k = 10}, cases);
    }
    // Every width of the last panel, whole and with absent columns.
    for (const int64_t n : {1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 100, 127, 200}) {
      Add({.type = type, .m = 7, .n = n, .k = 12, .epilogue = kEpilogues[n % 3]}, cases);
      Add({.type = type, .m = 14, .n = n, .k = 12}, cases);
    }
    for (const int64_t k : {1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 64, 99, 257, 1000}) {
      Add({.type = type, .m = 9, .n = 48, .k = k * even}, cases);
    }
    // Every way to find rows with every epilogue.
    for (const Epilogue epilogue : kEpilogues) {
      for (const int64_t n : {30, 128}) {
        for (int option = 0; option < 8; ++option) {
          Add({.type = type,
               .m = 67,
               .n = n,
               .k = 18,
               .epilogue = epilogue,
               .gather = (option & 1) != 0,
               .scatter = (option & 2) != 0,
               .scaled = epilogue == Epilogue::kAddF32 && option >= 4,
               .gap = option * 3},
              cases);
        }
      }
    }
    // Gate and up of one and of two panels; the second half is read only.
    for (const Epilogue epilogue : {Epilogue::kSiluMulF32, Epilogue::kSiluMulBf16}) {
      for (const int64_t m : {0, 1, 7, 67, 200}) {
        for (int option = 0; option < 4; ++option) {
          Add({.type = type,
               .m = m,
               .n = option < 2 ? 128 : 256,
               .k = 20,
               .epilogue = epilogue,
               .panel_begin = option == 3 ? 1 : 0,
               .panel_end = option < 2 ? 1 : 2,
               .gather = (option & 1) != 0,
               .scatter = option == 2,
               .gap = option * 2},
              cases);
        }
      }
    }
    for (const int32_t segments : {1, 2, 4, 8, 16, 32}) {
      for (const int64_t run : {1, 3, 8}) {
        Add({.type = type, .m = 13, .n = 90, .k = run * segments * even, .segments = segments},
            cases);
        Add({.type = type,
             .m = 6,
             .n = 64,
             .k = run * segments * even,
             .epilogue = Epilogue::kAddF32,
             .segments = segments,
             .scaled = true},
            cases);
      }
    }
    // No panel, inner panels, the narrow last panel.
    for (const auto& [begin, end] : {std::pair{1, 1}, {0, 1}, {1, 3}, {3, 4}, {4, 4}}) {
      for (const Epilogue epilogue : kEpilogues) {
        Add({.type = type,
             .m = 5,
             .n = 210,
             .k = 6,
             .epilogue = epilogue,
             .panel_begin = begin,
             .panel_end = end,
             .gap = 5},
            cases);
      }
    }
    // Several pieces of k: whole and cut, with one run and with runs that span no, one and several
    // pieces, the last one narrower than a panel.
    for (const int64_t k : {512, 514, 1024, 2048, 2052, 5000}) {
      Add({.type = type, .m = 8, .n = 80, .k = k}, cases);
    }
    for (const int32_t segments : {2, 8, 32}) {
      for (const int64_t run : {40, 96, 600, 1030}) {
        Add({.type = type,
             .m = 7,
             .n = 80,
             .k = run * segments,
             .epilogue = segments == 8 ? Epilogue::kAddF32 : Epilogue::kStoreF32,
             .segments = segments},
            cases);
      }
    }
    // More rows than a block has.
    Add({.type = type, .m = 395, .n = 48, .k = 32, .gather = true}, cases);
    Add({.type = type, .m = 193, .n = 70, .k = 1100, .scatter = true}, cases);
    // Several blocks of ready rows; a row longer than a block.
    Add({.type = type, .m = 131, .n = 17, .k = 2048, .gather = true}, cases);
    Add({.type = type, .m = 70, .n = 16, .k = 4104, .epilogue = Epilogue::kAddF32}, cases);
    Add({.type = type, .m = 3, .n = 16, .k = 270000, .epilogue = Epilogue::kStoreBf16}, cases);
    // Long rows that are read where they lie: for fp8, blocks as large as those of short ones.
    Add({.type = type, .m = 193, .n = 16, .k = 11008, .segments = 32, .gap = 32}, cases);
    // Values whose products underflow: all kernels must flush them alike.
    if (type != DType::kI8) {
      for (const int64_t k : {2, 8, 64}) {
        Add({.type = type, .m = 33, .n = 50, .k = k, .spread = Spread::kTiny}, cases);
      }
    }
  }
  // Blocks of scales that begin before the weight, with and without several in a run or a piece.
  for (const Fp8Blocks& blocks : {Fp8Blocks{4, 0}, {12, 8}, {64, 36}, {128, 64}, {2000, 1996}}) {
    for (const int64_t m : {1, 2, 3, 4, 5, 9}) {
      for (const int64_t n : {64, 112}) {
        Add({.type = DType::kF8, .m = m, .n = n, .k = 320, .gather = m == 3, .blocks = blocks},
            cases);
        Add({.type = DType::kF8, .m = m, .n = n, .k = 3200, .segments = 8, .blocks = blocks},
            cases);
      }
    }
    Add({.type = DType::kF8,
         .m = 2,
         .n = 80,
         .k = 96,
         .k_before = 60,
         .k_after = 32,
         .blocks = blocks},
        cases);
    Add({.type = DType::kF8, .m = 7, .n = 80, .k = 96, .k_before = 200, .blocks = blocks}, cases);
  }
  // A part of the packed columns, as a tensor-parallel rank takes it; exact sums for int8.
  for (const DType type : kTypes) {
    for (const int64_t n : {16, 70, 130}) {
      const Epilogue store = type == DType::kI8 ? Epilogue::kStoreI32 : Epilogue::kStoreF32;
      Add({.type = type,
           .m = 9,
           .n = n,
           .k = 32,
           .epilogue = store,
           .segments = 4,
           .k_before = 64,
           .k_after = 32},
          cases);
      Add({.type = type, .m = 3, .n = n, .k = 8, .epilogue = store, .k_after = 4}, cases);
      Add({.type = type, .m = 3, .n = n, .k = 8, .epilogue = Epilogue::kAddF32, .k_before = 4},
          cases);
    }
  }
}

}  // namespace causeway
