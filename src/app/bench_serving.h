// causeway bench serving: a running server under the load of many clients.
#pragma once

#include "app/command.h"

namespace causeway {

void AddBenchServing(CLI::App& bench, Run& run);

}  // namespace causeway
