// What one core can do at most, measured.
#pragma once

#include "kernels/op_table.h"
#include "model/cost.h"

namespace causeway {

// FLOPs a second of one thread in products of `type` (f32 or bf16): the best of several short runs
// of the fastest kernel here on operands that stay in the first-level caches. A share of this peak
// is a share of what any kernel of ours reaches at its best; `bench peak` (see docs/performance.md)
// says how that compares with the bare instructions.
double MeasurePeakFlops(const OpTable& table, DType type);

// The same, and what the CPU's int8 dot instruction does; without one as the other.
PeakFlops MeasurePeaks(const OpTable& table, DType mode);

}  // namespace causeway
