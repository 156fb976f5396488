// What a prefill engine tells a decode engine beside keys: the first token of the answer.
#pragma once

#include <string>

#include "base/status.h"
#include "engine/request.h"

namespace causeway {

// The token, its log-probabilities as far as they were asked for, and how many tokens of the prompt
// were cached. Log-probabilities of the prompt are not in it: the prefill server's own answer has
// them.
std::string EncodeFirstToken(const TokenOutput& token);
// kInternal unless the bytes are what Encode made, with ids of the vocabulary.
StatusOr<TokenOutput> DecodeFirstToken(const std::string& bytes, int64_t vocab_size);

}  // namespace causeway
