// A getter returns a value inside its range even after an error: what is computed from the fields
// before anybody looks at the Status can neither overflow nor divide by zero.
#include "checkpoint/json_fields.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint/json_text.h"

namespace causeway {
namespace {

using nlohmann::json;

// What Object() hands out after an error; it outlives every reader.
const json kEmptyObject = json::object();

// What was found, short enough for a message.
std::string Found(const json* value) {
  if (value == nullptr) return "nothing";
  if (value->is_string()) return Quoted(value->get_ref<const std::string&>());
  if (value->is_object()) return "an object";
  constexpr size_t kMaxBytes = 120;
  const std::string text = value->dump(-1, ' ', /*ensure_ascii=*/true);
  return text.size() <= kMaxBytes ? text : text.substr(0, kMaxBytes) + "...";
}

// A number that fits int64_t and is in range. (Values above int64_t are unsigned for the parser.)
std::optional<int64_t> IntegerIn(const json& value, int64_t least, int64_t most) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return std::nullopt;
  const auto number = value.get<int64_t>();
  if (number < least || number > most) return std::nullopt;
  return number;
}

std::string IntegerRange(int64_t least, int64_t most) {
  return Text("an integer from ", least, " to ", most);
}

}  // namespace

StatusOr<json> ParseJsonObject(std::string_view text, const std::string& source) {
  // Twice over the text: VisitJson for its strict checks, then the library's parser, which has
  // nothing left to refuse.
  CAUSEWAY_RETURN_IF_ERROR(VisitJson(text, source, [](const JsonToken&) { return Status(); }));
  json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  CHECK(!document.is_discarded(), source);
  if (!document.is_object())
    return InvalidArgument(Text(source, ": found ", Found(&document), ", expected an object"));
  return document;
}

const json* JsonFields::Find(const std::string& key) const {
  const auto found = object_.find(key);
  return found == object_.end() ? nullptr : &*found;
}

bool JsonFields::Contains(const std::string& key) const { return Find(key) != nullptr; }

bool JsonFields::Has(const std::string& key) const {
  const json* value = Find(key);
  return value != nullptr && !value->is_null();
}

void JsonFields::Refuse(const std::string& key, const std::string& expected) {
  if (!status_.ok()) return;
  status_ = InvalidArgument(
      Text(source_, ": ", path_, key, ": found ", Found(Find(key)), ", expected ", expected));
}

int64_t JsonFields::Integer(const std::string& key, int64_t least, int64_t most,
                            std::optional<int64_t> absent) {
  if (!Has(key) && absent) return *absent;
  std::optional<int64_t> value;
  if (Has(key)) value = IntegerIn(*Find(key), least, most);
  if (!value) Refuse(key, IntegerRange(least, most));
  return value.value_or(least);
}

double JsonFields::Number(const std::string& key, double least, double most,
                          std::optional<double> absent) {
  if (!Has(key) && absent) return *absent;
  if (Has(key) && Find(key)->is_number()) {
    const auto value = Find(key)->get<double>();
    if (value >= least && value <= most) return value;
  }
  Refuse(key, Text("a number from ", least, " to ", most));
  return least;
}

bool JsonFields::Boolean(const std::string& key, bool absent) {
  if (!Has(key)) return absent;
  if (Find(key)->is_boolean()) return Find(key)->get<bool>();
  Refuse(key, "true or false");
  return absent;
}

std::string JsonFields::String(const std::string& key, std::optional<std::string> absent) {
  if (!Has(key) && absent) return *absent;
  if (Has(key) && Find(key)->is_string()) return Find(key)->get<std::string>();
  Refuse(key, "a string");
  return "";
}

std::vector<int64_t> JsonFields::Integers(const std::string& key, int64_t least, int64_t most) {
  if (!Has(key)) return {};
  const json& value = *Find(key);
  // eos_token_id is a number in some files and a list in others.
  const json list = value.is_array() ? value : json::array({value});
  std::vector<int64_t> out;
  for (const json& item : list) {
    const std::optional<int64_t> number = IntegerIn(item, least, most);
    if (!number) out.clear();
    if (!number) break;
    out.push_back(*number);
  }
  if (out.empty()) Refuse(key, IntegerRange(least, most) + ", or a list of such");
  return out;
}

std::vector<std::string> JsonFields::Strings(const std::string& key) {
  if (!Has(key)) return {};
  std::vector<std::string> out;
  for (const json& item : Find(key)->is_array() ? *Find(key) : json::array()) {
    if (!item.is_string()) out.clear();
    if (!item.is_string()) break;
    out.push_back(item.get<std::string>());
  }
  if (out.empty()) Refuse(key, "a list of strings");
  return out;
}

JsonFields JsonFields::Object(const std::string& key) {
  const json* value = Find(key);
  const bool usable = value != nullptr && value->is_object();
  if (!usable) Refuse(key, "an object");
  return JsonFields(usable ? *value : kEmptyObject, source_, Text(path_, key, "."), status_);
}

std::vector<std::string> JsonFields::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_.items()) keys.push_back(key);
  return keys;
}

}  // namespace causeway
