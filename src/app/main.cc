// causeway: one binary, one command each for what it does.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "app/command.h"
#include "app/config_file.h"
#include "app/nearest_flag.h"
#include "app/out_of_memory.h"

namespace {

// CLI11 only says that a command is missing.
bool KnowsCommand(const CLI::App& app, const std::string& name) {
  std::string names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    if (command->get_name() == name) return true;
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  std::fprintf(stderr, "causeway: error: there is no command '%s'; expected one of %s\n",
               name.c_str(), names.c_str());
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  causeway::EndInOrderWhenOutOfMemory();
  CLI::App app("Causeway: inference server for DeepSeek V3 / V3.2 with context-parallel prefill",
               "causeway");
  app.require_subcommand(1);
  // As with SGLang, the last of several wins.
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_version_flag("--version", "causeway 0.1.0");
  // A command's callback stores here what to do; it runs after all flags have been read.
  causeway::Run run;
  causeway::AddServe(app, run);
  causeway::AddRoute(app, run);
  causeway::AddGenerate(app, run);
  causeway::AddLogits(app, run);
  causeway::AddInspect(app, run);
  causeway::AddEval(app, run);
  causeway::AddBench(app, run);
  causeway::AddMakeModel(app, run);
  causeway::AddUp(app, run);
  causeway::AddDemo(app, run);
  if (argc > 1 && argv[1][0] != '-' && !KnowsCommand(app, argv[1])) return 2;
  causeway::StatusOr<std::vector<std::string>> arguments =
      causeway::WithConfigFile({argv + 1, argv + argc});
  if (!arguments.ok()) {
    std::fprintf(stderr, "causeway: error: %s\n", arguments.status().message().c_str());
    return 2;
  }
  try {
    // CLI11 takes them from the back.
    app.parse(std::vector<std::string>(arguments->rbegin(), arguments->rend()));
  } catch (const CLI::ParseError& error) {
    // Before the rest of what is wrong: a misspelt flag is often the missing one.
    const bool by_flags = error.get_exit_code() != 0;  // 0: --help and --version
    if (const auto unknown = causeway::DescribeUnknownFlag(app); by_flags && unknown) {
      std::fprintf(stderr, "causeway: error: %s\n", unknown->c_str());
      return 2;
    }
    return app.exit(error);
  }
  try {
    const causeway::Status status = run();
    if (status.ok()) return 0;
    std::fprintf(stderr, "causeway: error: %s\n", status.message().c_str());
    return 1;
  } catch (const std::exception& failure) {  // can't start: no memory, no such CPU feature
    std::fprintf(stderr, "causeway: error: %s\n", failure.what());
    return 1;
  }
}
