// --mem-fraction-static: how much KV cache fits beside the weights.
#pragma once

#include <cstdint>

#include "base/memory_limit.h"
#include "base/status.h"

namespace causeway {

// Where no flag says it: the rest is for activations and other programs.
inline constexpr double kAutomaticMemoryFraction = 0.88;

// What is known of a host's memory.
struct MemoryBudget {
  MemoryLimit limit;
  double fraction = 0.0;  // of the limit, for weights and KV cache; what is left is for activations
  int64_t weight_bytes = 0;
  int64_t page_bytes = 0;  // of 64 tokens of KV cache

  int64_t static_bytes() const {
    return static_cast<int64_t>(fraction * static_cast<double>(limit.bytes));
  }
};

// As many pages as fit; an error with the numbers if the weights leave no room for one.
StatusOr<int64_t> PagesWithin(const MemoryBudget& budget);
// The same, but no more than are wanted.
StatusOr<int64_t> PagesWithin(const MemoryBudget& budget, int64_t wanted);
// Whether so many pages fit.
Status CheckPagesFit(const MemoryBudget& budget, int64_t pages);

}  // namespace causeway
