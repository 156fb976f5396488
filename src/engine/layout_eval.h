// Compares the logits of many layouts with those of a single rank, bit for bit.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/layout_matrix.h"

namespace causeway {

// The flags that make this case on the command line of `eval case`; on several hosts each needs its
// --node-rank and --dist-init-addr too.
std::string FlagsOf(const LayoutCase& one);

// How the logits of a case are computed: in this process, or in several.
using CaseRun = std::function<StatusOr<std::vector<float>>(const LayoutCase&)>;

// The first value of a case that is not the single rank's.
struct LogitDifference {
  LayoutCase one;
  int64_t prompt = 0;
  int64_t position = 0;
  int64_t id = 0;
  float found = 0;
  float expected = 0;

  std::string ToString() const;
};

// Over the cases that have run.
struct EvalResult {
  int64_t ran = 0;
  int64_t equal = 0;
  std::optional<LogitDifference> first;  // of the first case that differs
};

// Runs every case and compares. `expected`: the logits of all positions of the prompts, one after
// another; `progress` is called after each case. An error of a case ends it and names the case.
StatusOr<EvalResult> CompareCases(const std::vector<LayoutCase>& cases,
                                  const std::vector<std::vector<int32_t>>& prompts,
                                  const std::vector<float>& expected, const CaseRun& run,
                                  const std::function<void(const EvalResult&)>& progress);

}  // namespace causeway
