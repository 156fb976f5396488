// tokenizer.json as Hugging Face writes it, to what Causeway's tokenizer is made from.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/split_pattern.h"

namespace causeway {

// Text meets `added` first, then `splits`, then the model.
struct TokenizerParts {
  BpeModel model;
  std::vector<AddedToken> added;
  std::vector<SplitPattern> splits;  // in the order they apply
};

// Refuses whatever would make the ids differ from Hugging Face's. The post-processor is not read:
// it would add BOS, which is the caller's business here. Errors name `source` and the key.
StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view json, const std::string& source);

}  // namespace causeway
