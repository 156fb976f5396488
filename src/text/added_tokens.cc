// A trie of bytes over the tokens' texts. Most bytes of a text start no token: a table of first
// bytes skips them.
#include "text/added_tokens.h"

namespace causeway {

void TokenFinder::Add(std::string_view text, int32_t id) {
  starts_[static_cast<uint8_t>(text[0])] = true;
  uint32_t node = 0;
  for (const char byte : text) {
    const auto [edge, added] =
        edges_.try_emplace(Edge(node, byte), static_cast<uint32_t>(nodes_.size()));
    if (added) nodes_.emplace_back();
    node = edge->second;
  }
  nodes_[node].id = id;
}

std::optional<TokenFinder::Match> TokenFinder::Find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
    std::optional<Match> longest;
    uint32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      const auto edge = edges_.find(Edge(node, text[i]));
      if (edge == edges_.end()) break;
      node = edge->second;
      // Goes on: a longer token may begin with this one.
      if (nodes_[node].id >= 0) longest = Match{begin, i + 1, nodes_[node].id};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

}  // namespace causeway
