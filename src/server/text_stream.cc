// A token passes three stages: bytes to whole characters (the detokenizer), the search for stop
// strings, and, while the answer reasons, the search for </think>. Each may hold text back that
// only later text decides about; Flush() empties them in the same order.
#include "server/text_stream.h"

#include <algorithm>

namespace causeway {
namespace {

constexpr const char* kThinkEnd = "</think>";

}  // namespace

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

TextStream::TextStream(const Tokenizer& tokenizer, Options options)
    : tokenizer_(tokenizer),
      min_tokens_(options.min_tokens),
      detokenizer_(tokenizer, options.skip_special),
      stop_(std::move(options.stop)),
      think_end_({kThinkEnd}),
      in_reasoning_(options.reasoning) {
  for (StopRegex& regex : options.stop_regex) {
    const Automaton::State start = regex.automaton.start();
    searches_.push_back({std::move(regex), start});
  }
}

TextPiece TextStream::Push(int32_t token) {
  ++tokens_;
  if (in_reasoning_) ++reasoning_tokens_;
  TextPiece out;
  // In some tokenizers </think> is a special token, which has no text.
  if (in_reasoning_ && tokenizer_.IsSpecial(token) && tokenizer_.TokenBytes(token) == kThinkEnd) {
    out.reasoning = think_end_.Flush();
    in_reasoning_ = false;
    return out;
  }
  std::string text = detokenizer_.Push(token);
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
    return {.reasoning = in_reasoning_ ? think_end_.Flush() : "", .content = {}};
  }
  std::string text = detokenizer_.Flush();
  characters_ += CountCharacters(text);
  text = stop_.Push(text);
  if (!stopped()) text += stop_.Flush();
  TextPiece out = Divide(std::move(text));
  if (in_reasoning_) out.reasoning += think_end_.Flush();
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
  TextPiece out;
  if (!in_reasoning_) {
    out.content = std::move(text);
    return out;
  }
  // rest() is what followed </think> in this piece: already the content's.
  out.reasoning = think_end_.Push(text);
  if (think_end_.matched()) {
    in_reasoning_ = false;
    out.content = think_end_.rest();
  }
  return out;
}

}  // namespace causeway
