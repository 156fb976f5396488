#include "grammar/vocabulary.h"

#include <algorithm>

namespace causeway {

StatusOr<Vocabulary> Vocabulary::Make(const std::vector<std::string_view>& texts) {
  Vocabulary out;
  std::vector<bool> single(256, false);
  std::vector<int32_t> sorted;
  for (size_t id = 0; id < texts.size(); ++id) {
    out.begin_.push_back(out.bytes_.size());
    out.bytes_ += texts[id];
    if (texts[id].size() == 1) single[static_cast<uint8_t>(texts[id][0])] = true;
    if (!texts[id].empty()) sorted.push_back(static_cast<int32_t>(id));
  }
  out.begin_.push_back(out.bytes_.size());
  for (int byte = 0; byte < 256; ++byte) {
    const bool used = byte < 0xc0 || (byte >= 0xc2 && byte <= 0xf4);
    if (used && !single[static_cast<size_t>(byte)]) {
      return InvalidArgument(Text("the tokenizer has no token for the byte ", byte,
                                  " alone; constrained answers need one for each"));
    }
  }
  std::sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) {
    const std::string_view left = texts[static_cast<size_t>(a)];
    const std::string_view right = texts[static_cast<size_t>(b)];
    return left != right ? left < right : a < b;
  });
  // Sorted texts are the tree in depth-first order: each adds what it does not share with the one
  // before it.
  std::string_view before;
  std::vector<size_t> path;  // the places of `before`
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) {
      out.places_[path.back()].end = static_cast<int32_t>(out.places_.size());
    }
  };
  for (const int32_t id : sorted) {
    const std::string_view text = texts[static_cast<size_t>(id)];
    const auto differ = std::mismatch(text.begin(), text.end(), before.begin(), before.end());
    leave(static_cast<size_t>(differ.first - text.begin()));
    while (path.size() < text.size()) {
      const auto byte = static_cast<uint8_t>(text[path.size()]);
      path.push_back(out.places_.size());
      out.places_.push_back({.first_token = static_cast<int32_t>(out.tokens_.size()),
                             .depth = static_cast<int32_t>(path.size()),
                             .byte = byte});
    }
    out.tokens_.push_back(id);
    before = text;
  }
  leave(0);
  // One past the last, so that the tokens of every place have an end.
  out.places_.push_back({.end = static_cast<int32_t>(out.places_.size()),
                         .first_token = static_cast<int32_t>(out.tokens_.size()),
                         .depth = 0});
  return out;
}

}  // namespace causeway
