// causeway bench grammar: what a constrained answer costs beside the model.
#pragma once

#include "app/command.h"

namespace causeway {

void AddBenchGrammar(CLI::App& bench, Run& run);

}  // namespace causeway
