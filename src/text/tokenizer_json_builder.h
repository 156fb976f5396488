// Small tokenizer.json texts for tests.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace causeway {

// A character below U+0800 as UTF-8.
inline std::string Utf8Of(int character) {
  if (character < 0x80) return std::string(1, static_cast<char>(character));
  return {static_cast<char>(0xc0 | character >> 6), static_cast<char>(0x80 | (character & 0x3f))};
}

// A byte's character in the byte-level alphabet.
inline std::string ByteLevelChar(int byte) {
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  };
  if (printable(byte)) return Utf8Of(byte);
  int others = 0;
  for (int b = 0; b < byte; ++b) others += printable(b) ? 0 : 1;
  return Utf8Of(0x100 + others);
}

// Byte b has id b; merges h+e (256), l+l (257), he+ll (258); added "<a>" (300, special), "<a>b"
// (301, special), "x<" (302, normalised, not special). Splits off runs of letters.
inline nlohmann::json SmallTokenizerJson() {
  nlohmann::json vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteLevelChar(byte)] = byte;
  vocabulary["he"] = 256;
  vocabulary["ll"] = 257;
  vocabulary["hell"] = 258;
  const auto added = [](int id, const char* content, bool special, bool normalized) {
    return nlohmann::json{{"id", id},          {"content", content}, {"single_word", false},
                          {"lstrip", false},   {"rstrip", false},    {"normalized", normalized},
                          {"special", special}};
  };
  const nlohmann::json split = {{"type", "Split"},
                                {"pattern", {{"Regex", "\\p{L}+"}}},
                                {"behavior", "Isolated"},
                                {"invert", false}};
  const nlohmann::json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return {{"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"added_tokens",
           {added(300, "<a>", true, false), added(301, "<a>b", true, false),
            added(302, "x<", false, true)}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"h e", "l l", "he ll"}}}}};
}

}  // namespace causeway
