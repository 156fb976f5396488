// Flags of SGLang that command lines bring along and that change nothing here.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace causeway {

struct FlagWithoutEffect {
  const char* name;  // with its dashes
  bool has_value;
  const char* why;
};

class FlagsWithoutEffect {
 public:
  // After all others: a flag that `app` has already is left to it. `flags` stay.
  void Register(CLI::App& app, std::span<const FlagWithoutEffect> flags);
  // Those that were given, as "--flag: why it changes nothing".
  std::vector<std::string> Given() const;

 private:
  std::span<const FlagWithoutEffect> flags_;
  std::map<std::string, std::string> values_;  // by the flag's name
  std::map<std::string, bool> switches_;
};

}  // namespace causeway
