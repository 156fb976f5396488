// Log lines: one event each, `key=value`, on stderr.
#pragma once

#include <string>

#include "base/check.h"

namespace causeway {

// Collects the keys of one event and writes the line when it ends.
class LogLine {
 public:
  explicit LogLine(const char* event);
  ~LogLine();
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;

  template <typename Value>
  LogLine& Add(const char* key, const Value& value) {
    AddText(key, Text(value));
    return *this;
  }
  LogLine& AddSeconds(const char* key, double seconds);

 private:
  // Values with blanks or line ends are quoted as JSON: what clients wrote can't start a line.
  void AddText(const char* key, const std::string& text);

  std::string line_;
};

}  // namespace causeway
