// causeway bench peak and causeway bench kernels: the machine and the matrix products, one thread.
#pragma once

#include "app/command.h"

namespace causeway {

void AddBenchKernels(CLI::App& bench, Run& run);

}  // namespace causeway
