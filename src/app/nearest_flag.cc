#include "app/nearest_flag.h"

#include <algorithm>

#include "base/check.h"

namespace causeway {
namespace {

// Levenshtein's distance.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

std::optional<std::string> NearestName(std::string_view unknown,
                                       const std::vector<std::string>& names) {
  // A third of the name may be wrong: more, and the suggestion would be a guess.
  size_t best = std::max<size_t>(2, unknown.size() / 3) + 1;
  std::optional<std::string> nearest;
  for (const std::string& name : names) {
    const size_t distance =
        name.starts_with(unknown) && unknown.size() > 3 ? 1 : Distance(unknown, name);
    if (distance >= best) continue;
    best = distance;
    nearest = name;
  }
  return nearest;
}

std::optional<std::string> DescribeUnknownFlag(const CLI::App& app) {
  // The innermost command that was named.
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  for (const std::string& argument : app.remaining(/*recurse=*/true)) {
    if (!argument.starts_with("-")) continue;
    const std::string unknown = argument.substr(0, argument.find('='));
    std::vector<std::string> names;
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    const auto nearest = NearestName(unknown, names);
    return Text(command->get_name(), " has no flag ", unknown,
                nearest ? Text("; did you mean ", *nearest, "?") : "", " All flags: causeway ",
                command->get_name() == app.get_name() ? "" : command->get_name() + " ", "--help");
  }
  return std::nullopt;
}

}  // namespace causeway
