// What somebody who wrote an unknown flag may have meant.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

// The name that takes the fewest changed, added and left out characters, or that begins with the
// unknown one; nothing where all are far away.
std::optional<std::string> NearestName(std::string_view unknown,
                                       const std::vector<std::string>& names);

// After a failed parse: the message about the first flag that the chosen command does not have;
// nothing if there is none.
std::optional<std::string> DescribeUnknownFlag(const CLI::App& app);

}  // namespace causeway
