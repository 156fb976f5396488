// The op set over thread teams: the same bits for every number of threads.
#include "kernels/op_set.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>

#include "kernels/cpu/isa.h"
#include "kernels/op_data.h"

namespace causeway {
namespace {

constexpr uint64_t kSeed = 77;
constexpr int kTeams[] = {1, 2, 3};

// Rows below and above the number from which a product is cut by rows for 2 and 3 threads
// (192 each), one short of a cut, and none.
constexpr int64_t kRowCounts[] = {0, 1, 5, 63, 64, 65, 384, 577, 700};

// Of several instruction sets, whose kernels know nothing of threads, the thread sanitizer sees
// one.
std::vector<const OpTable*> TablesWithThreads() {
  std::vector<const OpTable*> tables = SupportedTables();
#if defined(__SANITIZE_THREAD__)
  tables.resize(1);
#endif
  return tables;
}

using Bytes = std::vector<uint8_t>;

// What `run` writes to out [rows, cols] of `type` with a team of each size; all must be the same.
template <typename Run>
Bytes SameForAllTeams(const std::string& what, DType type, int64_t rows, int64_t cols, Run run) {
  Bytes first;
  for (const int size : kTeams) {
    ThreadTeam team(size);
    const ScopedFlushDenormals flush;
    const OpSet ops(*SupportedTables()[0], team);
    RandomValues random(kSeed);
    const OutputMatrix out(type, rows, cols, cols + 3, random);
    Arena arena;
    run(ops, arena, Rows{out.data(), type, rows, cols, cols + 3});
    OpResult result;
    out.Collect(&result);
    EXPECT_EQ(result.fault, "") << what << " with " << size << " threads";
    Bytes bytes(result.bits.size() * 4);
    if (!bytes.empty()) std::memcpy(bytes.data(), result.bits.data(), bytes.size());
    if (size == 1) first = bytes;
    EXPECT_TRUE(bytes == first) << what << " with " << size << " threads";
  }
  return first;
}

TEST(OpSet, ProductsHaveTheSameBitsForEveryNumberOfThreads) {
  RandomValues random(kSeed);
  constexpr int64_t kN = 150;
  constexpr int64_t kK = 128;
  for (const DType type : {DType::kF32, DType::kBf16, DType::kI8, DType::kF8}) {
    const Weight weight = RandomWeight(type, kN, kK, SegmentsFor(type, kK), random);
    const DType x_type = type == DType::kF32 ? DType::kF32 : DType::kBf16;
    for (const int64_t rows : kRowCounts) {
      const GuardedBytes x = RandomArray(x_type, rows * kK, random);
      const Rows in = Rows::Dense(x.data(), x_type, rows, kK);
      for (const DType out_type : {DType::kF32, DType::kBf16}) {
        const std::string what = Text(NameOf(type), " to ", NameOf(out_type), ", ", rows, " rows");
        const Bytes whole = SameForAllTeams(Text("Linear ", what), out_type, rows, kN,
                                            [&](const OpSet& ops, Arena& arena, const Rows& out) {
                                              ops.Linear(ops.Prepare(in, type, arena), weight, out);
                                            });
        const Bytes panels = SameForAllTeams(Text("LinearPanels ", what), out_type, rows, kN,
                                             [&](const OpSet& ops, Arena& arena, const Rows& out) {
                                               const Activation a = ops.Prepare(in, type, arena);
                                               ops.LinearPanels(a, weight, 1, 3, out);
                                               ops.LinearPanels(a, weight, 1, 1, out);
                                               ops.LinearPanels(a, weight, 0, 1, out);
                                             });
        EXPECT_TRUE(panels == whole) << what;
      }
      SameForAllTeams(
          Text("AddLinear ", NameOf(type), " ", rows), DType::kF32, rows, kN,
          [&](const OpSet& ops, Arena& arena, const Rows& out) {
            const View<float, 2> view(static_cast<float*>(out.data), {rows, kN}, {out.stride, 1});
            ops.AddLinear(ops.Prepare(in, type, arena), weight, view);
          });
    }
  }
}

TEST(OpSet, ASliceOfAnActivationGivesTheRowsOfTheWhole) {
  RandomValues random(kSeed);
  constexpr int64_t kRows = 40;
  constexpr int64_t kK = 30;
  for (const DType type : {DType::kF32, DType::kI8}) {
    const Weight weight = RandomWeight(type, 20, kK, 1, random);
    const GuardedBytes x = RandomArray(DType::kF32, kRows * kK, random);
    ThreadTeam team(2);
    const ScopedFlushDenormals flush;
    const OpSet ops(*SupportedTables()[0], team);
    Arena arena;
    const Activation all = ops.Prepare(Rows::Dense(x.data(), DType::kF32, kRows, kK), type, arena);
    const View<float, 2> whole = arena.Floats(kRows, 20);
    const View<float, 2> part = arena.Floats(17, 20);
    ops.Linear(all, weight, Rows::Of(whole));
    ops.Linear(all.Slice(11, 28), weight, Rows::Of(part));
    EXPECT_EQ(std::memcmp(whole.row(11), part.data(), 17 * 20 * sizeof(float)), 0) << NameOf(type);
  }
}

TEST(OpSet, ColumnsOfAProductAreThoseOfTheWhole) {
  RandomValues random(kSeed);
  constexpr int64_t kRows = 5;
  constexpr int64_t kN = 210;
  constexpr int64_t kK = 320;  // three blocks of fp8 scales
  for (const DType type : {DType::kF32, DType::kBf16, DType::kI8, DType::kF8}) {
    const Weight weight = RandomWeight(type, kN, kK, 1, random);
    const DType x_type = type == DType::kF32 ? DType::kF32 : DType::kBf16;
    const GuardedBytes x = RandomArray(x_type, kRows * kK, random);
    ThreadTeam team(2);
    const ScopedFlushDenormals flush;
    const OpSet ops(*SupportedTables()[0], team);
    Arena arena;
    const Activation in = ops.Prepare(Rows::Dense(x.data(), x_type, kRows, kK), type, arena);
    const View<float, 2> whole = arena.Floats(kRows, kN);
    ops.Linear(in, weight, Rows::Of(whole));
    for (const auto& [begin, end] : {std::pair{0, 70}, {64, 128}, {100, 210}}) {
      const View<float, 2> part = ops.LinearColumns(in, weight, begin, end, arena);
      for (int64_t row = 0; row < kRows; ++row) {
        EXPECT_EQ(std::memcmp(whole.row(row) + begin, part.row(row),
                              static_cast<size_t>(end - begin) * sizeof(float)),
                  0)
            << NameOf(type) << " [" << begin << "," << end << ") row " << row;
      }
    }
  }
}

struct Columns {
  int64_t begin;
  int64_t end;
};

// silu(gate) * up of columns [begin, end): in one product where it can be, or in three steps.
std::vector<uint32_t> SiluBits(const OpSet& ops, bool joined, const Rows& in, const Weight& weight,
                               DType out_type, Columns columns) {
  const auto [begin, end] = columns;
  const int64_t half = weight.n() / 2;
  Arena arena;
  RandomValues random(kSeed);
  const Activation a = ops.Prepare(in, weight.type(), arena);
  const OutputMatrix out(out_type, in.rows, end - begin, end - begin + 3, random);
  const Rows to{out.data(), out_type, in.rows, end - begin, end - begin + 3};
  if (joined) {
    ops.SiluProduct(a, weight, begin, end, arena, to);
  } else {
    ops.SiluMul(ops.LinearColumns(a, weight, begin, end, arena),
                ops.LinearColumns(a, weight, half + begin, half + end, arena), to);
  }
  OpResult result;
  out.Collect(&result);
  EXPECT_EQ(result.fault, "");
  return result.bits;
}

// Columns that are whole panels, which the product joins itself, and others.
TEST(OpSet, AJoinedProductHasTheBitsOfItsParts) {
  constexpr int64_t kK = 96;
  ThreadTeam one(1);
  ThreadTeam two(2);
  const ScopedFlushDenormals flush;
  for (const OpTable* table : TablesWithThreads()) {
    const OpSet ops_one(*table, one);
    const OpSet ops_two(*table, two);
    for (const DType type : {DType::kF32, DType::kBf16, DType::kI8, DType::kF8}) {
      for (const int64_t half : {64, 192, 200}) {
        RandomValues random(kSeed);
        const Weight weight = RandomWeight(type, 2 * half, kK, 1, random);
        const DType x_type = type == DType::kF32 ? DType::kF32 : DType::kBf16;
        const DType out_type = half == 64 ? DType::kF32 : DType::kBf16;
        for (const int64_t rows : {1, 65, 390}) {
          const GuardedBytes x = RandomArray(x_type, rows * kK, random);
          const Rows in = Rows::Dense(x.data(), x_type, rows, kK);
          for (const Columns columns : {Columns{0, half}, {64, half / 64 * 64}, {64, 64}}) {
            const auto parts = SiluBits(ops_one, false, in, weight, out_type, columns);
            EXPECT_TRUE(SiluBits(ops_one, true, in, weight, out_type, columns) == parts &&
                        SiluBits(ops_two, true, in, weight, out_type, columns) == parts)
                << table->name << " " << NameOf(type) << " to " << NameOf(out_type) << ", " << rows
                << " rows, columns " << columns.begin << " to " << columns.end << " of " << half;
          }
        }
      }
    }
  }
}

TEST(OpSet, RowOperationsHaveTheSameBitsForEveryNumberOfThreads) {
  RandomValues random(kSeed);
  constexpr int64_t kCols = 96;
  for (const int64_t rows : kRowCounts) {
    const GuardedBytes values = RandomArray(DType::kF32, rows * kCols, random);
    const GuardedBytes weight = RandomArray(DType::kF32, kCols, random);
    const GuardedBytes table = RandomArray(DType::kF32, 10 * 8, random);
    const GuardedArray<int32_t> positions(rows);
    for (int32_t& position : positions) position = static_cast<int32_t>(random.Below(10));
    const View<const float, 2> x(static_cast<const float*>(values.data()), {rows, kCols});
    const auto* w = static_cast<const float*>(weight.data());
    const auto* cos = static_cast<const float*>(table.data());
    for (const DType type : {DType::kF32, DType::kBf16}) {
      const std::string what = Text(NameOf(type), ", ", rows, " rows");
      SameForAllTeams(
          Text("RmsNorm ", what), type, rows, kCols,
          [&](const OpSet& ops, Arena&, const Rows& out) { ops.RmsNorm(x, w, 1e-6f, out); });
      SameForAllTeams(
          Text("LayerNorm ", what), type, rows, kCols,
          [&](const OpSet& ops, Arena&, const Rows& out) { ops.LayerNorm(x, w, w, 1e-6f, out); });
      SameForAllTeams(Text("Rotate ", what), type, rows, kCols,
                      [&](const OpSet& ops, Arena&, const Rows& out) {
                        ops.Rotate(x, 4, 8, true, {cos, cos, 16}, positions.data(), out);
                      });
      SameForAllTeams(
          Text("SiluMul ", what), type, rows, kCols / 2,
          [&](const OpSet& ops, Arena&, const Rows& out) {
            ops.SiluMul(
                View<const float, 2>(x.data(), {x.dim(0), out.cols}, {x.stride(0), 1}),
                View<const float, 2>(x.data() + out.cols, {x.dim(0), out.cols}, {x.stride(0), 1}),
                out);
          });
    }
  }
}

// In one pass what RmsNorm and Prepare do in two, and the rows in f32 beside.
TEST(OpSet, NormedInputsEqualRowsNormedAndThenQuantised) {
  RandomValues random(kSeed);
  for (const int64_t cols : {3, 16, 97}) {
    for (const int64_t rows : {0, 1, 5, 65, 130}) {
      const GuardedBytes values = RandomArray(DType::kF32, rows * cols, random);
      const GuardedBytes weight = RandomArray(DType::kF32, cols, random);
      const View<const float, 2> x(static_cast<const float*>(values.data()), {rows, cols});
      const auto* w = static_cast<const float*>(weight.data());
      for (const DType type : {DType::kF32, DType::kBf16}) {
        for (const DType weight_type : {type, DType::kI8}) {
          const std::string what =
              Text(NameOf(type), " for ", NameOf(weight_type), ", ", rows, "x", cols);
          ThreadTeam team(2);
          const ScopedFlushDenormals flush;
          const OpSet ops(*SupportedTables()[0], team);
          Arena arena;
          const Rows plain = arena.Matrix(type, rows, cols);
          ops.RmsNorm(x, w, 1e-6f, plain);
          const Activation want = ops.Prepare(plain, weight_type, arena);
          const Activation got = Activation::Of(type, weight_type, rows, cols, arena);
          Rows exact;
          if (type == DType::kBf16) exact = arena.Matrix(DType::kF32, rows, cols);
          ops.NormInput(x, w, 1e-6f, got, exact);
          const auto same = [](const void* a, const void* b, int64_t bytes) {
            return bytes == 0 || std::memcmp(a, b, static_cast<size_t>(bytes)) == 0;
          };
          EXPECT_TRUE(same(want.rows.data, got.rows.data, rows * cols * SizeOf(type))) << what;
          EXPECT_EQ(got.quantized.data != nullptr, weight_type == DType::kI8) << what;
          if (weight_type == DType::kI8) {
            EXPECT_TRUE(same(want.quantized.data, got.quantized.data, rows * got.quantized.stride))
                << what;
            EXPECT_TRUE(same(want.scale, got.scale, rows * 4)) << what;
          }
          if (exact.data != nullptr) {
            const Rows alone = arena.Matrix(DType::kF32, rows, cols);
            ops.RmsNorm(x, w, 1e-6f, alone);
            EXPECT_TRUE(same(alone.data, exact.data, rows * cols * 4)) << what;
          }
        }
      }
    }
  }
}

TEST(OpSet, EveryItemRunsOnceWithScratchOfItsWorker) {
  for (const int size : kTeams) {
    ThreadTeam team(size);
    const OpSet ops(kGenericOps, team);
    std::vector<std::atomic<int>> runs(100);
    std::vector<std::atomic<int>> busy(static_cast<size_t>(size));
    ops.ForEachWorker(100, [&](int64_t item, int worker, void* scratch) {
      EXPECT_EQ(busy[static_cast<size_t>(worker)]++, 0) << "two items share a worker's scratch";
      EXPECT_EQ(reinterpret_cast<uintptr_t>(scratch) % 64, 0u);
      std::memset(scratch, worker, kScratchBytes);
      ++runs[static_cast<size_t>(item)];
      --busy[static_cast<size_t>(worker)];
    });
    for (const auto& run : runs) EXPECT_EQ(run.load(), 1);
  }
}

TEST(OpSetDeathTest, NamesShapesThatDoNotFit) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ThreadTeam team(1);
  const OpSet ops(kGenericOps, team);
  const Weight weight(DType::kF32, 20, 8);
  Arena arena;
  const View<float, 2> x = arena.Floats(3, 9);
  const View<float, 2> out = arena.Floats(3, 20);
  const Activation wrong_depth{Rows::Of(x)};
  EXPECT_DEATH(ops.Linear(wrong_depth, weight, Rows::Of(out)),
               "float32\\[3,9\\] times float32\\[20,8\\]");
  const Activation good{Rows::Of(arena.Floats(3, 8))};
  EXPECT_DEATH(ops.Linear(good, weight, Rows::Of(x)), "3x9 for 3x20");
  EXPECT_DEATH(ops.LinearPanels(good, weight, 0, 2, Rows::Of(out)), "0 2");
}

}  // namespace
}  // namespace causeway
