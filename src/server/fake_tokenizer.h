// A tokenizer for tests: ids 0 to 2 are special, 10 to 265 are bytes, from 300 on longer pieces.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace causeway {

class FakeTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kBos = 0;
  static constexpr int32_t kEos = 1;
  static constexpr int32_t kThinkEnd = 2;  // special, as in some tokenizers
  static constexpr int64_t kVocabulary = 400;

  FakeTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_.push_back(std::string(1, static_cast<char>(i)));
  }

  static int32_t ByteId(char c) { return 10 + static_cast<uint8_t>(c); }
  // The piece must be one of kPieces.
  int32_t PieceId(std::string_view piece) const { return *TokenId(piece); }

  // Bytes only: pieces never come out of it, so that tests choose when a token has several bytes.
  std::vector<int32_t> Encode(std::string_view text, bool parse_special) const override {
    std::vector<int32_t> out;
    while (!text.empty()) {
      if (parse_special && text.starts_with("<bos>")) {
        out.push_back(kBos);
        text.remove_prefix(5);
      } else {
        out.push_back(ByteId(text.front()));
        text.remove_prefix(1);
      }
    }
    return out;
  }
  std::string_view TokenBytes(int32_t id) const override {
    if (id == kBos) return "<bos>";
    if (id == kEos) return "<eos>";
    if (id == kThinkEnd) return "</think>";
    if (id >= 10 && id < 266) return bytes_[static_cast<size_t>(id - 10)];
    const auto piece = static_cast<size_t>(id - 300);
    return id >= 300 && piece < std::size(kPieces) ? kPieces[piece] : std::string_view();
  }
  bool IsSpecial(int32_t id) const override { return id >= 0 && id <= kThinkEnd; }
  std::optional<int32_t> TokenId(std::string_view text) const override {
    for (int32_t id = 0; id < kVocabulary; ++id) {
      if (!text.empty() && TokenBytes(id) == text) return id;
    }
    return std::nullopt;
  }
  int64_t size() const override { return 300 + static_cast<int64_t>(std::size(kPieces)); }

 private:
  static constexpr std::string_view kPieces[] = {"Hel", "lo", " wor", "ld", "STOP", "abSTOPcd"};
  std::vector<std::string> bytes_;
};

}  // namespace causeway
