// The regular expressions of pre-tokenisers, with the meaning they have in Hugging Face tokenizers.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace causeway {

// One Split step: cuts a text into the matches of a pattern and what lies between them
// ("Isolated").
//
// Hugging Face matches with Oniguruma and the tables of Unicode 16, we with PCRE2, whose tables are
// those of its release (10.42: Unicode 14). So a pattern is read first: constructs that mean the
// same in both are kept, white space is written out (PCRE2 counts U+180E), the general categories
// get the characters of Unicode 15 and 16 added, and anything else is refused.
class SplitPattern {
 public:
  // Room for one thread's matching.
  class Scratch {
   public:
    Scratch();
    pcre2_match_data* get() const { return data_.get(); }

   private:
    struct Free {
      void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
    };
    std::unique_ptr<pcre2_match_data, Free> data_;
  };

  // Errors name `where`, the construct, and what is supported.
  static StatusOr<SplitPattern> Regex(std::string_view pattern, const std::string& where);
  // A literal string.
  static StatusOr<SplitPattern> Literal(std::string_view pattern, const std::string& where);

  // The first match in text[from, end), which may look at all of `text`, valid UTF-8. False: none.
  // Never gives up: what is too much for the compiled code's stack is interpreted.
  bool Find(std::string_view text, size_t from, const Scratch& scratch, size_t* begin,
            size_t* end) const;

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  };

  SplitPattern() = default;
  // For PCRE2 as it is; errors are PCRE2's own, with the byte.
  static StatusOr<SplitPattern> Compile(const std::string& pattern, uint32_t options,
                                        const std::string& where);

  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_context, Free> no_limits_;
  bool compiled_ = false;  // to machine code
};

// The pattern rewritten for PCRE2. Exposed for tests.
StatusOr<std::string> TranslateRegex(std::string_view pattern, const std::string& where);

// The pattern that Hugging Face's ByteLevel pre-tokeniser applies with use_regex.
extern const char kGpt2Pattern[];

}  // namespace causeway
