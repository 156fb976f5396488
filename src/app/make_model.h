// Random-weight checkpoints, so that no download is needed.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace causeway {

struct MakeModelOptions {
  std::string preset;       // or:
  std::string config_path;  // a config.json
  std::string output;       // directory
  std::string format = "bf16";
  uint64_t seed = 1;
  bool tokenizer = true;  // write the demo tokenizer where the vocabulary has room for it
};

// Writes config.json, the weights and perhaps tokenizer.json. Errors name the flag, file or field.
Status MakeModel(const MakeModelOptions& options);

}  // namespace causeway
