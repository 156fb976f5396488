// Finds the first of several strings in a text that comes in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace causeway {

// Time is linear in text x needles however repetitive they are (Knuth-Morris-Pratt), since a slow
// match would hold up every client.
class StringMatcher {
 public:
  // `needles`: none of them empty; may be no needles at all.
  explicit StringMatcher(std::vector<std::string> needles);

  // What can be passed on: the text up to the match, or up to what may be the start of one. Of
  // needles that end at the same place the longest wins; else the one that ends first. Not to be
  // called after a match.
  std::string Push(std::string_view text);
  // What was held back, at the end of the text.
  std::string Flush();

  bool matched() const { return matched_; }
  const std::string& match() const { return match_; }  // the needle
  const std::string& rest() const { return rest_; }    // what followed the match in its piece

 private:
  struct Needle {
    std::string text;
    std::vector<size_t> fallback;  // [i]: longest proper prefix of text that ends its first i + 1
    size_t state = 0;              // how much of `text` ends the text so far
  };

  std::vector<Needle> needles_;
  std::string held_;
  std::string match_;
  std::string rest_;
  bool matched_ = false;
};

}  // namespace causeway
