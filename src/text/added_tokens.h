// The texts that become one id before anything else looks at them: <think>, end of sentence, ...
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace causeway {

struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;
  bool normalized = false;  // looked for after those that are not
};

// Finds the texts of a set: the leftmost occurrence, and of several there the longest.
class TokenFinder {
 public:
  struct Match {
    size_t begin = 0;
    size_t end = 0;
    int32_t id = 0;
  };

  void Add(std::string_view text, int32_t id);
  bool empty() const { return nodes_.size() == 1; }
  // The first occurrence that begins at or after `from`.
  std::optional<Match> Find(std::string_view text, size_t from) const;

 private:
  // A trie of bytes. Node 0 is the root.
  struct Node {
    int32_t id = -1;  // of the token that ends here, -1: none
  };
  static uint64_t Edge(uint32_t node, char byte) {
    return uint64_t{node} << 8 | static_cast<uint8_t>(byte);
  }

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::unordered_map<uint64_t, uint32_t> edges_;
  bool starts_[256] = {};  // bytes that a text of the set begins with
};

}  // namespace causeway
