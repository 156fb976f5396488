#include "text/json_value.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "checkpoint/json_text.h"

namespace causeway {
namespace {

constexpr size_t kMaxDepth = 64;

using Kind = JsonValue::Kind;

// Builds the tree from the parser's events. `open_` is the path from the root to the container
// that is being filled: the addresses stay, as only the innermost container grows.
class TreeEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit TreeEvents(const std::string& source) : source_(source) {}

  Status status() const { return status_; }
  JsonValue& root() { return root_; }

  bool null() override { return Add({}); }
  bool boolean(bool value) override { return Add({.kind = Kind::kBoolean, .boolean = value}); }
  bool number_integer(number_integer_t value) override { return Integer(std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Integer(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& digits) override {
    // Integers beyond 64 bits come here too; Python keeps all their digits.
    if (digits.find_first_of(".eE") == std::string::npos) return Integer(digits);
    return Add({.kind = Kind::kNumber, .text = digits});
  }
  bool string(string_t& value) override {
    return Add({.kind = Kind::kString, .text = std::move(value)});
  }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(size_t) override { return Begin(Kind::kObject); }
  bool end_object() override { return End(); }
  bool start_array(size_t) override { return Begin(Kind::kArray); }
  bool end_array() override { return End(); }
  bool key(string_t& value) override {
    if (!seen_.back().insert(value).second)
      return Fail(Text("key ", Quoted(value), " appears twice in one object"));
    open_.back()->keys.push_back(std::move(value));
    return true;
  }
  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override {
    const bool number = error.id == 406;  // nlohmann's out_of_range: a number beyond double
    return Fail(Text(number ? "number out of range" : "not valid JSON", " at byte ", position,
                     last_token.empty() ? "" : Text(", near ", Quoted(last_token))));
  }

 private:
  bool Integer(std::string digits) {
    return Add({.kind = Kind::kInteger, .text = std::move(digits)});
  }
  bool Add(JsonValue value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else {
      open_.back()->values.push_back(std::move(value));
    }
    return true;
  }
  bool Begin(Kind kind) {
    if (open_.size() == kMaxDepth) return Fail(Text("more than ", kMaxDepth, " nested levels"));
    Add({.kind = kind});
    open_.push_back(open_.empty() ? &root_ : &open_.back()->values.back());
    seen_.emplace_back();
    return true;
  }
  bool End() {
    open_.pop_back();
    seen_.pop_back();
    return true;
  }
  bool Fail(const std::string& message) {
    status_ = InvalidArgument(Text(source_, ": ", message));
    return false;
  }

  const std::string& source_;
  JsonValue root_;
  std::vector<JsonValue*> open_;
  std::vector<std::unordered_set<std::string>> seen_;  // keys of every open container
  Status status_;
};

void AppendString(const std::string& text, std::string* out) {
  constexpr char kDigits[] = "0123456789abcdef";
  *out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\f':
        *out += "\\f";
        break;
      case '\b':
        *out += "\\b";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20) {
          *out += c;
        } else {
          *out += "\\u00";
          *out += kDigits[c >> 4];
          *out += kDigits[c & 15];
        }
    }
  }
  *out += '"';
}

// Python's repr of a float: the shortest digits that give the number back, in scientific notation
// below 1e-4 and from 1e16.
void AppendFloat(const std::string& digits, std::string* out) {
  double number = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), number);
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific);
  const std::string_view scientific(buffer, static_cast<size_t>(end.ptr - buffer));
  const size_t e = scientific.find('e');
  int exponent = 0;
  const size_t sign = scientific[e + 1] == '+' ? 2 : 1;
  std::from_chars(scientific.data() + e + sign, scientific.data() + scientific.size(), exponent);
  if (exponent < -4 || exponent >= 16) {
    *out += scientific;
    return;
  }
  const auto fixed =
      std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::fixed);
  const std::string_view text(buffer, static_cast<size_t>(fixed.ptr - buffer));
  *out += text;
  if (text.find('.') == std::string_view::npos) *out += ".0";
}

void Append(const JsonValue& value, std::string* out) {
  switch (value.kind) {
    case Kind::kNull:
      *out += "null";
      break;
    case Kind::kBoolean:
      *out += value.boolean ? "true" : "false";
      break;
    case Kind::kInteger:
      *out += value.text == "-0" ? "0" : value.text;
      break;
    case Kind::kNumber:
      AppendFloat(value.text, out);
      break;
    case Kind::kString:
      AppendString(value.text, out);
      break;
    case Kind::kArray:
    case Kind::kObject:
      *out += value.IsArray() ? '[' : '{';
      for (size_t i = 0; i < value.values.size(); ++i) {
        if (i > 0) *out += ", ";
        if (value.IsObject()) {
          AppendString(value.keys[i], out);
          *out += ": ";
        }
        Append(value.values[i], out);
      }
      *out += value.IsArray() ? ']' : '}';
      break;
  }
}

}  // namespace

const JsonValue* JsonValue::Find(std::string_view key) const {
  for (size_t i = 0; i < keys.size(); ++i)
    if (keys[i] == key) return &values[i];
  return nullptr;
}

std::optional<int64_t> JsonValue::Integer() const {
  if (kind != Kind::kInteger) return std::nullopt;
  int64_t integer = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, integer);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return integer;
}

StatusOr<JsonValue> ParseJson(std::string_view json, const std::string& source) {
  // The parser takes a zero byte for the end of the text and would ignore what follows.
  if (const size_t zero = json.find('\0'); zero != std::string_view::npos)
    return InvalidArgument(Text(source, ": not valid JSON: zero byte at byte ", zero + 1));
  TreeEvents events(source);
  const bool ok = nlohmann::json::sax_parse(json.begin(), json.end(), &events);
  CHECK(ok == events.status().ok(), source);
  if (!ok) return events.status();
  return std::move(events.root());
}

std::string PythonJson(const JsonValue& value) {
  std::string out;
  Append(value, &out);
  return out;
}

std::string Describe(const JsonValue& value) {
  switch (value.kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBoolean:
      return value.boolean ? "true" : "false";
    case Kind::kInteger:
    case Kind::kNumber:
      return value.text.substr(0, 40);
    case Kind::kString:
      return Quoted(value.text);
    case Kind::kArray:
      return "an array";
    case Kind::kObject:
      return "an object";
  }
  return "nothing";
}

}  // namespace causeway
