#include "router/engine_metrics.h"

#include <string_view>
#include <unordered_map>

namespace causeway {
namespace {

struct Family {
  std::string help;  // lines with their ends
  std::string type;
  std::string samples;
};

// The second word of "# TYPE name kind".
std::string_view NameIn(std::string_view comment) {
  const std::string_view rest = comment.substr(7);
  return rest.substr(0, rest.find(' '));
}

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

std::string MergeMetrics(const std::vector<std::pair<std::string, std::string>>& texts) {
  std::vector<std::string> order;
  std::unordered_map<std::string, Family> families;
  const auto family_of = [&](std::string_view name) -> Family& {
    const auto [found, added] = families.try_emplace(std::string(name));
    if (added) order.push_back(found->first);
    return found->second;
  };
  for (const auto& [worker, text] : texts) {
    const std::string label = "worker=\"" + Escaped(worker) + "\"";
    std::string_view present;  // the family that was described last
    std::string_view rest = text;
    while (!rest.empty()) {
      const size_t end = rest.find('\n');
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
      if (line.ends_with('\r')) line.remove_suffix(1);
      const bool is_help = line.starts_with("# HELP ");
      if (is_help || line.starts_with("# TYPE ")) {
        present = NameIn(line);
        Family& family = family_of(present);
        std::string& where = is_help ? family.help : family.type;
        if (where.empty()) where = std::string(line) + "\n";
        continue;
      }
      if (line.empty() || line.starts_with('#')) continue;
      const size_t name_end = line.find_first_of("{ \t");
      if (name_end == std::string_view::npos) continue;  // no sample
      const std::string_view name = line.substr(0, name_end);
      // A histogram's samples have suffixes.
      Family& family = family_of(!present.empty() && name.starts_with(present) ? present : name);
      family.samples += name;
      family.samples += "{" + label;
      if (line[name_end] != '{') {
        family.samples += "}";
        family.samples += line.substr(name_end);
      } else {
        const std::string_view labels = line.substr(name_end + 1);
        family.samples += labels.starts_with('}') ? "" : ",";
        family.samples += labels;
      }
      family.samples += "\n";
    }
  }
  std::string out;
  for (const std::string& name : order) {
    const Family& family = families[name];
    if (!family.samples.empty()) out += family.help + family.type + family.samples;
  }
  return out;
}

}  // namespace causeway
