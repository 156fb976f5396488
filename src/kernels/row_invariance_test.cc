// A row's bits depend on that row alone: not on how many rows come along or where they lie, not on
// the panels or heads that are computed with it, not on keys that come later.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "base/bf16.h"
#include "base/thread_team.h"
#include "kernels/cpu/isa.h"
#include "kernels/op_data.h"

namespace causeway {
namespace {

constexpr uint64_t kSeed = 411;

// The first element in which `part`, rows of `cols`, differs from the rows `row(i)` of `whole`.
template <typename RowOf>
std::string FirstDifference(DType type, const void* whole, int64_t whole_stride, const void* part,
                            int64_t part_stride, int64_t rows, int64_t cols, RowOf row) {
  const int64_t size = SizeOf(type);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      const auto* a = static_cast<const char*>(whole) + (row(i) * whole_stride + j) * size;
      const auto* b = static_cast<const char*>(part) + (i * part_stride + j) * size;
      if (std::memcmp(a, b, static_cast<size_t>(size)) != 0) {
        return Text("row ", i, " (", row(i), " of all) column ", j);
      }
    }
  }
  return "";
}

class RowInvariance : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (const OpTable* table : SupportedTables()) {
      if (GetParam() == table->name) table_ = table;
    }
    if (table_ == nullptr) GTEST_SKIP() << "this CPU has no " << GetParam();
  }

  const OpTable* table_ = nullptr;
  RandomValues random_{kSeed};
  const GuardedBytes scratch_{kScratchBytes};
  const ScopedFlushDenormals flush_;
};

INSTANTIATE_TEST_SUITE_P(, RowInvariance,
                         testing::Values("generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16"),
                         [](const auto& info) { return info.param; });

// --- gemm ----------------------------------------------------------------------------------------

// A product of `rows` rows of k values, from which parts are computed anew.
struct Product {
  static constexpr int64_t kRows = 77;

  Product(DType type, int64_t n, int64_t k, int32_t segments, RandomValues& random)
      : weight(RandomWeight(type, n, k, segments, random)),
        stride((k + 3) / 4 * 4),
        a(RandomArray(InputType(type), kRows * stride, random)),
        scale(RandomArray(DType::kF32, kRows, random)) {
    for (int64_t i = 0; type == DType::kI8 && i < kRows; ++i) {
      for (int64_t j = k; j < stride; ++j) static_cast<int8_t*>(a.data())[i * stride + j] = 0;
    }
  }

  GemmArgs Args(void* c, void* scratch) const {
    GemmArgs args{};
    args.type = weight.type();
    args.a = a.data();
    args.a_stride = stride;
    args.m = kRows;
    args.w = weight.packed();
    args.n = weight.n();
    args.k = weight.k();
    args.panel_end = weight.panels();
    args.segments = weight.segments();
    args.a_scale = static_cast<const float*>(scale.data());
    args.w_scale = weight.scale();
    args.w_sum = weight.sum();
    args.k_block = weight.fp8_blocks().columns;
    args.k_offset = weight.fp8_blocks().offset;
    args.c = c;
    args.c_stride = weight.n();
    args.scratch = scratch;
    return args;
  }

  Weight weight;
  int64_t stride;
  GuardedBytes a;
  GuardedBytes scale;
};

