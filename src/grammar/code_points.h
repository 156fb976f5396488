// Sets of characters, and what they look like in bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/grammar.h"

namespace causeway {

// A set of Unicode's code points, surrogates excluded.
class CodePoints {
 public:
  struct Range {
    uint32_t first;
    uint32_t last;
  };
  static constexpr uint32_t kLast = 0x10ffff;

  static CodePoints All();
  CodePoints& Add(uint32_t first, uint32_t last);
  CodePoints& Add(const CodePoints& other);
  CodePoints Not() const;
  bool Has(uint32_t point) const;
  bool empty() const { return Ranges().empty(); }
  // Sorted, without overlap, without surrogates.
  std::vector<Range> Ranges() const;

 private:
  std::vector<Range> ranges_;
};

// How a character is written.
enum class Spelling {
  kUtf8,  // as it is
  // As inside a JSON string, in one way only: quote, backslash and control characters escaped in
  // the shortest form, the others as they are.
  kJson,
};

// One character of the set.
ExprId CharacterOf(GrammarBuilder& builder, const CodePoints& set, Spelling spelling);

std::string EncodeUtf8(uint32_t point);
// As Spelling::kJson says.
std::string JsonSpelling(uint32_t point);
// The code points of a text; nothing if it is not valid UTF-8.
std::optional<std::vector<uint32_t>> DecodeUtf8(std::string_view text);

}  // namespace causeway
