#include "text/detokenizer.h"

#include <string_view>

#include "text/utf8.h"

namespace causeway {

std::string Detokenizer::Push(int32_t id) {
  if (!(skip_special_ && tokenizer_.IsSpecial(id))) pending_ += tokenizer_.TokenBytes(id);
  // All but the beginning of a character at the end is settled: bytes to come can't change it.
  const size_t settled = pending_.size() - CutUtf8Bytes(pending_);
  std::string text;
  AppendUtf8(std::string_view(pending_).substr(0, settled), &text);
  pending_.erase(0, settled);
  return text;
}

std::string Detokenizer::Flush() {
  std::string text;
  AppendUtf8(pending_, &text);
  pending_.clear();
  return text;
}

}  // namespace causeway