TEST_P(RowInvariance, AProductsRowsDoNotDependOnTheirNumberPlaceOrPanels) {
  struct Shape {
    int64_t n, k;
    int32_t segments;
  };
  for (const DType type : {DType::kF32, DType::kBf16, DType::kI8, DType::kF8}) {
    for (Shape s : {Shape{64, 32, 1}, Shape{150, 64, 1}, Shape{250, 192, 32}, Shape{16, 6, 1},
                    Shape{40, 2048, 1}, Shape{100, 1024, 8}}) {
      if (type == DType::kF8) {  // whole groups in every run
        s.k = (s.k + 4 * s.segments - 1) / (4 * s.segments) * 4 * s.segments;
      }
      const Product product(type, s.n, s.k, s.segments, random_);
      const GuardedArray<float> all(Product::kRows * s.n);
      table_->gemm(product.Args(all.data(), scratch_.data()));
      const std::string what = Text(NameOf(type), " n=", s.n, " k=", s.k, " segments=", s.segments);

      for (const int64_t begin : {0, 1, 5, 50}) {
        for (int64_t m = 1; m <= 27; m = m < 14 ? m + 1 : m + 13) {
          // As the first rows of another batch.
          const GuardedArray<float> some(m * s.n);
          GemmArgs args = product.Args(some.data(), scratch_.data());
          args.a =
              static_cast<const char*>(args.a) + begin * args.a_stride * SizeOf(InputType(type));
          args.a_scale += begin;
          args.m = m;
          table_->gemm(args);
          ASSERT_EQ(FirstDifference(DType::kF32, all.data(), s.n, some.data(), s.n, m, s.n,
                                    [&](int64_t i) { return begin + i; }),
                    "")
              << what << " m=" << m << " from row " << begin;
          // Gathered in another order.
          const GuardedArray<int32_t> rows(m);
          for (int32_t& row : rows) row = static_cast<int32_t>(random_.Below(Product::kRows));
          args = product.Args(some.data(), scratch_.data());
          args.a_rows = rows.data();
          args.m = m;
          table_->gemm(args);
          ASSERT_EQ(FirstDifference(DType::kF32, all.data(), s.n, some.data(), s.n, m, s.n,
                                    [&](int64_t i) { return rows[i]; }),
                    "")
              << what << " m=" << m << " gathered";
        }
      }
      for (int64_t panel = 0; panel < product.weight.panels(); ++panel) {
        const GuardedArray<float> some(Product::kRows * s.n);
        GemmArgs args = product.Args(some.data(), scratch_.data());
        args.panel_begin = panel;
        args.panel_end = panel + 1;
        table_->gemm(args);
        const int64_t column = panel * kPanel;
        ASSERT_EQ(FirstDifference(DType::kF32, all.data() + column, s.n, some.data() + column, s.n,
                                  Product::kRows, std::min(kPanel, s.n - column),
                                  [](int64_t i) { return i; }),
                  "")
            << what << " panel " << panel << " alone";
      }
    }
  }
}

// The same bits as the weights that fp8 stands for, kept in bf16.
TEST_P(RowInvariance, AnFp8ProductHasTheBitsOfItsWeightsInBf16) {
  for (const int32_t segments : {1, 8}) {
    const Product fp8(DType::kF8, 150, 1312, segments, random_);
    Weight wide(DType::kBf16, 150, 1312, segments);
    for (int64_t j = 0; j < wide.n(); ++j) {
      std::vector<float> row;
      for (int64_t i = 0; i < wide.k(); ++i) row.push_back(fp8.weight.At(j, i));
      wide.PackRows(j, 1, row.data());
    }
    for (const int64_t m :
         {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{4}, int64_t{5}, Product::kRows}) {
      const GuardedArray<float> narrow_out(m * wide.n());
      GemmArgs args = fp8.Args(narrow_out.data(), scratch_.data());
      args.m = m;
      table_->gemm(args);
      const GuardedArray<float> wide_out(m * wide.n());
      args.type = DType::kBf16;
      args.w = wide.packed();
      args.c = wide_out.data();
      table_->gemm(args);
      ASSERT_EQ(FirstDifference(DType::kF32, wide_out.data(), wide.n(), narrow_out.data(), wide.n(),
                                m, wide.n(), [](int64_t i) { return i; }),
                "")
          << "m=" << m << " segments=" << segments;
    }
  }
}

