// A token passes three stages: bytes to whole characters (the detokenizer), the search for stop
// strings, and the division into reasoning and content. Each may hold text back that only later
// text decides about; Flush() empties them in the same order.
#include "server/text_stream.h"

#include <algorithm>

namespace causeway {

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

TextStream::TextStream(const Tokenizer& tokenizer, Options options)
    : tokenizer_(tokenizer),
      min_tokens_(options.min_tokens),
      skip_special_(options.skip_special),
      detokenizer_(tokenizer, options.skip_special),
      stop_(std::move(options.stop)),
      reasoning_(options.reasoning),
      keep_special_(options.keep_special) {
  for (StopRegex& regex : options.stop_regex) {
    const Automaton::State start = regex.automaton.start();
    searches_.push_back({std::move(regex), start});
  }
}

bool TextStream::IsMark(int32_t token) const {
  if (!tokenizer_.IsSpecial(token)) return false;
  const std::string_view text = tokenizer_.TokenBytes(token);
  if (keep_special_ != nullptr && keep_special_(text)) return true;
  return reasoning_.open() && (text == "<think>" || text == "</think>");
}

TextPiece TextStream::Push(int32_t token) {
  ++tokens_;
  if (reasoning_.in_reasoning()) ++reasoning_tokens_;
  // Some tokenizers have the marks as special tokens, whose text is left out otherwise.
  std::string text = detokenizer_.Push(token);
  if (skip_special_ && IsMark(token)) {
    text += detokenizer_.Flush();
    text += tokenizer_.TokenBytes(token);
  }
  characters_ += CountCharacters(text);
  // Tokens before min_tokens pass the search unseen, so that no stop string can begin in them.
  if (tokens_ > min_tokens_) {
    SearchRegexes(text);
    text = stop_.Push(text);
    // What may have become a stop string can't any more.
    if (!matched_regex_.empty() && !stop_.matched()) text += stop_.Flush();
  }
  return Divide(std::move(text));
}

TextPiece TextStream::Flush() {
  if (stopped()) {
    // The text before the stop string may have ended like the start of </think>.
    return reasoning_.Flush();
  }
  std::string text = detokenizer_.Flush();
  characters_ += CountCharacters(text);
  text = stop_.Push(text);
  if (!stopped()) text += stop_.Flush();
  TextPiece out = Divide(std::move(text));
  out.Append(reasoning_.Flush());
  return out;
}

void TextStream::SearchRegexes(std::string& text) {
  for (size_t i = 0; i < text.size() && matched_regex_.empty(); ++i) {
    for (RegexSearch& search : searches_) {
      if (search.dead) continue;
      Automaton& automaton = search.regex.automaton;
      if (automaton.full() || automaton.exhausted())
        search.state = automaton.ResetKeeping(search.state);
      automaton.StartWork();
      const Automaton::State next = automaton.Next(search.state, static_cast<uint8_t>(text[i]));
      // Only an expression that has to match at the start dies.
      search.dead = next == Automaton::kDead;
      if (search.dead) continue;
      search.state = next;
      if (automaton.Accepts(next)) {
        matched_regex_ = search.regex.pattern;
        text.resize(i + 1);
        break;
      }
    }
  }
}

TextPiece TextStream::Divide(std::string text) {
  // Counted after the search for stop strings: what it holds back is not part of the answer yet.
  returned_characters_ += CountCharacters(text);
  return reasoning_.Push(std::move(text));
}

}  // namespace causeway
