#include "kernels/cpu/isa.h"

#include <algorithm>
#include <vector>

#include "base/buffer.h"
#include "base/thread_team.h"
#include "kernels/cpu/bare_peak.h"
#include "kernels/packed_weight.h"

namespace causeway {

std::vector<const OpTable*> SupportedTables() {
  std::vector<const OpTable*> tables;
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (vnni && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi")) {
    tables.push_back(&kAvx512Bf16Ops);
  }
  if (vnni) tables.push_back(&kAvx512VnniOps);
  if (avx512) tables.push_back(&kAvx512Ops);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    tables.push_back(&kAvx2Ops);
  }
#endif
  tables.push_back(&kGenericOps);
  tables.push_back(&kReferenceOps);
  return tables;
}

double ProductFlops(const OpTable& table, DType type) {
  // 48 rows of 512 values and one panel: 64 KB of weights and 96 KB of widened rows at most.
  constexpr int64_t kRows = 48;
  constexpr int64_t kDepth = 512;
  constexpr int kCalls = 16;
  const ScopedFlushDenormals flush;
  const Weight weight(type, kPanel, kDepth);  // zeros take as long as other values
  const Buffer rows(kRows * kDepth * 4);
  const Buffer out(kRows * kPanel * 4);
  const Buffer scratch(kScratchBytes);
  GemmArgs args{};
  args.type = type;
  args.a = rows.data();
  args.a_stride = kDepth;
  args.m = kRows;
  args.w = weight.packed();
  args.n = kPanel;
  args.k = kDepth;
  args.panel_end = 1;
  args.segments = 1;
  args.c = out.data();
  args.c_stride = kPanel;
  args.scratch = scratch.data();
  double best = 0.0;
  for (int run = 0; run < 8; ++run) {
    const double begin = ThreadSeconds();
    for (int call = 0; call < kCalls; ++call) table.gemm(args);
    const double seconds = ThreadSeconds() - begin;
    best = std::max(best, 2.0 * kRows * kDepth * kPanel * kCalls / seconds);
  }
  return best;
}

StatusOr<const OpTable*> ChooseTable(const std::string& isa) {
  const std::vector<const OpTable*> tables = SupportedTables();
  if (isa == "auto") {
    if (tables[0] != &kAvx512Bf16Ops) return tables[0];
    // A CPU on which it loses does so by a half; noise must not choose.
    const double dot = ProductFlops(*tables[0], DType::kBf16);
    return dot >= 0.8 * ProductFlops(*tables[1], DType::kBf16) ? tables[0] : tables[1];
  }
  std::string names = "auto";
  for (const OpTable* table : tables) {
    if (isa == table->name) return table;
    names += Text(", ", table->name);
  }
  return InvalidArgument(Text("--isa is '", isa, "'; this CPU supports ", names));
}

}  // namespace causeway