TEST_P(RowInvariance, TheEpilogueDoesNotChangeTheProduct) {
  for (const DType type : {DType::kF32, DType::kBf16, DType::kI8, DType::kF8}) {
    const Product product(type, 100, 64, 4, random_);
    const int64_t count = Product::kRows * 100;
    const GuardedArray<float> plain(count);
    table_->gemm(product.Args(plain.data(), scratch_.data()));
    const GuardedArray<Bf16> rounded(count);
    GemmArgs args = product.Args(rounded.data(), scratch_.data());
    args.epilogue = Epilogue::kStoreBf16;
    table_->gemm(args);
    const GuardedArray<float> sum(count);
    std::fill(sum.begin(), sum.end(), 0.75f);
    args = product.Args(sum.data(), scratch_.data());
    args.epilogue = Epilogue::kAddF32;
    table_->gemm(args);
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_EQ(rounded[i], ToBf16(plain[i])) << NameOf(type) << " element " << i;
      ASSERT_EQ(sum[i], 0.75f + plain[i]) << NameOf(type) << " element " << i;
    }
  }
}

// A row-parallel product split over ranks: each computes its subtree of the runs, and their sum in
// tree order has the bits of the whole.
TEST_P(RowInvariance, ProductsOfHalvesOfKAddUpToTheWhole) {
  for (const DType type : {DType::kF32, DType::kBf16}) {
    constexpr int64_t kN = 80;
    constexpr int64_t kK = 32 * 6;
    const GuardedBytes a = RandomArray(type, Product::kRows * kK, random_);
    const GuardedBytes values = RandomArray(DType::kF32, kN * kK, random_);
    const auto multiply = [&](int64_t begin, int64_t k, int32_t segments, float* c) {
      std::vector<float> rows;
      for (int64_t j = 0; j < kN; ++j) {
        const float* row = static_cast<const float*>(values.data()) + j * kK + begin;
        rows.insert(rows.end(), row, row + k);
      }
      Weight weight(type, kN, k, segments);
      weight.PackRows(0, kN, rows.data());
      GemmArgs args{};
      args.type = type;
      args.a = static_cast<const char*>(a.data()) + begin * SizeOf(type);
      args.a_stride = kK;
      args.m = Product::kRows;
      args.w = weight.packed();
      args.n = kN;
      args.k = k;
      args.panel_end = weight.panels();
      args.segments = segments;
      args.c = c;
      args.c_stride = kN;
      args.scratch = scratch_.data();
      table_->gemm(args);
    };
    const GuardedArray<float> whole(Product::kRows * kN);
    const GuardedArray<float> lower(Product::kRows * kN);
    const GuardedArray<float> upper(Product::kRows * kN);
    multiply(0, kK, 32, whole.data());
    multiply(0, kK / 2, 16, lower.data());
    multiply(kK / 2, kK / 2, 16, upper.data());
    for (int64_t i = 0; i < whole.size(); ++i) ASSERT_EQ(whole[i], lower[i] + upper[i]) << i;
  }
}

// --- attention -----------------------------------------------------------------------------------

TEST_P(RowInvariance, AQuerysAttentionDoesNotDependOnOtherQueries) {
  constexpr int64_t kKeyDim = 48;
  constexpr int64_t kValueDim = 40;
  constexpr int64_t kFirst = 2 * kPage;
  for (const DType type : {DType::kF32, DType::kBf16}) {
    const int64_t v_page = PackedBytes(type, kValueDim, kPage) / SizeOf(type);
    const GuardedBytes q = RandomArray(type, kPage * kKeyDim, random_);
    const GuardedBytes k = RandomArray(type, 3 * kPage * kKeyDim, random_);
    const GuardedBytes v = RandomArray(type, 3 * v_page, random_);
    const GuardedBytes all(kPage * kValueDim * SizeOf(type));
    // Every third query sees all its keys, the others some, and at least their own.
    const GuardedArray<uint64_t> selected(kPage * 3);
    for (int64_t i = 0; i < selected.size(); ++i) {
      const uint64_t own = i % 3 == 2 ? uint64_t{1} << i / 3 : 0;
      selected[i] = i / 3 % 3 == 0 ? ~uint64_t{0} : (random_.Bits() & random_.Bits()) | own;
    }
    const auto attend = [&](int64_t begin, int64_t count, void* out) {
      table_->dense_attention(
          {.type = type,
           .q = static_cast<const char*>(q.data()) + begin * kKeyDim * SizeOf(type),
           .q_stride = kKeyDim,
           .m = count,
           .first_position = kFirst + begin,
           .key_dim = kKeyDim,
           .value_dim = kValueDim,
           .k_panels = k.data(),
           .k_page_stride = kPage * kKeyDim,
           .v_panels = v.data(),
           .v_page_stride = v_page,
           .scale = 0.6f,
           .out = out,
           .out_stride = kValueDim,
           .scratch = scratch_.data(),
           .selected = selected.data() + begin * 3,
           .selected_stride = 3});
    };
    attend(0, kPage, all.data());
    for (int64_t begin = 0; begin < kPage; begin += 7) {
      for (int64_t count = 1; begin + count <= kPage; count += count < 13 ? 1 : 17) {
        const GuardedBytes some(count * kValueDim * SizeOf(type));
        attend(begin, count, some.data());
        ASSERT_EQ(FirstDifference(type, all.data(), kValueDim, some.data(), kValueDim, count,
                                  kValueDim, [&](int64_t i) { return begin + i; }),
                  "")
            << NameOf(type) << " queries [" << begin << "," << begin + count << ")";
      }
    }
  }
}

