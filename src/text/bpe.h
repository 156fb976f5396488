// Byte-pair encoding of one pre-token.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/status.h"

namespace causeway {

struct BpeModel {
  struct Token {
    std::string text;  // as in tokenizer.json, in the byte-level alphabet
    int32_t id = 0;
  };
  std::vector<Token> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // in order of rank
  bool ignore_merges = false;  // a pre-token that is a vocabulary entry is that entry, always
};

// Ids from here on are refused: tables are indexed by id.
constexpr int64_t kMaxTokens = 1 << 20;

// The bytes that a text in the byte-level alphabet stands for (every byte is one printable
// character); nullopt if it has a character outside the alphabet.
std::optional<std::string> ByteLevelDecode(std::string_view text);

class Bpe {
 public:
  // Errors name `source` and the entry: an id out of range or used twice, a byte without an entry,
  // a merge of or into something that is no entry.
  static StatusOr<Bpe> Make(const BpeModel& model, const std::string& source);

  Bpe(Bpe&&) = default;
  Bpe& operator=(Bpe&&) = default;

  // Appends the ids of a pre-token's bytes: merges, lowest rank first and leftmost among equals.
  // Takes n log n time.
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const;

  // The bytes of a token; empty for an id that is no entry. An entry outside the byte-level
  // alphabet stands for its own text.
  std::string_view TokenBytes(int32_t id) const;
  // The id of the entry with exactly these bytes.
  std::optional<int32_t> Find(std::string_view bytes) const;
  int64_t size() const { return static_cast<int64_t>(spans_.size()); }

 private:
  struct Merge {
    uint64_t pair = kNoPair;  // left id, right id
    int32_t rank = 0;
    int32_t id = 0;  // of the result
  };
  struct Span {
    uint32_t begin = 0;
    uint32_t bytes = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  Bpe() = default;
  Status AddTokens(const BpeModel& model, const std::string& source);
  Status AddMerges(const BpeModel& model, const std::string& source);
  void FindDirect(bool ignore_merges);

  const Merge* FindMerge(int32_t left, int32_t right) const;
  // Two ways to the same ids: quadratic without memory, and n log n.
  void MergeShort(std::string_view piece, std::vector<int32_t>* ids) const;
  void MergeLong(std::string_view piece, std::vector<int32_t>* ids) const;

  std::string bytes_;        // of all tokens, end to end; on the heap, so that views survive a move
  std::vector<Span> spans_;  // [id], in bytes_
  std::unordered_map<std::string_view, int32_t> by_bytes_;  // views into bytes_
  // Entries that their own merges lead to: such a pre-token needs no merging.
  std::vector<bool> direct_;  // [id]
  size_t longest_ = 0;        // bytes of the longest entry
  int32_t byte_ids_[256];
  std::vector<Merge> merges_;  // open addressing, a power of two, at most half full
};

}  // namespace causeway
