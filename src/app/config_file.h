// --config FILE: the flags of a command in a YAML file, as SGLang has them.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

// `arguments`: the command's name and its flags. With --config of `serve`, those of the file are
// put between the two, so that flags of the command line, which come later, win. The file is a map
// of names (without dashes in front; '_' counts as '-') to values: a scalar, true for a flag
// without a value (false leaves it out), or a list for a flag with several. Errors name the file
// and the key.
StatusOr<std::vector<std::string>> WithConfigFile(std::vector<std::string> arguments);

}  // namespace causeway
