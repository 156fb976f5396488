// One command of the program: registers its flags, then runs.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "base/status.h"

namespace causeway {

// Each adds a subcommand to `app` and, if that is the one chosen, sets `run`.
using Run = std::function<Status()>;
void AddGenerate(CLI::App& app, Run& run);
void AddLogits(CLI::App& app, Run& run);
void AddMakeModel(CLI::App& app, Run& run);
void AddInspect(CLI::App& app, Run& run);
void AddEval(CLI::App& app, Run& run);
void AddBench(CLI::App& app, Run& run);
void AddServe(CLI::App& app, Run& run);
void AddRoute(CLI::App& app, Run& run);
void AddUp(CLI::App& app, Run& run);
void AddDemo(CLI::App& app, Run& run);

}  // namespace causeway
