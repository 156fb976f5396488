#include "kernels/cpu/isa.h"

#include <gtest/gtest.h>

#include <set>

#include "base/view.h"

namespace causeway {
namespace {

TEST(Isa, EverySupportedTableIsCompleteAndChosenByItsName) {
  std::set<std::string> names;
  for (const OpTable* table : SupportedTables()) {
    EXPECT_TRUE(names.insert(table->name).second) << table->name;
    const auto chosen = ChooseTable(table->name);
    ASSERT_TRUE(chosen.ok()) << chosen.status().message();
    EXPECT_EQ(*chosen, table);
    EXPECT_TRUE(table->gemm && table->rms_norm && table->layer_norm && table->rotate &&
                table->silu_mul && table->quantize && table->convert && table->pack_head &&
                table->dense_attention && table->absorbed_attention && table->index_scores &&
                table->top_k)
        << table->name;
  }
  EXPECT_TRUE(names.contains("generic"));
  EXPECT_EQ(SupportedTables().back(), &kReferenceOps);
}

TEST(Isa, AnUnknownNameListsWhatThisCpuSupports) {
  for (const char* isa : {"avx9", "", "AVX2", "avx512_bf16 "}) {
    const auto chosen = ChooseTable(isa);
    ASSERT_FALSE(chosen.ok()) << isa;
    EXPECT_EQ(chosen.status().code(), StatusCode::kInvalidArgument);
    const std::string message(chosen.status().message());
    EXPECT_NE(message.find(Text("--isa is '", isa, "'")), std::string::npos) << message;
    for (const OpTable* table : SupportedTables()) {
      EXPECT_NE(message.find(table->name), std::string::npos) << message;
    }
    EXPECT_NE(message.find("auto"), std::string::npos) << message;
  }
}

TEST(Isa, AutoChoosesAFastTable) {
  const auto chosen = ChooseTable("auto");
  ASSERT_TRUE(chosen.ok()) << chosen.status().message();
  const std::vector<const OpTable*> tables = SupportedTables();
  // The fastest two are measured against each other; the rest is behind them.
  EXPECT_TRUE(*chosen == tables[0] || *chosen == tables[1]) << (*chosen)->name;
  EXPECT_NE(*chosen, &kReferenceOps);
}

TEST(Isa, ProductFlopsAreMeasuredForFloatTypes) {
  for (const DType type : {DType::kF32, DType::kBf16}) {
    EXPECT_GT(ProductFlops(kGenericOps, type), 1e6) << NameOf(type);
  }
}

}  // namespace
}  // namespace causeway
