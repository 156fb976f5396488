// JSON of requests and answers.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace causeway {

// Keeps the order of keys: clients and prompts see what was written.
using Json = nlohmann::ordered_json;

// Strict: refuses broken syntax and UTF-8, keys that appear twice, more than 64 levels or two
// million values, numbers beyond double, anything after the value. Errors start with `source`.
// Integers beyond int64 become floating point.
StatusOr<Json> ParseOrderedJson(std::string_view text, const std::string& source);

// Compact text; broken UTF-8 becomes U+FFFD.
std::string Dump(const Json& json);

// What was found, for messages: the value itself if it is short, else its kind and size.
std::string DescribeJson(const Json& json);

}  // namespace causeway
