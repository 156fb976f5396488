// Which instruction sets this CPU has, and which table to use.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/op_table.h"

namespace causeway {

// The tables that run here, the fastest instruction set first; the reference last.
std::vector<const OpTable*> SupportedTables();

// By name, or "auto". vdpbf16ps is slower than two f32 fma on some CPUs and twice as fast on
// others, with the same bits, so auto measures both for a moment where both exist. Errors name
// --isa and list what this CPU supports.
StatusOr<const OpTable*> ChooseTable(const std::string& isa);

// FLOPs a second that the table's products of this type (f32 or bf16) reach at their best on this
// thread: the best of several short runs on operands in the first-level caches.
double ProductFlops(const OpTable& table, DType type);

}  // namespace causeway
