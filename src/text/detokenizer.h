// Ids to text as they come, never half a UTF-8 character.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace causeway {

// Feeds on one sequence's tokens. The concatenation of everything returned equals
// Tokenizer::Decode of all ids.
class Detokenizer {
 public:
  // `tokenizer` must outlive this.
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that became complete with this token; may be empty.
  std::string Push(int32_t id);
  // What is left at the end: an incomplete character becomes U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  std::string pending_;  // bytes that may still become a character
};

}  // namespace causeway
