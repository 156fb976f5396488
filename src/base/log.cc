#include "base/log.h"

#include <chrono>
#include <cstdio>
#include <ctime>

namespace causeway {
namespace {

// The C1 controls of UTF-8 too: U+0080 to U+009F, of which terminals obey some.
std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool c1 = c == 0xc2 && i + 1 < text.size() && (text[i + 1] & 0xe0) == 0x80;
    char escape[16] = {};
    if (c == '"' || c == '\\') {
      out += '\\';
      out += text[i];
    } else if (c == '\n') {
      out += "\\n";
    } else if (c < 0x20 || c == 0x7f || c1) {
      // Of a C1 control, the code is that of its second byte.
      std::snprintf(escape, sizeof(escape), "\\u%04x",
                    c1 ? static_cast<unsigned char>(text[++i]) : c);
      out += escape;
    } else {
      out += text[i];
    }
  }
  return out + "\"";
}

}  // namespace

LogLine::LogLine(const char* event) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  const std::time_t seconds = ms / 1000;
  std::tm tm{};
  gmtime_r(&seconds, &tm);
  char time[64];
  std::snprintf(time, sizeof(time), "time=%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900,
                tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                static_cast<int>(ms % 1000));
  line_ = time;
  Add("event", event);
}

// In one call, so that lines of several threads do not mix.
LogLine::~LogLine() { std::fprintf(stderr, "%s\n", line_.c_str()); }

void LogLine::AddText(const char* key, const std::string& text) {
  bool plain = !text.empty();
  for (const char c : text) {
    plain = plain && static_cast<unsigned char>(c) > ' ' && c != '"' && c != '=' && c != '\\' &&
            static_cast<unsigned char>(c) < 0x7f;
  }
  line_ += Text(" ", key, "=", plain ? text : Quoted(text));
}

LogLine& LogLine::AddSeconds(const char* key, double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4f", seconds);
  return Add(key, text);
}

}  // namespace causeway
