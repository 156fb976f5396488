// What the benchmarks of whole models share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/flags.h"
#include "base/status.h"
#include "parallel/layout.h"

namespace causeway {

// Deterministic ids that exercise different experts; the model's text side is not measured.
std::vector<int32_t> BenchTokens(int64_t count, int64_t vocab);

// Of at least one value.
double Median(std::vector<double> values);

// The value of --vs, "cp-size=2,threads-per-rank=1,cp-partition=zigzag": the layout flags with some
// replaced. tp follows from the other sizes unless the text gives it.
StatusOr<Layout> ParseLayout(const std::string& text, const ModelFlags& base);

}  // namespace causeway
