// causeway bench route: what the router costs.
#pragma once

#include "app/command.h"

namespace causeway {

void AddBenchRoute(CLI::App& bench, Run& run);

}  // namespace causeway
