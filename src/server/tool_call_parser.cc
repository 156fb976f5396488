// A state machine over the text that has not been taken yet. Each step takes something that is
// complete, finds that it can't become what is expected, or waits; as that depends on the text
// alone and never on where it was cut, so do the events.
#include "server/tool_call_parser.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "checkpoint/json_text.h"
#include "server/json.h"

namespace causeway {
namespace {

using Kind = ToolEvent::Kind;

constexpr std::string_view kCallsBegin = "<｜tool▁calls▁begin｜>";
constexpr std::string_view kCallBegin = "<｜tool▁call▁begin｜>";
constexpr std::string_view kSeparator = "<｜tool▁sep｜>";
constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kFence = "```";
constexpr std::string_view kDsmlBegin = "<｜DSML｜function_calls>";
constexpr std::string_view kDsmlEnd = "</｜DSML｜function_calls>";
constexpr std::string_view kInvoke = "<｜DSML｜invoke name=\"";
constexpr std::string_view kInvokeEnd = "</｜DSML｜invoke>";
constexpr std::string_view kParameter = "<｜DSML｜parameter name=\"";
constexpr std::string_view kParameterType = "\" string=\"";
constexpr std::string_view kParameterEnd = "</｜DSML｜parameter>";

constexpr std::string_view kBlanks = " \t\r\n";
constexpr size_t kLongestName = 256;
// A matcher copies what follows a match in its piece: pieces are cut so that this stays linear.
constexpr size_t kPiece = 1024;

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

// As the clients' parsers see it: they allow a key twice, and any depth.
bool IsJson(std::string_view text) { return Json::accept(text); }

// The inside of a JSON string. Bytes of characters beyond ASCII pass, so that pieces may end
// anywhere.
std::string Escape(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

// What the formats have in common: marks with a name between them.
struct ToolCallParser::Grammar {
  std::vector<std::string> begin;             // of all calls; the blank lines before it are its own
  std::string_view end;                       // of all calls
  std::vector<std::string_view> call;         // before the name
  std::string_view name_end;                  // after it
  std::vector<std::string_view> open, close;  // around arguments that are JSON
  bool parameters;                            // V3.2's arguments
};

const ToolCallParser::Grammar& ToolCallParser::GrammarOf(ToolCallFormat format) {
  static const Grammar kV3 = {.begin = {std::string(kCallsBegin)},
                              .end = kCallsEnd,
                              .call = {kCallBegin, "function", kSeparator},
                              .name_end = "\n",
                              .open = {"```json"},
                              .close = {kFence, kCallEnd},
                              .parameters = false};
  static const Grammar kV31 = {.begin = {std::string(kCallsBegin)},
                               .end = kCallsEnd,
                               .call = {kCallBegin},
                               .name_end = kSeparator,
                               .open = {},
                               .close = {kCallEnd},
                               .parameters = false};
  static const Grammar kV32 = {.begin = {std::string(kDsmlBegin), Text("\n\n", kDsmlBegin)},
                               .end = kDsmlEnd,
                               .call = {kInvoke},
                               .name_end = "\">",
                               .open = {},
                               .close = {},
                               .parameters = true};
  switch (format) {
    case ToolCallFormat::kV3:
      return kV3;
    case ToolCallFormat::kV31:
      return kV31;
    case ToolCallFormat::kV32:
      return kV32;
  }
  CHECK(false, static_cast<int>(format));
}

StatusOr<ToolCallFormat> ParseToolCallFormat(const std::string& name) {
  if (name == "deepseekv3") return ToolCallFormat::kV3;
  if (name == "deepseekv31") return ToolCallFormat::kV31;
  if (name == "deepseekv32") return ToolCallFormat::kV32;
  return InvalidArgument(Text("tool-call parser: found ", Quoted(name),
                              ", expected deepseekv3, deepseekv31 or deepseekv32"));
}

const char* NameOf(ToolCallFormat format) {
  switch (format) {
    case ToolCallFormat::kV3:
      return "deepseekv3";
    case ToolCallFormat::kV31:
      return "deepseekv31";
    case ToolCallFormat::kV32:
      return "deepseekv32";
  }
  return "unknown";
}

ToolCallFormat ToolCallFormatOf(ChatFormat format) {
  switch (format) {
    case ChatFormat::kV3:
      return ToolCallFormat::kV3;
    case ChatFormat::kV31:
      return ToolCallFormat::kV31;
    case ChatFormat::kV32:
      return ToolCallFormat::kV32;
  }
  CHECK(false, static_cast<int>(format));
}

bool IsToolMark(std::string_view token) {
  return token.starts_with("<｜tool▁") || token.find("｜DSML｜") != std::string_view::npos;
}

ToolCallParser::ToolCallParser(ToolCallFormat format, std::vector<std::string> tools)
    : grammar_(GrammarOf(format)), tools_(std::move(tools)), marker_(grammar_.begin) {}

std::vector<ToolEvent> ToolCallParser::Push(std::string_view text) {
  pending_ += text;
  while (Step()) {
  }
  pending_.erase(0, std::exchange(at_, 0));
  return std::exchange(events_, {});
}

std::vector<ToolEvent> ToolCallParser::Flush() {
  // Each round ends one call that lacks its end; the text that waited in it is looked at again.
  while (state_ != State::kContent) {
    Break();
    while (Step()) {
    }
  }
  Emit(Kind::kContent, marker_.Flush());
  return std::exchange(events_, {});
}

bool ToolCallParser::Step() {
  switch (state_) {
    case State::kContent:
      return StepContent();
    case State::kSection:
      return StepSection();
    case State::kCallStart:
      return StepLiterals(grammar_.call, State::kName);
    case State::kName:
      return StepName();
    case State::kOpen:
      return StepLiterals(grammar_.open, State::kBracket);
    case State::kBracket:
      return StepBracket();
    case State::kObject:
      return StepObject();
    case State::kClose:
      return StepLiterals(grammar_.close, State::kSection);
    case State::kParameter:
      return StepParameter();
    case State::kKey:
      return StepKey();
    case State::kType:
      return StepType();
    case State::kString:
    case State::kJson:
      return StepValue();
  }
  CHECK(false, static_cast<int>(state_));
}

bool ToolCallParser::StepContent() {
  const std::string_view piece = rest().substr(0, kPiece);
  if (piece.empty()) return false;
  Emit(Kind::kContent, marker_.Push(piece));
  at_ += piece.size();
  if (marker_.matched()) {
    at_ -= marker_.rest().size();
    raw_ = marker_.match();
    called_ = false;
    state_ = State::kSection;
  }
  return true;
}

bool ToolCallParser::StepSection() {
  const Found end = Take(grammar_.end);
  if (end == Found::kYes) {
    // Marks without a call between them are text; those around calls are spent.
    if (called_) raw_.clear();
    Break();
    return true;
  }
  const Found call = Take(grammar_.call.front());
  if (call == Found::kYes) {
    literal_ = 1;
    state_ = State::kCallStart;
    return true;
  }
  if (end == Found::kWait || call == Found::kWait) return false;
  Break();
  return true;
}

bool ToolCallParser::StepLiterals(const std::vector<std::string_view>& literals, State next) {
  if (literal_ == literals.size()) {
    literal_ = 0;
    if (next == State::kSection) {
      End();
    } else {
      state_ = next;
    }
    return true;
  }
  const Found found = Take(literals[literal_]);
  if (found == Found::kWait) return false;
  if (found == Found::kYes) {
    ++literal_;
  } else {
    Break();
  }
  return true;
}

bool ToolCallParser::StepBracket() {
  const size_t blanks = rest().find_first_not_of(kBlanks);
  if (blanks == std::string_view::npos) return false;
  if (rest()[blanks] != '{') {
    Break();
    return true;
  }
  Consume(blanks);
  object_at_ = raw_.size();
  depth_ = 0;
  in_string_ = after_escape_ = false;
  Begin();
  state_ = State::kObject;
  return true;
}

bool ToolCallParser::StepName() {
  const Found found = TakeName(grammar_.name_end, name_);
  if (found == Found::kWait) return false;
  const bool known =
      tools_.empty() || std::find(tools_.begin(), tools_.end(), name_) != tools_.end();
  if (found == Found::kNo || name_.empty() || !known) {
    Break();
    return true;
  }
  keys_.clear();
  literal_ = 0;
  state_ = grammar_.parameters ? State::kParameter : State::kOpen;
  return true;
}

// Only brackets and strings are followed here, to find the end; the whole is parsed then.
bool ToolCallParser::StepObject() {
  const std::string_view text = rest();
  if (text.empty()) return false;
  size_t size = 0;
  bool whole = false;
  while (size < text.size() && !whole) {
    const char c = text[size++];
    if (after_escape_) {
      after_escape_ = false;
    } else if (in_string_) {
      if (c == '\\') after_escape_ = true;
      if (c == '"') in_string_ = false;
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if (c == '}' || c == ']') {
      whole = --depth_ == 0;
    }
  }
  Emit(Kind::kArguments, text.substr(0, size));
  Consume(size);
  if (!whole) return true;
  if (IsJson(std::string_view(raw_).substr(object_at_))) {
    state_ = State::kClose;
  } else {
    Break();
  }
  return true;
}

bool ToolCallParser::StepParameter() {
  const Found parameter = Take(kParameter);
  if (parameter == Found::kYes) {
    Begin();
    state_ = State::kKey;
    return true;
  }
  const Found end = Take(kInvokeEnd);
  if (end == Found::kYes) {
    Begin();
    Emit(Kind::kArguments, "}");
    End();
    return true;
  }
  if (parameter == Found::kWait || end == Found::kWait) return false;
  Break();
  return true;
}

bool ToolCallParser::StepKey() {
  std::string key;
  const Found found = TakeName(kParameterType, key);
  if (found == Found::kWait) return false;
  // A key twice would make the arguments say two things.
  if (found == Found::kNo || std::find(keys_.begin(), keys_.end(), key) != keys_.end()) {
    Break();
    return true;
  }
  keys_.push_back(std::move(key));
  state_ = State::kType;
  return true;
}

bool ToolCallParser::StepType() {
  const Found string = Take("true\">");
  const Found json = string == Found::kYes ? Found::kNo : Take("false\">");
  if (string == Found::kNo && json == Found::kNo) {
    Break();
    return true;
  }
  if (string != Found::kYes && json != Found::kYes) return false;
  Emit(Kind::kArguments, Text(keys_.size() > 1 ? ", \"" : "\"", Escape(keys_.back()), "\": "));
  if (string == Found::kYes) Emit(Kind::kArguments, "\"");
  value_.clear();
  marker_ = StringMatcher({std::string(kParameterEnd)});
  state_ = string == Found::kYes ? State::kString : State::kJson;
  return true;
}

bool ToolCallParser::StepValue() {
  const std::string_view piece = rest().substr(0, kPiece);
  if (piece.empty()) return false;
  const std::string text = marker_.Push(piece);
  const bool whole = marker_.matched();
  // Held back text is taken too: Break brings it back.
  at_ += piece.size() - (whole ? marker_.rest().size() : 0);
  raw_ += text;
  if (whole) raw_ += marker_.match();
  if (state_ == State::kString) {
    Emit(Kind::kArguments, Escape(text));
    if (whole) Emit(Kind::kArguments, "\"");
  } else {
    value_ += text;
    if (whole && !IsJson(value_)) {
      Break();
      return true;
    }
    // As it was written: a number keeps its digits.
    if (whole) Emit(Kind::kArguments, Trim(value_));
  }
  if (whole) state_ = State::kParameter;
  return true;
}

ToolCallParser::Found ToolCallParser::Take(std::string_view literal) {
  const size_t blanks = std::min(rest().find_first_not_of(kBlanks), rest().size());
  const std::string_view text = rest().substr(blanks);
  if (text.size() < literal.size()) {
    return literal.starts_with(text) ? Found::kWait : Found::kNo;
  }
  if (!text.starts_with(literal)) return Found::kNo;
  Consume(blanks + literal.size());
  return Found::kYes;
}

ToolCallParser::Found ToolCallParser::TakeName(std::string_view end, std::string& name) {
  const std::string_view text = rest().substr(0, kLongestName + end.size());
  const size_t size = text.find(end);
  if (size == std::string_view::npos) {
    return text.size() < kLongestName + end.size() ? Found::kWait : Found::kNo;
  }
  name = Trim(text.substr(0, size));
  Consume(size + end.size());
  return Found::kYes;
}

void ToolCallParser::Consume(size_t bytes) {
  raw_ += rest().substr(0, bytes);
  at_ += bytes;
}

void ToolCallParser::Begin() {
  if (std::exchange(begun_, true)) return;
  Emit(Kind::kCall, name_);
  if (grammar_.parameters) Emit(Kind::kArguments, "{");
}

void ToolCallParser::End() {
  Emit(Kind::kEnd);
  begun_ = false;
  called_ = true;
  raw_.clear();
  state_ = State::kSection;
}

// What has been taken is text after all, and what follows is looked at as text.
void ToolCallParser::Break() {
  if (state_ == State::kString || state_ == State::kJson) {
    if (!marker_.matched()) raw_ += marker_.Flush();
  }
  if (std::exchange(begun_, false)) Emit(Kind::kBroken);
  Emit(Kind::kContent, std::exchange(raw_, {}));
  marker_ = StringMatcher(grammar_.begin);
  state_ = State::kContent;
}

// Neighbours of one kind are joined, so that a piece of text makes few events.
void ToolCallParser::Emit(ToolEvent::Kind kind, std::string_view text) {
  const bool joins = kind == Kind::kContent || kind == Kind::kArguments;
  if (joins && text.empty()) return;
  if (joins && !events_.empty() && events_.back().kind == kind) {
    events_.back().text += text;
  } else {
    events_.push_back({kind, std::string(text)});
  }
}

void ToolCallCollector::Add(const std::vector<ToolEvent>& events) {
  for (const ToolEvent& event : events) {
    switch (event.kind) {
      case Kind::kContent:
        content_ += event.text;
        break;
      case Kind::kCall:
        open_ = {.id = {}, .name = event.text, .arguments = {}};
        break;
      case Kind::kArguments:
        open_.arguments += event.text;
        break;
      case Kind::kEnd:
        calls_.push_back(std::exchange(open_, {}));
        break;
      case Kind::kBroken:
        open_ = {};
        break;
    }
  }
}

}  // namespace causeway
