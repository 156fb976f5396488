// The tokenizer that a tokenizer.json describes.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "text/tokenizer.h"

namespace causeway {

// From the text of a tokenizer.json; errors call it `source`.
StatusOr<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(std::string_view json,
                                                      const std::string& source);

}  // namespace causeway
