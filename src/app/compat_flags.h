// Flags of sglang.launch_server that command lines bring along and that change nothing here, and
// those of which only some values can be had.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "app/flags_without_effect.h"
#include "base/status.h"

namespace causeway {

struct CompatFlags {
  std::string device = "auto";
  int64_t page_size = 64;
  std::string load_format = "auto";
  int pp_size = 1;
  int dcp_size = 1;

  // After all others: a flag that `app` has already is left to it.
  void Register(CLI::App& app);
  // Refuses values that can't be had. Errors say what can.
  Status Check() const;
  // Those that were given, as "--flag: why it changes nothing".
  std::vector<std::string> Given() const { return others_.Given(); }

 private:
  FlagsWithoutEffect others_;
};

}  // namespace causeway