// Chunked prefill: the page that a chunk ends in holds fewer keys than it will later.
TEST_P(RowInvariance, AQuerysAttentionDoesNotDependOnLaterKeys) {
  constexpr int64_t kNope = 32;
  constexpr int64_t kValue = 24;
  constexpr int64_t kRope = 16;
  constexpr int64_t kDim = kNope + kRope;
  for (const DType type : {DType::kF32, DType::kBf16}) {
    const GuardedBytes q = RandomArray(type, kPage * kDim, random_);
    const GuardedBytes kv = RandomArray(DType::kF32, kPage * (kNope + kValue), random_);
    const GuardedBytes k_pe = RandomArray(type, kPage * kRope, random_);
    const GuardedBytes k(PackedBytes(type, kPage, kDim));
    const GuardedBytes v(PackedBytes(type, kValue, kPage));
    const auto attend = [&](int64_t queries, int64_t keys, void* out) {
      table_->pack_head({.type = type,
                         .kv = static_cast<const float*>(kv.data()),
                         .kv_stride = kNope + kValue,
                         .nope = kNope,
                         .value = kValue,
                         .rope = kRope,
                         .k_pe = k_pe.data(),
                         .k_pe_stride = kRope,
                         .valid = keys,
                         .k_panel = k.data(),
                         .v_panel = v.data()});
      table_->dense_attention({.type = type,
                               .q = q.data(),
                               .q_stride = kDim,
                               .m = queries,
                               .first_position = 0,
                               .key_dim = kDim,
                               .value_dim = kValue,
                               .k_panels = k.data(),
                               .k_page_stride = kPage * kDim,
                               .v_panels = v.data(),
                               .v_page_stride = kPage * kValue,
                               .scale = 0.5f,
                               .out = out,
                               .out_stride = kValue,
                               .scratch = scratch_.data()});
    };
    const GuardedBytes all(kPage * kValue * SizeOf(type));
    attend(kPage, kPage, all.data());
    for (const int64_t count : {1, 2, 31, 32, 63}) {
      const GuardedBytes some(count * kValue * SizeOf(type));
      attend(count, count, some.data());
      EXPECT_EQ(FirstDifference(type, all.data(), kValue, some.data(), kValue, count, kValue,
                                [](int64_t i) { return i; }),
                "")
          << NameOf(type) << " first " << count << " keys";
    }
  }
}

