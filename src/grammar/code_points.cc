#include "grammar/code_points.h"

#include <algorithm>

#include "text/utf8.h"

namespace causeway {
namespace {

constexpr uint32_t kFirstSurrogate = 0xd800;
constexpr uint32_t kLastSurrogate = 0xdfff;

int ByteOf(const std::string& text, size_t i) { return static_cast<uint8_t>(text[i]); }

// Sequences of byte ranges that are the UTF-8 of [first, last], which are equally long in it.
void AddSequences(GrammarBuilder& b, const std::string& first, const std::string& last, size_t at,
                  std::vector<ExprId> before, std::vector<ExprId>& out) {
  const auto bytes = [&](int from, int to) { return b.Bytes(ByteSet::Range(from, to)); };
  const size_t size = first.size();
  if (at == size) {
    out.push_back(b.Sequence(std::move(before)));
    return;
  }
  const int low = ByteOf(first, at);
  const int high = ByteOf(last, at);
  // Whether all that can follow the byte does.
  const auto whole = [&](const std::string& text, char byte) {
    return std::all_of(text.begin() + static_cast<std::ptrdiff_t>(at) + 1, text.end(),
                       [&](char c) { return c == byte; });
  };
  if (whole(first, '\x80') && whole(last, '\xbf')) {
    before.push_back(bytes(low, high));
    for (size_t i = at + 1; i < size; ++i) before.push_back(bytes(0x80, 0xbf));
    out.push_back(b.Sequence(std::move(before)));
    return;
  }
  if (low == high) {
    before.push_back(bytes(low, low));
    AddSequences(b, first, last, at + 1, std::move(before), out);
    return;
  }
  // The first byte's own part, all between, the last byte's own part.
  const auto with = [&](int byte, const std::string& from, const std::string& to) {
    std::vector<ExprId> parts = before;
    parts.push_back(bytes(byte, byte));
    AddSequences(b, from, to, at + 1, std::move(parts), out);
  };
  const std::string most = last.substr(0, at + 1) + std::string(size - at - 1, '\xbf');
  const std::string least = first.substr(0, at + 1) + std::string(size - at - 1, '\x80');
  with(low, first, most);
  if (high - low > 1) {
    std::vector<ExprId> parts = before;
    parts.push_back(bytes(low + 1, high - 1));
    for (size_t i = at + 1; i < size; ++i) parts.push_back(bytes(0x80, 0xbf));
    out.push_back(b.Sequence(std::move(parts)));
  }
  with(high, least, last);
}

}  // namespace

CodePoints CodePoints::All() { return CodePoints().Add(0, kLast); }

CodePoints& CodePoints::Add(uint32_t first, uint32_t last) {
  ranges_.push_back({first, last});
  return *this;
}

CodePoints& CodePoints::Add(const CodePoints& other) {
  const std::vector<Range> ranges = other.Ranges();  // `other` may be this
  ranges_.insert(ranges_.end(), ranges.begin(), ranges.end());
  return *this;
}

std::vector<CodePoints::Range> CodePoints::Ranges() const {
  std::vector<Range> pieces;
  for (const Range& range : ranges_) {
    if (range.first < kFirstSurrogate) {
      pieces.push_back({range.first, std::min(range.last, kFirstSurrogate - 1)});
    }
    if (range.last > kLastSurrogate) {
      pieces.push_back({std::max(range.first, kLastSurrogate + 1), std::min(range.last, kLast)});
    }
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> out;
  for (const Range& piece : pieces) {
    if (!out.empty() && piece.first <= out.back().last + 1) {
      out.back().last = std::max(out.back().last, piece.last);
    } else {
      out.push_back(piece);
    }
  }
  return out;
}

CodePoints CodePoints::Not() const {
  CodePoints out;
  uint32_t next = 0;
  for (const Range& range : Ranges()) {
    if (range.first > next) out.Add(next, range.first - 1);
    next = range.last + 1;
  }
  if (next <= kLast) out.Add(next, kLast);
  return out;
}

bool CodePoints::Has(uint32_t point) const {
  const std::vector<Range> ranges = Ranges();
  return std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) {
    return point >= range.first && point <= range.last;
  });
}

std::string EncodeUtf8(uint32_t point) {
  const auto byte = [](uint32_t value) { return static_cast<char>(static_cast<uint8_t>(value)); };
  if (point < 0x80) return {byte(point)};
  if (point < 0x800) return {byte(0xc0 | point >> 6), byte(0x80 | (point & 0x3f))};
  if (point < 0x10000) {
    return {byte(0xe0 | point >> 12), byte(0x80 | (point >> 6 & 0x3f)),
            byte(0x80 | (point & 0x3f))};
  }
  return {byte(0xf0 | point >> 18), byte(0x80 | (point >> 12 & 0x3f)),
          byte(0x80 | (point >> 6 & 0x3f)), byte(0x80 | (point & 0x3f))};
}

std::string JsonSpelling(uint32_t point) {
  constexpr char kDigits[] = "0123456789abcdef";
  switch (point) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      break;
  }
  if (point >= 0x20) return EncodeUtf8(point);
  return {'\\', 'u', '0', '0', kDigits[point >> 4], kDigits[point & 15]};
}

std::optional<std::vector<uint32_t>> DecodeUtf8(std::string_view text) {
  std::vector<uint32_t> out;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (!step.valid) return std::nullopt;
    const auto first = static_cast<uint8_t>(text[0]);
    // The first byte of n has n ones in front.
    uint32_t point = step.bytes == 1 ? first : first & (0x7fu >> step.bytes);
    for (size_t i = 1; i < step.bytes; ++i) {
      point = point << 6 | (static_cast<uint8_t>(text[i]) & 0x3fu);
    }
    out.push_back(point);
    text.remove_prefix(step.bytes);
  }
  return out;
}

ExprId CharacterOf(GrammarBuilder& builder, const CodePoints& set, Spelling spelling) {
  std::vector<ExprId> parts;
  for (const CodePoints::Range& range : set.Ranges()) {
    uint32_t first = range.first;
    // By the length of their UTF-8.
    for (const uint32_t last : {0x7fu, 0x7ffu, 0xffffu, CodePoints::kLast}) {
      const uint32_t end = std::min(range.last, last);
      if (first > end) continue;
      if (last == 0x7f) {
        ByteSet plain;
        for (uint32_t point = first; point <= end; ++point) {
          const std::string text =
              spelling == Spelling::kJson ? JsonSpelling(point) : EncodeUtf8(point);
          if (text.size() == 1) {
            plain.Add(static_cast<int>(point));
          } else {
            parts.push_back(builder.Literal(text));
          }
        }
        if (plain != ByteSet()) parts.push_back(builder.Bytes(plain));
      } else {
        AddSequences(builder, EncodeUtf8(first), EncodeUtf8(end), 0, {}, parts);
      }
      first = end + 1;
    }
  }
  return builder.Choice(std::move(parts));
}

}  // namespace causeway
