// Broken UTF-8 is replaced as Unicode and Python do it: one U+FFFD for each longest piece that
// could have begun a character.
#include "text/utf8.h"

#include <algorithm>
#include <cstdint>

namespace causeway {
namespace {

uint8_t ByteAt(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// The number of continuation bytes after a first byte and the bounds of the first of them (they
// exclude overlong forms, surrogates and what lies beyond U+10FFFF; table 3-7 of Unicode).
struct Form {
  size_t more = 0;
  uint8_t low = 0x80;
  uint8_t high = 0xbf;
};

Form FormOf(uint8_t first) {
  if (first >= 0xc2 && first <= 0xdf) return {.more = 1};
  if (first == 0xe0) return {.more = 2, .low = 0xa0};
  if (first == 0xed) return {.more = 2, .high = 0x9f};
  if (first >= 0xe1 && first <= 0xef) return {.more = 2};
  if (first == 0xf0) return {.more = 3, .low = 0x90};
  if (first >= 0xf1 && first <= 0xf3) return {.more = 3};
  if (first == 0xf4) return {.more = 3, .high = 0x8f};
  return {};
}

}  // namespace

Utf8Step NextUtf8(std::string_view text) {
  const uint8_t first = ByteAt(text, 0);
  if (first < 0x80) return {.bytes = 1, .valid = true};
  const Form form = FormOf(first);
  if (form.more == 0) return {.bytes = 1};
  for (size_t i = 1; i <= form.more; ++i) {
    // The text ends inside what may still become a character.
    if (i == text.size()) return {.bytes = i, .cut = true};
    const uint8_t low = i == 1 ? form.low : 0x80;
    const uint8_t high = i == 1 ? form.high : 0xbf;
    if (ByteAt(text, i) < low || ByteAt(text, i) > high) return {.bytes = i};
  }
  return {.bytes = form.more + 1, .valid = true};
}

void AppendUtf8(std::string_view text, std::string* out) {
  size_t sound = 0;  // bytes before this and after the last broken piece are copied in one go
  size_t i = 0;
  while (i < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(i));
    if (!step.valid) {
      out->append(text.substr(sound, i - sound));
      out->append("\xef\xbf\xbd");
      sound = i + step.bytes;
    }
    i += step.bytes;
  }
  out->append(text.substr(sound));
}

size_t CutUtf8Bytes(std::string_view text) {
  // A character has at most three bytes before its last one.
  const size_t longest = std::min<size_t>(3, text.size());
  for (size_t bytes = 1; bytes <= longest; ++bytes) {
    const std::string_view tail = text.substr(text.size() - bytes);
    if ((ByteAt(tail, 0) & 0xc0) == 0x80) continue;  // look for the character's first byte
    const Utf8Step step = NextUtf8(tail);
    return step.cut ? bytes : 0;
  }
  return 0;
}

}  // namespace causeway
