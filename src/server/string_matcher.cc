#include "server/string_matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace causeway {

StringMatcher::StringMatcher(std::vector<std::string> needles) {
  for (std::string& text : needles) {
    CHECK(!text.empty(), "an empty string is everywhere");
    Needle needle;
    // The table of Knuth, Morris and Pratt: where to go on in the needle after a mismatch, so that
    // no byte of the text is looked at twice.
    needle.fallback.resize(text.size());
    for (size_t i = 1, length = 0; i < text.size(); ++i) {
      while (length > 0 && text[i] != text[length]) length = needle.fallback[length - 1];
      if (text[i] == text[length]) ++length;
      needle.fallback[i] = length;
    }
    needle.text = std::move(text);
    needles_.push_back(std::move(needle));
  }
}

std::string StringMatcher::Push(std::string_view text) {
  CHECK(!matched_, "after the match");
  // The states have read what was held back before: only the new bytes are walked.
  size_t at = held_.size();
  held_ += text;
  size_t longest = 0;  // of the needles' states
  for (; at < held_.size(); ++at) {
    size_t match = 0;
    longest = 0;
    for (Needle& needle : needles_) {
      size_t& state = needle.state;
      while (state > 0 && needle.text[state] != held_[at]) state = needle.fallback[state - 1];
      if (needle.text[state] == held_[at]) ++state;
      // Ends here; a longer needle may end at the same byte, so the others are looked at before
      // deciding.
      if (state == needle.text.size()) {
        match = std::max(match, state);
        state = needle.fallback[state - 1];
      }
      longest = std::max(longest, state);
    }
    if (match > 0) {
      matched_ = true;
      match_ = held_.substr(at + 1 - match, match);
      rest_ = held_.substr(at + 1);
      std::string out = held_.substr(0, at + 1 - match);
      held_.clear();
      return out;
    }
  }
  // Nothing new means nothing newly certain: `longest` was not computed.
  if (text.empty()) return {};
  // The longest state is the longest tail that may still grow into a needle; all before it is safe.
  std::string out = held_.substr(0, held_.size() - longest);
  held_.erase(0, out.size());
  return out;
}

std::string StringMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace causeway
