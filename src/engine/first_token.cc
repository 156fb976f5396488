#include "engine/first_token.h"

#include "engine/wire.h"

namespace causeway {
namespace {

void Put(WireWriter& out, const std::vector<TokenLogprob>& list) {
  std::vector<int32_t> tokens;
  std::vector<double> logprobs;
  for (const TokenLogprob& one : list) {
    tokens.push_back(one.token);
    logprobs.push_back(one.logprob);
  }
  out.Put(tokens);
  out.Put(logprobs);
}

bool Get(WireReader& reader, int64_t vocab_size, std::vector<TokenLogprob>& out) {
  std::vector<int32_t> tokens;
  std::vector<double> logprobs;
  if (!reader.Get(tokens) || !reader.Get(logprobs) || tokens.size() != logprobs.size()) {
    return false;
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) return false;
    out.push_back({tokens[i], logprobs[i]});
  }
  return true;
}

}  // namespace

std::string EncodeFirstToken(const TokenOutput& token) {
  WireWriter out;
  Put(out, {{token.token, token.logprob}});
  Put(out, token.top);
  Put(out, token.listed);
  out.Put(token.cached_tokens);
  return std::move(out.bytes());
}

StatusOr<TokenOutput> DecodeFirstToken(const std::string& bytes, int64_t vocab_size) {
  WireReader reader(bytes);
  std::vector<TokenLogprob> token;
  TokenOutput out;
  if (!Get(reader, vocab_size, token) || token.size() != 1 || !Get(reader, vocab_size, out.top) ||
      !Get(reader, vocab_size, out.listed) || !reader.Get(out.cached_tokens) ||
      out.cached_tokens < 0 || !reader.AtEnd()) {
    return InternalError("the first token from the prefill server is not readable");
  }
  out.token = token[0].token;
  out.logprob = token[0].logprob;
  return out;
}

}  // namespace causeway
