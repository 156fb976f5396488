#include "app/config_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>

#include "checkpoint/json_text.h"

namespace causeway {
namespace {

constexpr std::string_view kFlag = "--config";
constexpr int64_t kMostBytes = int64_t{1} << 20;

// The file that --config names, as "--config FILE" or "--config=FILE".
StatusOr<std::optional<std::string>> FindConfig(const std::vector<std::string>& arguments) {
  std::optional<std::string> path;
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") break;
    const bool joined = argument.starts_with(Text(kFlag, "="));
    if (argument != kFlag && !joined) continue;
    if (path) return InvalidArgument("--config is given twice; expected one file");
    if (!joined && i + 1 == arguments.size()) return InvalidArgument("--config: no file is named");
    path = joined ? argument.substr(kFlag.size() + 1) : arguments[i + 1];
  }
  return path;
}

// Appends what one entry of the file stands for.
Status AddFlag(const std::string& path, const std::string& key, const YAML::Node& value,
               std::vector<std::string>& out) {
  std::string flag = "--" + key;
  std::replace(flag.begin(), flag.end(), '_', '-');
  if (flag == kFlag) {
    return InvalidArgument(Text("--config: ", path, " names another file under 'config'"));
  }
  if (value.IsNull()) return Status();  // "name:" alone: as if it were not there
  if (value.IsScalar()) {
    const std::string& text = value.Scalar();
    // Quoted, "true" is text like any other.
    const bool plain = value.Tag() == "?";
    if (plain && (text == "false" || text == "False")) return Status();
    out.push_back(flag);
    if (!plain || (text != "true" && text != "True")) out.push_back(text);
    return Status();
  }
  if (value.IsSequence() &&
      std::all_of(value.begin(), value.end(), [](const auto& one) { return one.IsScalar(); })) {
    out.push_back(flag);
    for (const auto& one : value) out.push_back(one.Scalar());
    return Status();
  }
  return InvalidArgument(Text("--config: ", path, ": '", key, "' in line ", value.Mark().line + 1,
                              " is a map; expected a value or a list of values"));
}

StatusOr<std::vector<std::string>> ReadFlags(const std::string& path) {
  const StatusOr<std::string> text = ReadTextFile(path, kMostBytes);
  if (!text.ok()) return InvalidArgument(Text("--config: ", text.status().message()));
  YAML::Node root;
  try {
    root = YAML::Load(*text);
  } catch (const YAML::Exception& error) {
    return InvalidArgument(
        Text("--config: ", path, " is not YAML: line ", error.mark.line + 1, ": ", error.msg));
  }
  if (!root.IsMap() && !root.IsNull()) {
    return InvalidArgument(Text("--config: ", path, " is not a map of flags to values"));
  }
  std::vector<std::string> out;
  for (const auto& entry : root) {
    if (!entry.first.IsScalar() || entry.first.Scalar().empty()) {
      return InvalidArgument(Text("--config: ", path, ": line ", entry.first.Mark().line + 1,
                                  " has no name of a flag"));
    }
    CAUSEWAY_RETURN_IF_ERROR(AddFlag(path, entry.first.Scalar(), entry.second, out));
  }
  return out;
}

}  // namespace

StatusOr<std::vector<std::string>> WithConfigFile(std::vector<std::string> arguments) {
  // Other commands have a --config of their own.
  if (arguments.empty() || arguments.front() != "serve") return arguments;
  CAUSEWAY_ASSIGN_OR_RETURN(const std::optional<std::string> path, FindConfig(arguments));
  if (!path) return arguments;
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<std::string> flags, ReadFlags(*path));
  arguments.insert(arguments.begin() + 1, flags.begin(), flags.end());
  return arguments;
}

}  // namespace causeway
