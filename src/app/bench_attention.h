// The kernels of attention and of the indexer for `bench kernels`, on one thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "kernels/op_table.h"

namespace causeway {

// A kernel with shapes as the models have them.
struct AttentionKernel {
  std::string name;
  DType type = DType::kBf16;  // of its products
  double flops = 0;           // of a run; 0: none that count
  double rows = 0;            // queries, tokens or keys of a run, for its time by row
  // Runs it once; owns its operands, which are random.
  std::function<void(const OpTable& table)> run;
};

// What there is, by name: to choose from before memory is taken.
std::vector<std::string> AttentionKernelNames();
// Throws std::out_of_range for a name that is not among them.
AttentionKernel MakeAttentionKernel(const std::string& name);

}  // namespace causeway
