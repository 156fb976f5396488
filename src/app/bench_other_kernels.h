// The kernels beside matrix products for `bench kernels`: attention, the indexer, rows.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "kernels/op_table.h"

namespace causeway {

// A kernel with shapes as the models have them.
struct OtherKernel {
  std::string name;
  DType type = DType::kBf16;  // of its products
  double flops = 0;           // of a run; 0: none that count
  double rows = 0;            // queries, tokens or keys of a run, for its time by row
  // Runs it once; owns its operands, which are random.
  std::function<void(const OpTable& table)> run;
};

// What there is, by name: to choose from before memory is taken.
std::vector<std::string> OtherKernelNames();
// Throws std::out_of_range for a name that is not among them.
OtherKernel MakeOtherKernel(const std::string& name);

}  // namespace causeway
