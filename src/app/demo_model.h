// The checkpoint that commands use where none is named.
#pragma once

#include <string>

#include "base/status.h"

namespace causeway {

inline constexpr char kDemoDirectory[] = "models/demo-bench-mini-v32";

// Writes it into the directory, unless it is there, and returns the directory.
StatusOr<std::string> MakeDemoModel(const std::string& directory);

}  // namespace causeway
