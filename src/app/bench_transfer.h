// causeway bench transfer: how fast keys get from a prefill cache to a decode cache.
#pragma once

#include "app/command.h"

namespace causeway {

void AddBenchTransfer(CLI::App& bench, Run& run);

}  // namespace causeway
