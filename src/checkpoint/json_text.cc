// The library's event parser checks syntax and UTF-8. Added here: double keys, the depth, zero
// bytes, integers beyond int64, and messages that can be shown whatever the file holds.
#include "checkpoint/json_text.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

namespace causeway {
namespace {

constexpr int kMaxDepth = 64;

using Kind = JsonToken::Kind;

// Turns the events of the parser into tokens and keeps the first error.
class TokenEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  TokenEvents(const std::string& source, const std::function<Status(const JsonToken&)>& visit)
      : source_(source), visit_(visit) {}

  const Status& status() const { return status_; }

  bool null() override { return Emit({.kind = Kind::kNull}); }
  bool boolean(bool value) override { return Emit({.kind = Kind::kBoolean, .boolean = value}); }
  bool number_integer(number_integer_t value) override { return Integer(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return Integer(static_cast<int64_t>(value));
    return Emit({.kind = Kind::kNumber, .number = static_cast<double>(value)});
  }
  bool number_float(number_float_t value, const string_t&) override {
    return Emit({.kind = Kind::kNumber, .number = value});
  }
  bool string(string_t& value) override {
    return Emit({.kind = Kind::kString, .text = std::move(value)});
  }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(size_t) override { return Begin(Kind::kObjectBegin); }
  bool end_object() override { return End(Kind::kObjectEnd); }
  bool start_array(size_t) override { return Begin(Kind::kArrayBegin); }
  bool end_array() override { return End(Kind::kArrayEnd); }
  bool key(string_t& value) override {
    if (!keys_.back().insert(value).second)
      return Fail(Text("key ", Quoted(value), " appears twice in one object"));
    return Emit({.kind = Kind::kKey, .text = std::move(value)});
  }
  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override {
    const bool number = error.id == 406;  // nlohmann's out_of_range: a number beyond double
    return Fail(Text(number ? "number out of range" : "not valid JSON", " at byte ", position,
                     last_token.empty() ? "" : Text(", near ", Quoted(last_token))));
  }

 private:
  bool Integer(int64_t value) {
    return Emit({.kind = Kind::kInteger, .integer = value, .number = static_cast<double>(value)});
  }
  // Emitted before the level is opened, and in End after it is closed: both braces have the depth
  // of the value that they enclose.
  bool Begin(Kind kind) {
    if (!Emit({.kind = kind})) return false;
    if (keys_.size() == kMaxDepth) return Fail(Text("more than ", kMaxDepth, " nested levels"));
    keys_.emplace_back();
    return true;
  }
  bool End(Kind kind) {
    keys_.pop_back();
    return Emit({.kind = kind});
  }
  bool Emit(JsonToken token) {
    token.depth = static_cast<int>(keys_.size());
    // A visitor's error ends the parse.
    status_ = visit_(token);
    return status_.ok();
  }
  bool Fail(const std::string& message) {
    status_ = InvalidArgument(Text(source_, ": ", message));
    return false;
  }

  const std::string& source_;
  const std::function<Status(const JsonToken&)>& visit_;
  std::vector<std::unordered_set<std::string>> keys_;  // of every open container
  Status status_;
};

}  // namespace

Status VisitJson(std::string_view json, const std::string& source,
                 const std::function<Status(const JsonToken&)>& visit) {
  // The parser takes a zero byte for the end of the text and would ignore what follows.
  if (const size_t zero = json.find('\0'); zero != std::string_view::npos)
    return InvalidArgument(Text(source, ": not valid JSON: zero byte at byte ", zero + 1));
  TokenEvents events(source, visit);
  const bool ok = nlohmann::json::sax_parse(json.begin(), json.end(), &events);
  CHECK(ok == events.status().ok(), source);
  return events.status();
}

StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes) {
  // O_NONBLOCK: opening a pipe by mistake must not wait for its other end.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return NotFound(Text(path, ": can't open: ", std::strerror(errno)));
  std::string text;
  Status status;
  struct stat info {};
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
    status = InvalidArgument(Text(path, ": not a regular file"));
  } else if (info.st_size > max_bytes) {
    status = InvalidArgument(
        Text(path, ": ", info.st_size, " bytes, expected at most ", max_bytes, " bytes"));
  } else {
    text.resize(static_cast<size_t>(info.st_size));
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t count = read(file, text.data() + done, text.size() - done);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) status = Unavailable(Text(path, ": can't read: ", std::strerror(errno)));
      // 0: the file has become shorter meanwhile.
      if (count <= 0) break;
      done += static_cast<size_t>(count);
    }
    text.resize(done);
  }
  close(file);
  if (!status.ok()) return status;
  return text;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kMaxBytes = 120;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text.substr(0, kMaxBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += "\\x";
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  out += '"';
  if (text.size() > kMaxBytes) out += "...";
  return out;
}

std::string Describe(const JsonToken& token) {
  switch (token.kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBoolean:
      return token.boolean ? "true" : "false";
    case Kind::kInteger:
      return Text(token.integer);
    case Kind::kNumber: {
      std::string number = Text(token.number);
      if (number.find_first_of(".e") == std::string::npos) number += ".0";  // not an integer
      return number;
    }
    case Kind::kString:
    case Kind::kKey:
      return Quoted(token.text);
    case Kind::kObjectBegin:
    case Kind::kObjectEnd:
      return "an object";
    case Kind::kArrayBegin:
    case Kind::kArrayEnd:
      return "an array";
  }
  return "nothing";
}

}  // namespace causeway
