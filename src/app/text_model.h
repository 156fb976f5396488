// A checkpoint with its text side: tokenizer and chat format.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "text/chat_format.h"
#include "text/tokenizer.h"

namespace causeway {

// DIR/tokenizer.json if there is one; else one id per byte for small test vocabularies, and an
// error for others. `path` (a flag's value) overrides the place.
StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory,
                                                   const std::string& path,
                                                   const ModelConfig& config);

// "auto" chooses by model_type: V3.2 for deepseek_v32, else V3.
StatusOr<ChatFormat> ChooseChatFormat(const std::string& flag, const ModelConfig& config);

}  // namespace causeway
