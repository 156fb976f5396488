// causeway bench decode: seconds a token, beside what memory can deliver.
#pragma once

#include "app/command.h"

namespace causeway {

void AddBenchDecode(CLI::App& bench, Run& run);

}  // namespace causeway
