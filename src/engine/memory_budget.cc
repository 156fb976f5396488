#include "engine/memory_budget.h"

#include <algorithm>
#include <cstdio>
#include <limits>

namespace causeway {
namespace {

std::string Gib(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

std::string Describe(const MemoryBudget& budget) {
  return Text("--mem-fraction-static ", budget.fraction, " of ", Gib(budget.limit.bytes), " (",
              budget.limit.source, ") is ", Gib(budget.static_bytes()), "; the weights need ",
              Gib(budget.weight_bytes));
}

}  // namespace

StatusOr<int64_t> PagesWithin(const MemoryBudget& budget) {
  const int64_t left = budget.static_bytes() - budget.weight_bytes;
  if (left < budget.page_bytes) {
    return InvalidArgument(Text(Describe(budget), " and 64 tokens of KV cache ",
                                Gib(budget.page_bytes),
                                ": use a larger fraction, more memory, or more hosts (--nnodes)"));
  }
  // Pages have 32-bit numbers.
  return std::min<int64_t>(left / std::max<int64_t>(1, budget.page_bytes),
                           std::numeric_limits<int32_t>::max());
}

StatusOr<int64_t> PagesWithin(const MemoryBudget& budget, int64_t wanted) {
  CAUSEWAY_ASSIGN_OR_RETURN(const int64_t most, PagesWithin(budget));
  return std::min(most, wanted);
}

Status CheckPagesFit(const MemoryBudget& budget, int64_t pages) {
  const int64_t left = budget.static_bytes() - budget.weight_bytes;
  // Divided, as the product might overflow.
  if (left >= 0 && left / std::max<int64_t>(1, budget.page_bytes) >= pages) return Status();
  return InvalidArgument(Text(Describe(budget), " and --max-total-tokens ", pages * 64,
                              " tokens of KV cache ", Gib(budget.page_bytes), " each 64"));
}

}  // namespace causeway