TEST_P(RowInvariance, AHeadsAttentionDoesNotDependOnOtherHeadsOrOnHowKeysAreNamed) {
  constexpr int64_t kHeads = 80;
  constexpr int64_t kLatent = 72;
  constexpr int64_t kRope = 6;
  constexpr int64_t kDim = kLatent + kRope;
  constexpr int64_t kCount = 300;
  constexpr int64_t kPages = kCount / kPage + 1;
  for (const DType type : {DType::kF32, DType::kBf16}) {
    const GuardedBytes q = RandomArray(type, kHeads * kDim, random_);
    const GuardedBytes keys = RandomArray(type, kPages * kPage * kDim, random_);
    const void* pages[kPages];
    for (int64_t p = 0; p < kPages; ++p) {
      pages[p] = static_cast<const char*>(keys.data()) + p * kPage * kDim * SizeOf(type);
    }
    const GuardedArray<int32_t> every(kCount);
    for (int64_t i = 0; i < kCount; ++i) every[i] = static_cast<int32_t>(i);
    const auto attend = [&](int64_t begin, int64_t count, const int32_t* positions, void* out) {
      table_->absorbed_attention(
          {.type = type,
           .q = static_cast<const char*>(q.data()) + begin * kDim * SizeOf(type),
           .q_stride = kDim,
           .heads = count,
           .latent = kLatent,
           .rope = kRope,
           .pages = pages,
           .positions = positions,
           .count = kCount,
           .scale = 0.6f,
           .out = out,
           .out_stride = kLatent,
           .scratch = scratch_.data()});
    };
    const GuardedBytes all(kHeads * kLatent * SizeOf(type));
    attend(0, kHeads, nullptr, all.data());
    for (int64_t begin = 0; begin < kHeads; begin += 9) {
      for (int64_t count = 1; begin + count <= kHeads; count += count < 18 ? 1 : 15) {
        const GuardedBytes some(count * kLatent * SizeOf(type));
        attend(begin, count, count % 2 == 0 ? every.data() : nullptr, some.data());
        ASSERT_EQ(FirstDifference(type, all.data(), kLatent, some.data(), kLatent, count, kLatent,
                                  [&](int64_t i) { return begin + i; }),
                  "")
            << NameOf(type) << " heads [" << begin << "," << begin + count << ")";
      }
    }
  }
}

// What materialised heads see of an int8 cache is what absorbed heads compute with.
TEST_P(RowInvariance, Int8RowsGiveTheBitsOfTheirDequantisedRowsWhateverRowsComeWithThem) {
  constexpr int64_t kHeads = 21;
  constexpr int64_t kCount = 700;
  constexpr int64_t kPages = kCount / kPage + 1;
  // Rows of whole vectors, and others.
  for (const auto& [latent, rope] : {std::pair<int64_t, int64_t>{128, 32}, {136, 10}}) {
    const int64_t dim = latent + rope;
    const GuardedBytes q = RandomArray(DType::kBf16, kHeads * dim, random_);
    const GuardedBytes int8 = RandomInt8Rows(kPages * kPage, latent, rope, random_);
    const GuardedBytes bf16(kPages * kPage * dim * 2);
    const auto dequantize = [&](int64_t begin, int64_t count, uint16_t* out) {
      table_->dequantize(
          {.rows = static_cast<const char*>(int8.data()) + begin * (dim + kRowScaleBytes),
           .m = count,
           .latent = latent,
           .rope = rope,
           .out = out,
           .out_stride = dim});
    };
    for (int64_t begin = 0; begin < kPages * kPage; begin += 64) {
      dequantize(begin, 64, static_cast<uint16_t*>(bf16.data()) + begin * dim);
    }
    const GuardedArray<uint16_t> row(dim);
    for (int64_t i = 0; i < kCount; i += 13) {
      dequantize(i, 1, row.data());
      ASSERT_EQ(std::memcmp(row.data(), static_cast<uint16_t*>(bf16.data()) + i * dim, dim * 2), 0)
          << i;
    }
    const void* int8_pages[kPages];
    const void* bf16_pages[kPages];
    for (int64_t p = 0; p < kPages; ++p) {
      int8_pages[p] = static_cast<const char*>(int8.data()) + p * kPage * (dim + kRowScaleBytes);
      bf16_pages[p] = static_cast<const char*>(bf16.data()) + p * kPage * dim * 2;
    }
    const GuardedArray<int32_t> some(kCount);
    int32_t position = 0;
    for (int32_t& p : some) {
      p = position;
      position +=
          1 + (position < kPages * kPage - kCount ? static_cast<int32_t>(random_.Below(2)) : 0);
    }
    ASSERT_LE(position, kPages * kPage);
    for (const int64_t heads : {int64_t{3}, kHeads}) {
      for (const int64_t count : {int64_t{1}, int64_t{255}, int64_t{257}, kCount}) {
        for (const int32_t* positions : {static_cast<int32_t*>(nullptr), some.data()}) {
          const GuardedBytes expected(heads * latent * 2);
          const GuardedBytes found(heads * latent * 2);
          const auto attend = [&](bool int8_rows, void* out) {
            table_->absorbed_attention({.type = DType::kBf16,
                                        .q = q.data(),
                                        .q_stride = dim,
                                        .heads = heads,
                                        .latent = latent,
                                        .rope = rope,
                                        .pages = int8_rows ? int8_pages : bf16_pages,
                                        .positions = positions,
                                        .count = count,
                                        .scale = 0.3f,
                                        .out = out,
                                        .out_stride = latent,
                                        .scratch = scratch_.data(),
                                        .int8_rows = int8_rows});
          };
          attend(false, expected.data());
          attend(true, found.data());
          ASSERT_EQ(
              std::memcmp(found.data(), expected.data(), static_cast<size_t>(heads) * latent * 2),
              0)
              << heads << " heads, " << count << " rows, "
              << (positions == nullptr ? "all" : "some");
        }
      }
    }
  }
}

