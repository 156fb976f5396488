// causeway make-model: a random-weight checkpoint of a preset or of a given config.json.
#include "app/make_model.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "app/command.h"
#include "app/demo_data.h"
#include "app/flags.h"
#include "app/report.h"
#include "checkpoint/model_config.h"
#include "checkpoint/random_model.h"

namespace causeway {

Status MakeModel(const MakeModelOptions& options) {
  if (options.preset.empty() == options.config_path.empty()) {
    return InvalidArgument("give either --preset or --config");
  }
  std::string config_json;
  if (!options.preset.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(config_json, PresetConfig(options.preset));
  } else {
    CAUSEWAY_ASSIGN_OR_RETURN(config_json, ReadTextFile("--config", options.config_path));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const RandomFormat format, ParseRandomFormat(options.format));
  CAUSEWAY_RETURN_IF_ERROR(
      WriteRandomModel(config_json, options.output, options.seed, format, LoadingBar()));
  // Read back: what has just been written must be a model that loads.
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(options.output));
  // A vocabulary smaller than the tokenizer's could not take its ids.
  if (options.tokenizer && config.vocab_size >= kDemoVocabulary) {
    const std::string path = options.output + "/tokenizer.json";
    std::ofstream file(path, std::ios::binary);
    file << DemoTokenizer();
    file.close();
    if (!file) return InvalidArgument(Text("can't write ", path));
  }
  return Status();
}

void AddMakeModel(CLI::App& app, Run& run) {
  auto options = std::make_shared<MakeModelOptions>();
  CLI::App* command =
      app.add_subcommand("make-model", "Random-weight checkpoint of a preset or a config.json");
  command->add_option("--preset", options->preset,
                      "tiny-v32, bench-mini-v3, bench-mini-v32 or slice-v32");
  command->add_option("--config", options->config_path, "A config.json to follow");
  command->add_option("--output", options->output, "Directory to write")->required();
  command->add_option("--format", options->format, "bf16, f32, fp8 or int8")->capture_default_str();
  command->add_option("--seed", options->seed, "Of the random weights")->capture_default_str();
  command->add_flag("!--no-tokenizer", options->tokenizer, "Write no tokenizer.json");
  command->callback([options, &run] {
    run = [options] {
      const Status status = MakeModel(*options);
      if (status.ok()) {
        std::printf("wrote %s\n", options->output.c_str());
      }
      return status;
    };
  });
}

}  // namespace causeway
