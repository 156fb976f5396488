#include "app/text_model.h"

#include <filesystem>

namespace causeway {

StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory,
                                                   const std::string& path,
                                                   const ModelConfig& config) {
  // A flag that names a file must not fall back to another one.
  if (!path.empty()) return Tokenizer::Load(path);
  const std::string found = directory + "/tokenizer.json";
  if (std::filesystem::exists(found)) return Tokenizer::Load(found);
  // Bytes as tokens are for small test vocabularies; a real model must not run on them unnoticed.
  constexpr int64_t kLargestByteVocabulary = 8192;
  if (config.vocab_size > kLargestByteVocabulary) {
    return NotFound(Text("no tokenizer.json in ", directory,
                         " (--tokenizer-path names another); vocab_size is ", config.vocab_size));
  }
  return Tokenizer::Bytes(config.vocab_size, static_cast<int32_t>(config.bos_token_id),
                          static_cast<int32_t>(config.eos_token_ids.front()));
}

StatusOr<ChatFormat> ChooseChatFormat(const std::string& flag, const ModelConfig& config) {
  if (flag != "auto") return ParseChatFormat(flag);
  return config.model_type == "deepseek_v32" ? ChatFormat::kV32 : ChatFormat::kV3;
}

}  // namespace causeway