TEST_P(RowInvariance, AQuerysIndexScoresDoNotDependOnOtherQueriesOrPages) {
  constexpr int64_t kRows = 21;
  constexpr int64_t kDim = 24;
  constexpr int64_t kPages = 3;
  for (const DType type : {DType::kF32, DType::kBf16, DType::kI8}) {
    for (const int64_t heads : {1, 5, 64, 70}) {
      const int64_t row = heads * kDim;
      const GuardedBytes q = RandomArray(type, kRows * row, random_);
      const GuardedBytes weight = RandomArray(DType::kF32, kRows * heads, random_);
      std::vector<GuardedBytes> keys;
      const void* pages[kPages];
      for (const void*& page : pages) {
        const int64_t bytes = kPage * kDim * SizeOf(type);
        const GuardedBytes values = RandomArray(type, kPage * kDim, random_);
        const GuardedBytes scales = RandomArray(DType::kF32, kPage, random_);  // for int8 only
        auto* memory = static_cast<char*>(keys.emplace_back(bytes + kPage * 4).data());
        std::memcpy(memory, values.data(), static_cast<size_t>(bytes));
        std::memcpy(memory + bytes, scales.data(), kPage * 4);
        page = memory;
      }
      const auto score = [&](int64_t begin, int64_t count, int64_t page_begin, int64_t page_end,
                             bool dense, float* out) {
        const int64_t stride = dense ? row : row + 3;
        const GuardedBytes copy(Span(count, row, stride) * SizeOf(type));
        for (int64_t i = 0; i < count; ++i) {
          std::memcpy(static_cast<char*>(copy.data()) + i * stride * SizeOf(type),
                      static_cast<const char*>(q.data()) + (begin + i) * row * SizeOf(type),
                      static_cast<size_t>(row * SizeOf(type)));
        }
        table_->index_scores({.type = type,
                              .q = copy.data(),
                              .q_stride = stride,
                              .weight = static_cast<const float*>(weight.data()) + begin * heads,
                              .weight_stride = heads,
                              .m = count,
                              .heads = heads,
                              .dim = kDim,
                              .key_pages = pages,
                              .page_begin = page_begin,
                              .page_end = page_end,
                              .scores = out,
                              .scores_stride = kPages * kPage,
                              .scratch = scratch_.data()});
      };
      const GuardedArray<float> all(kRows * kPages * kPage);
      score(0, kRows, 0, kPages, true, all.data());
      for (int64_t begin = 0; begin < kRows; begin += 4) {
        for (int64_t count = 1; begin + count <= kRows; count += 2) {
          for (const bool dense : {false, true}) {
            const GuardedArray<float> some(count * kPages * kPage);
            for (int64_t page = 0; page < kPages; ++page) {
              score(begin, count, page, page + 1, dense, some.data() + page * kPage);
            }
            ASSERT_EQ(FirstDifference(DType::kF32, all.data(), kPages * kPage, some.data(),
                                      kPages * kPage, count, kPages * kPage,
                                      [&](int64_t i) { return begin + i; }),
                      "")
                << NameOf(type) << " heads=" << heads << " queries [" << begin << ","
                << begin + count << ") dense=" << dense;
          }
        }
      }
    }
  }
}

