// One answer's tokens to the text that its client gets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"
#include "server/reasoning_parser.h"
#include "server/string_matcher.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace causeway {

// An expression that ends an answer where it first matches; see CompileRegexSearch.
struct StopRegex {
  std::string pattern;
  Automaton automaton;
};

// Never returns half a character, and no text that may turn out to be a stop string.
class TextStream {
 public:
  struct Options {
    std::vector<std::string> stop = {};      // the answer ends before the first of them
    std::vector<StopRegex> stop_regex = {};  // the answer ends with the first match of any
    int64_t min_tokens = 0;                  // tokens before this count don't stop
    ReasoningStart reasoning = ReasoningStart::kContent;
    bool skip_special = true;  // special tokens have no text
    // But these have, beside the marks around reasoning; null: none.
    bool (*keep_special)(std::string_view token) = nullptr;
  };
  // `tokenizer` must outlive this.
  TextStream(const Tokenizer& tokenizer, Options options);

  // The text that this token makes certain; often none, where it ends inside a character or what
  // may be a stop string.
  // Not to be called once stopped.
  TextPiece Push(int32_t token);
  // What was held back, at the end of the answer.
  TextPiece Flush();

  // A stop string or expression has come.
  bool stopped() const { return stop_.matched() || !matched_regex_.empty(); }
  // Which one.
  const std::string& stop() const { return stop_.matched() ? stop_.match() : matched_regex_; }
  // What was cut off the answer: the stop string, but no match of an expression.
  const std::string& cut() const { return stop_.match(); }
  int64_t tokens() const { return tokens_; }
  int64_t reasoning_tokens() const { return reasoning_tokens_; }
  // Complete characters of the answer so far, held back ones included.
  // In code points, as OpenAI's text_offset counts.
  int64_t characters() const { return characters_; }
  // The same after a stop: those before the stop string.
  int64_t returned_characters() const { return returned_characters_; }

 private:
  struct RegexSearch {
    StopRegex regex;
    Automaton::State state;
    bool dead = false;
  };

  // Cuts what follows the first match of a stop_regex.
  void SearchRegexes(std::string& text);
  // Divides text that is free of stop strings.
  TextPiece Divide(std::string text);
  // Whether a special token is one of the marks that divide the answer.
  bool IsMark(int32_t token) const;

  const Tokenizer& tokenizer_;
  const int64_t min_tokens_;
  const bool skip_special_;
  Detokenizer detokenizer_;
  StringMatcher stop_;
  ReasoningParser reasoning_;
  bool (*const keep_special_)(std::string_view token);
  std::vector<RegexSearch> searches_;
  std::string matched_regex_;
  int64_t tokens_ = 0;
  int64_t reasoning_tokens_ = 0;
  int64_t characters_ = 0;
  int64_t returned_characters_ = 0;
};

// Characters (code points) of valid UTF-8.
int64_t CountCharacters(std::string_view text);

}  // namespace causeway
