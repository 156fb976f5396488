// The tokens of a tokenizer as a tree of their bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace causeway {

// Immutable, for any number of threads.
class Vocabulary {
 public:
  // One place in the tree: the bytes from the root to here. Places stand in depth-first order, so
  // that those that go on from place i are i + 1 to end - 1.
  struct Place {
    int32_t end = 0;          // of the places that go on from here
    int32_t first_token = 0;  // of tokens(): those of place i end where those of i + 1 begin
    int32_t depth = 1;        // bytes
    uint8_t byte = 0;         // the last one
  };

  // texts[id]: the token's bytes; empty for special tokens and ids without text, which a grammar
  // never allows. kInvalidArgument unless every byte that UTF-8 has is a token by itself: else a
  // text could be begun that no token goes on with.
  static StatusOr<Vocabulary> Make(const std::vector<std::string_view>& texts);

  int64_t size() const { return static_cast<int64_t>(begin_.size()) - 1; }  // ids are below it
  const std::vector<Place>& places() const { return places_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }  // ids, in the order of places
  // The bytes of a token; empty if it has none, or there is none.
  std::string_view TextOf(int32_t id) const {
    if (id < 0 || id >= size()) return {};
    const auto at = static_cast<size_t>(id);
    return std::string_view(bytes_).substr(begin_[at], begin_[at + 1] - begin_[at]);
  }

 private:
  std::vector<Place> places_;
  std::vector<int32_t> tokens_;
  std::string bytes_;
  std::vector<size_t> begin_;  // of each id in bytes_
};

}  // namespace causeway