// --- rows ----------------------------------------------------------------------------------------

TEST_P(RowInvariance, NormsAndElementOperationsTreatEachRowAlone) {
  constexpr int64_t kRows = 9;
  constexpr int64_t kCols = 300;
  const GuardedBytes values = RandomArray(DType::kF32, kRows * kCols, random_);
  const GuardedBytes weight = RandomArray(DType::kF32, kCols, random_);
  const auto* x = static_cast<const float*>(values.data());
  const auto* w = static_cast<const float*>(weight.data());
  const GuardedArray<int32_t> positions(kRows);
  for (int64_t i = 0; i < kRows; ++i) positions[i] = static_cast<int32_t>(i % 4);

  const auto norm = [&](void (*op)(const NormArgs&), int64_t begin, int64_t m, void* out) {
    NormArgs args{};
    args.x = x + begin * kCols;
    args.x_stride = kCols;
    args.m = m;
    args.n = kCols;
    args.weight = w;
    args.bias = w;
    args.eps = 1e-6f;
    args.out_f32 = static_cast<float*>(out);
    args.out_f32_stride = kCols;
    op(args);
  };
  using Run = std::function<void(int64_t begin, int64_t m, void* out)>;
  const std::pair<const char*, Run> kOps[] = {
      {"rms_norm", [&](int64_t b, int64_t m, void* out) { norm(table_->rms_norm, b, m, out); }},
      {"layer_norm", [&](int64_t b, int64_t m, void* out) { norm(table_->layer_norm, b, m, out); }},
      {"silu_mul",
       [&](int64_t b, int64_t m, void* out) {
         table_->silu_mul({.gate = x + b * kCols,
                           .up = x + b * kCols,
                           .in_stride = kCols,
                           .m = m,
                           .n = kCols,
                           .type = DType::kF32,
                           .out = out,
                           .out_stride = kCols});
       }},
      {"rotate",
       [&](int64_t b, int64_t m, void* out) {
         table_->rotate({.x = x + b * kCols,
                         .x_stride = kCols,
                         .m = m,
                         .heads = 6,
                         .head_dim = 50,
                         .rope_begin = 10,
                         .rope_dim = 40,
                         .interleaved = true,
                         .cos = w,
                         .sin = w + 80,
                         .positions = positions.data() + b,
                         .type = DType::kF32,
                         .out = out,
                         .out_stride = kCols});
       }},
      {"quantize",
       [&](int64_t b, int64_t m, void* out) {
         // Codes and scales, side by side in rows of kCols floats.
         float scale[kRows];
         int8_t codes[kRows * kCols];
         table_->quantize({.type = DType::kF32,
                           .x = x + b * kCols,
                           .x_stride = kCols,
                           .m = m,
                           .k = kCols,
                           .out = codes,
                           .out_stride = kCols,
                           .scale = scale});
         for (int64_t i = 0; i < m; ++i) {
           for (int64_t j = 0; j < kCols; ++j) {
             static_cast<float*>(out)[i * kCols + j] =
                 static_cast<float>(codes[i * kCols + j]) * scale[i];
           }
         }
       }},
  };
  for (const auto& [name, run] : kOps) {
    const GuardedArray<float> all(kRows * kCols);
    run(0, kRows, all.data());
    for (int64_t begin = 0; begin < kRows; ++begin) {
      for (int64_t m = 1; begin + m <= kRows; ++m) {
        const GuardedArray<float> some(m * kCols);
        run(begin, m, some.data());
        ASSERT_EQ(FirstDifference(DType::kF32, all.data(), kCols, some.data(), kCols, m, kCols,
                                  [&](int64_t i) { return begin + i; }),
                  "")
            << name << " rows [" << begin << "," << begin + m << ")";
      }
    }
  }
}

}  // namespace
}  // namespace causeway
