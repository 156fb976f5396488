#include "app/flags_without_effect.h"

#include "base/check.h"

namespace causeway {

void FlagsWithoutEffect::Register(CLI::App& app, std::span<const FlagWithoutEffect> flags) {
  flags_ = flags;
  for (const FlagWithoutEffect& flag : flags) {
    if (app.get_option_no_throw(flag.name) != nullptr) continue;
    const std::string help = Text("Accepted for compatibility, without effect: ", flag.why,
                                  "; default: ", flag.has_value ? "none" : "off");
    CLI::Option* option = flag.has_value ? app.add_option(flag.name, values_[flag.name], help)
                                         : app.add_flag(flag.name, switches_[flag.name], help);
    option->group("Accepted for compatibility");
  }
}

std::vector<std::string> FlagsWithoutEffect::Given() const {
  std::vector<std::string> out;
  for (const FlagWithoutEffect& flag : flags_) {
    const auto value = values_.find(flag.name);
    const auto is_on = switches_.find(flag.name);
    const bool given = (value != values_.end() && !value->second.empty()) ||
                       (is_on != switches_.end() && is_on->second);
    if (given) out.push_back(Text(flag.name, ": ", flag.why));
  }
  return out;
}

}  // namespace causeway
