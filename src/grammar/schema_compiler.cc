// A schema is a choice of its types, each made by a function of its own. References become calls of
// rules, so that recursive ones end. Whatever could be read two ways is refused rather than
// guessed.
#include "grammar/schema_compiler.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "grammar/code_points.h"
#include "grammar/regex.h"
#include "grammar/schema_merge.h"

namespace causeway {
namespace {

constexpr int kMaxDepth = 100;
constexpr int64_t kMaxSchemas = 20'000;
constexpr size_t kMaxKey = 200;         // characters
constexpr int64_t kMaxCount = 100'000;  // of minItems, maxLength and their like

// Keywords by the type that they are about.
const std::map<std::string, std::string>& TypeOfKeyword() {
  static const std::map<std::string, std::string> types = {
      {"properties", "object"}, {"required", "object"},         {"additionalProperties", "object"},
      {"items", "array"},       {"prefixItems", "array"},       {"minItems", "array"},
      {"maxItems", "array"},    {"minLength", "string"},        {"maxLength", "string"},
      {"pattern", "string"},    {"format", "string"},           {"minimum", "number"},
      {"maximum", "number"},    {"exclusiveMinimum", "number"}, {"exclusiveMaximum", "number"}};
  return types;
}

const char* PatternOfFormat(const std::string& format) {
#define CAUSEWAY_DATE "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
#define CAUSEWAY_TIME \
  "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
  // Days after the 28th are left out: not every month has them.
  if (format == "date") return CAUSEWAY_DATE;
  if (format == "time") return CAUSEWAY_TIME;
  if (format == "date-time") return CAUSEWAY_DATE "T" CAUSEWAY_TIME;
  if (format == "uuid") return "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
  if (format == "ipv4") {
    return "((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}"
           "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
  }
  if (format == "email") {
    return "[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,31})?@"
           "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?(\\.[a-z]{2,8}){1,2}";
  }
  return nullptr;
#undef CAUSEWAY_DATE
#undef CAUSEWAY_TIME
}

// As RFC 6901 writes a key of a pointer.
std::string Escaped(const std::string& key) {
  std::string out;
  for (const char c : key) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

// In the spelling of Spelling::kJson, without white space.
std::string Spelled(const SchemaJson& value) {
  return value.dump(-1, ' ', false, SchemaJson::error_handler_t::replace);
}

std::string Describe(const SchemaJson& value) {
  const std::string text = Spelled(value);
  return text.size() > 60 ? std::string(value.type_name()) : text;
}

bool IsType(const SchemaJson& value, const std::string& type) {
  if (type == "integer") {
    return value.is_number_integer() ||
           (value.is_number() && std::floor(value.get<double>()) == value.get<double>());
  }
  return type == value.type_name() || (type == "number" && value.is_number());
}

// A count of a schema, within what can be built.
StatusOr<int64_t> CountOf(const SchemaJson& schema, const char* keyword, int64_t absent,
                          const std::string& pointer) {
  const auto found = schema.find(keyword);
  if (found == schema.end()) return absent;
  const bool whole = IsType(*found, "integer");
  const double value = whole ? found->get<double>() : -1;
  if (value < 0 || value > static_cast<double>(kMaxCount)) {
    return SchemaError(
        pointer, Text(keyword, " is ", Describe(*found), "; expected an integer 0 to ", kMaxCount));
  }
  return static_cast<int64_t>(value);
}

}  // namespace

Status SchemaError(const std::string& pointer, const std::string& what) {
  return InvalidArgument(Text(pointer, ": ", what));
}

StatusOr<const SchemaJson*> SchemaCompiler::Find(const std::string& reference,
                                                 const std::string& pointer) const {
  if (reference.empty() || reference[0] != '#' || (reference.size() > 1 && reference[1] != '/')) {
    return SchemaError(pointer, Text("$ref ", Describe(reference),
                                     " is not supported; expected a place in the same schema, as "
                                     "\"#/$defs/name\""));
  }
  const SchemaJson* at = &root_;
  for (size_t begin = 1; begin < reference.size();) {
    const size_t end = std::min(reference.find('/', begin + 1), reference.size());
    std::string key = reference.substr(begin + 1, end - begin - 1);
    for (size_t i = 0; (i = key.find('~', i)) != std::string::npos; ++i) {
      if (key.compare(i, 2, "~1") == 0) {
        key.replace(i, 2, "/");
      } else if (key.compare(i, 2, "~0") == 0) {
        key.replace(i, 2, "~");
      }
    }
    const SchemaJson* next = nullptr;
    if (at->is_object() && at->contains(key)) {
      next = &(*at)[key];
    } else if (at->is_array() && !key.empty() && key.size() < 7 &&
               key.find_first_not_of("0123456789") == std::string::npos &&
               std::stoul(key) < at->size()) {
      next = &(*at)[std::stoul(key)];
    }
    if (next == nullptr) {
      return SchemaError(pointer, Text("$ref ", Describe(reference), " refers to nothing"));
    }
    at = next;
    begin = end;
  }
  return at;
}

StatusOr<RuleId> SchemaCompiler::RuleOf(const std::string& reference, const std::string& pointer,
                                        int depth) {
  if (const auto known = references_.find(reference); known != references_.end()) {
    return known->second;
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const SchemaJson* target, Find(reference, pointer));
  // Before its expression is made, which may refer to it.
  const RuleId rule = b_.AddRule(reference);
  references_[reference] = rule;
  CAUSEWAY_ASSIGN_OR_RETURN(const ExprId expr, Compile(*target, reference, depth + 1));
  b_.Define(rule, expr);
  return rule;
}

StatusOr<SchemaJson> SchemaCompiler::Flatten(const SchemaJson& schema, const std::string& pointer,
                                             int depth) {
  if (depth > kMaxDepth) {
    return SchemaError(pointer, "$ref and allOf are nested too deeply, or refer to themselves");
  }
  if (++compiled_ > kMaxSchemas) {
    return SchemaError(pointer, Text("there are more than ", kMaxSchemas, " schemas in it"));
  }
  if (!schema.is_object() || (!schema.contains("$ref") && !schema.contains("allOf"))) return schema;
  SchemaJson out = schema;
  out.erase("$ref");
  out.erase("allOf");
  const auto add = [&](const SchemaJson& part, const std::string& where) -> Status {
    CAUSEWAY_ASSIGN_OR_RETURN(const SchemaJson flat, Flatten(part, where, depth + 1));
    CAUSEWAY_ASSIGN_OR_RETURN(out, MergeSchemas(out, flat, where));
    return Status();
  };
  if (const auto reference = schema.find("$ref"); reference != schema.end()) {
    if (!reference->is_string()) return SchemaError(pointer, "$ref is not a string");
    const auto name = reference->get<std::string>();
    CAUSEWAY_ASSIGN_OR_RETURN(const SchemaJson* target, Find(name, pointer));
    CAUSEWAY_RETURN_IF_ERROR(add(*target, name));
  }
  if (const auto all = schema.find("allOf"); all != schema.end()) {
    if (!all->is_array() || all->empty()) {
      return SchemaError(pointer, "allOf is not a list of schemas");
    }
    for (size_t i = 0; i < all->size(); ++i) {
      CAUSEWAY_RETURN_IF_ERROR(add((*all)[i], Text(pointer, "/allOf/", i)));
    }
  }
  return out;
}

StatusOr<ExprId> SchemaCompiler::Compile(const SchemaJson& schema, const std::string& pointer,
                                         int depth) {
  if (depth > kMaxDepth) {
    return SchemaError(pointer, Text("it is nested more than ", kMaxDepth, " levels deep"));
  }
  if (++compiled_ > kMaxSchemas) {
    return SchemaError(pointer, Text("there are more than ", kMaxSchemas, " schemas in it"));
  }
  if (schema.is_boolean()) return schema.get<bool>() ? json_.Value() : b_.Never();
  if (!schema.is_object()) {
    return SchemaError(pointer,
                       Text("it is ", Describe(schema), "; a schema is an object, true or false"));
  }
  static const std::set<std::string> general = {"type",  "enum",  "const", "anyOf",
                                                "oneOf", "allOf", "$ref"};
  bool only_reference = schema.contains("$ref");
  for (const auto& [keyword, value] : schema.items()) {
    // false is what it is by default.
    if (IsAnnotation(keyword) || (keyword == "uniqueItems" && value == false)) continue;
    only_reference = only_reference && keyword == "$ref";
    if (!general.contains(keyword) && !TypeOfKeyword().contains(keyword)) {
      return SchemaError(pointer,
                         Text("the keyword ", keyword.substr(0, 100), " is not supported"));
    }
  }
  if (only_reference) {
    if (!schema["$ref"].is_string()) return SchemaError(pointer, "$ref is not a string");
    CAUSEWAY_ASSIGN_OR_RETURN(const RuleId rule,
                              RuleOf(schema["$ref"].get<std::string>(), pointer, depth));
    return b_.Call(rule);
  }
  if (schema.contains("$ref") || schema.contains("allOf")) {
    CAUSEWAY_ASSIGN_OR_RETURN(const SchemaJson flat, Flatten(schema, pointer, depth + 1));
    return Compile(flat, pointer, depth + 1);
  }
  for (const char* keyword : {"anyOf", "oneOf"}) {
    if (schema.contains(keyword)) return CompileAlternatives(schema, keyword, pointer, depth);
  }
  if (schema.contains("enum") || schema.contains("const")) return CompileValues(schema, pointer);
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<std::string> types, TypesOf(schema, pointer));
  if (types.empty()) return json_.Value();
  std::vector<ExprId> parts;
  for (const std::string& type : types) {
    CAUSEWAY_ASSIGN_OR_RETURN(const ExprId part, CompileType(type, schema, pointer, depth));
    parts.push_back(part);
  }
  return parts.size() == 1 ? parts[0] : b_.Choice(std::move(parts));
}

StatusOr<ExprId> SchemaCompiler::CompileAlternatives(const SchemaJson& schema, const char* keyword,
                                                     const std::string& pointer, int depth) {
  const SchemaJson& list = schema[keyword];
  if (!list.is_array() || list.empty()) {
    return SchemaError(pointer, Text(keyword, " is not a list of schemas"));
  }
  SchemaJson rest = schema;
  rest.erase(keyword);
  const bool alone = std::all_of(rest.items().begin(), rest.items().end(),
                                 [](const auto& item) { return IsAnnotation(item.key()); });
  std::vector<ExprId> parts;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = Text(pointer, "/", keyword, "/", i);
    if (alone) {
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId part, Compile(list[i], where, depth + 1));
      parts.push_back(part);
      continue;
    }
    // What stands beside the alternatives holds for each.
    CAUSEWAY_ASSIGN_OR_RETURN(const SchemaJson flat, Flatten(list[i], where, depth + 1));
    CAUSEWAY_ASSIGN_OR_RETURN(const SchemaJson both, MergeSchemas(rest, flat, where));
    CAUSEWAY_ASSIGN_OR_RETURN(const ExprId part, Compile(both, where, depth + 1));
    parts.push_back(part);
  }
  return b_.Choice(std::move(parts));
}

StatusOr<ExprId> SchemaCompiler::CompileValues(const SchemaJson& schema,
                                               const std::string& pointer) {
  for (const auto& [keyword, value] : schema.items()) {
    if (TypeOfKeyword().contains(keyword)) {
      return SchemaError(pointer,
                         Text("the keyword ", keyword, " beside enum or const is not supported"));
    }
  }
  std::vector<SchemaJson> values;
  if (const auto list = schema.find("enum"); list != schema.end()) {
    if (!list->is_array() || list->empty()) {
      return SchemaError(pointer, "enum is not a list of values");
    }
    values.assign(list->begin(), list->end());
  } else {
    values = {schema["const"]};
  }
  if (schema.contains("const")) {
    std::erase_if(values, [&](const SchemaJson& value) { return value != schema["const"]; });
  }
  if (schema.contains("type")) {
    CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<std::string> types, TypesOf(schema, pointer));
    std::erase_if(values, [&](const SchemaJson& value) {
      return std::none_of(types.begin(), types.end(),
                          [&](const std::string& type) { return IsType(value, type); });
    });
  }
  std::vector<ExprId> parts;
  for (const SchemaJson& value : values) parts.push_back(b_.Literal(Spelled(value)));
  return b_.Choice(std::move(parts));
}

StatusOr<std::vector<std::string>> SchemaCompiler::TypesOf(const SchemaJson& schema,
                                                           const std::string& pointer) const {
  std::vector<std::string> out;
  const auto type = schema.find("type");
  if (type == schema.end()) {
    for (const auto& [keyword, value] : schema.items()) {
      const auto known = TypeOfKeyword().find(keyword);
      if (known == TypeOfKeyword().end()) continue;
      if (std::find(out.begin(), out.end(), known->second) == out.end()) {
        out.push_back(known->second);
      }
    }
    return out;
  }
  const SchemaJson list = type->is_array() ? *type : SchemaJson::array({*type});
  for (const SchemaJson& one : list) {
    static const std::set<std::string> known = {"object",  "array",   "string", "number",
                                                "integer", "boolean", "null"};
    if (!one.is_string() || !known.contains(one.get<std::string>())) {
      return SchemaError(pointer, Text("type is ", Describe(one),
                                       "; expected object, array, string, number, integer, "
                                       "boolean, null or a list of them"));
    }
    out.push_back(one.get<std::string>());
  }
  if (out.empty()) return SchemaError(pointer, "type is an empty list");
  return out;
}

StatusOr<ExprId> SchemaCompiler::CompileType(const std::string& type, const SchemaJson& schema,
                                             const std::string& pointer, int depth) {
  if (type == "object") return CompileObject(schema, pointer, depth);
  if (type == "array") return CompileArray(schema, pointer, depth);
  if (type == "string") return CompileString(schema, pointer);
  if (type == "boolean") return b_.Choice({b_.Literal("true"), b_.Literal("false")});
  if (type == "null") return b_.Literal("null");
  return CompileNumber(schema, pointer, type == "integer");
}

ExprId SchemaCompiler::Member(ExprId key, ExprId value) {
  return b_.Sequence({key, b_.Literal(":"), json_.Space(), value});
}

StatusOr<ExprId> SchemaCompiler::CompileObject(const SchemaJson& schema, const std::string& pointer,
                                               int depth) {
  const SchemaJson none = SchemaJson::object();
  const bool named = schema.contains("properties");
  const SchemaJson& properties = named ? schema["properties"] : none;
  if (!properties.is_object()) return SchemaError(pointer, "properties is not an object");
  std::set<std::string> required;
  std::vector<std::string> names;
  for (const auto& [name, property] : properties.items()) names.push_back(name);
  const auto wanted = schema.find("required");
  if (wanted != schema.end()) {
    for (const SchemaJson& name : *wanted) {
      if (!wanted->is_array() || !name.is_string()) {
        return SchemaError(pointer, "required is not a list of names");
      }
      if (required.insert(name).second && !properties.contains(name)) names.push_back(name);
    }
  }
  // What other properties may be.
  const SchemaJson others =
      schema.contains("additionalProperties") ? schema["additionalProperties"] : SchemaJson(!named);
  CAUSEWAY_ASSIGN_OR_RETURN(const ExprId other,
                            Compile(others, Text(pointer, "/additionalProperties"), depth + 1));
  const ExprId unnamed = schema.contains("additionalProperties") ? other : json_.Value();
  std::vector<RuleId> members;
  std::vector<std::vector<uint32_t>> keys;
  for (const std::string& name : names) {
    const std::string where = Text(pointer, "/properties/", Escaped(name));
    ExprId value = unnamed;
    if (properties.contains(name)) {
      CAUSEWAY_ASSIGN_OR_RETURN(value, Compile(properties[name], where, depth + 1));
    }
    members.push_back(b_.AddRule(where, Member(json_.Quoted(name), value)));
    const std::optional<std::vector<uint32_t>> key = DecodeUtf8(name);
    if (!key || key->size() > kMaxKey) {
      return SchemaError(pointer, Text("it names a property of more than ", kMaxKey,
                                       " characters, or one that is not UTF-8"));
    }
    keys.push_back(*key);
  }
  const ExprId comma = b_.Sequence({b_.Literal(","), json_.Space()});
  // From the end: what may follow when some member has been written, and, never empty, the members
  // when none has.
  RuleId after = 0;
  RuleId first = 0;
  if (others == false) {
    after = b_.AddRule(pointer, b_.Empty());
    first = b_.AddRule(pointer, b_.Never());
  } else {
    const ExprId member = b_.Call(b_.AddRule(Text(pointer, "/additionalProperties"),
                                             Member(json_.StringExcept(keys), other)));
    const ExprId more = b_.Repeat(b_.Sequence({comma, member}), 0, -1);
    after = b_.AddRule(pointer, more);
    first = b_.AddRule(pointer, b_.Sequence({member, more}));
  }
  for (size_t i = names.size(); i-- > 0;) {
    const ExprId member = b_.Call(members[i]);
    std::vector<ExprId> next = {b_.Sequence({comma, member, b_.Call(after)})};
    std::vector<ExprId> begin = {b_.Sequence({member, b_.Call(after)})};
    if (!required.contains(names[i])) {
      next.push_back(b_.Call(after));
      begin.push_back(b_.Call(first));
    }
    after = b_.AddRule(pointer, b_.Choice(std::move(next)));
    first = b_.AddRule(pointer, b_.Choice(std::move(begin)));
  }
  return json_.Braced('{', b_.Call(first), '}', /*may_be_empty=*/required.empty());
}

StatusOr<ExprId> SchemaCompiler::CompileArray(const SchemaJson& schema, const std::string& pointer,
                                              int depth) {
  CAUSEWAY_ASSIGN_OR_RETURN(const int64_t min, CountOf(schema, "minItems", 0, pointer));
  CAUSEWAY_ASSIGN_OR_RETURN(const int64_t max, CountOf(schema, "maxItems", -1, pointer));
  if (max >= 0 && min > max) {
    return SchemaError(pointer, Text("minItems is ", min, ", more than maxItems, ", max));
  }
  std::vector<ExprId> prefix;
  if (const auto list = schema.find("prefixItems"); list != schema.end()) {
    if (!list->is_array()) return SchemaError(pointer, "prefixItems is not a list of schemas");
    for (size_t i = 0; i < list->size(); ++i) {
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId item,
                                Compile((*list)[i], Text(pointer, "/prefixItems/", i), depth + 1));
      prefix.push_back(item);
    }
  }
  const SchemaJson items = schema.contains("items") ? schema["items"] : SchemaJson(true);
  if (items.is_array()) {
    return SchemaError(pointer, "a list of items is not supported; its name is prefixItems");
  }
  const std::string where = Text(pointer, "/items");
  CAUSEWAY_ASSIGN_OR_RETURN(const ExprId item_expr, Compile(items, where, depth + 1));
  const ExprId item = b_.Call(b_.AddRule(where, item_expr));
  const ExprId comma = b_.Sequence({b_.Literal(","), json_.Space()});
  const auto fixed = static_cast<int64_t>(prefix.size());
  // Each rule is what may follow so many items, from the last of the prefix on.
  const int64_t least = std::max<int64_t>(min - std::max<int64_t>(fixed, 1), 0);
  const int64_t most = max < 0 ? -1 : max - std::max<int64_t>(fixed, 1);
  ExprId rest =
      most < 0 && max >= 0 ? b_.Empty() : b_.Repeat(b_.Sequence({comma, item}), least, most);
  for (int64_t i = fixed; i-- > 0;) {
    const ExprId one = prefix[static_cast<size_t>(i)];
    if (max >= 0 && i >= max) continue;
    const ExprId with = i == 0 ? b_.Sequence({one, rest}) : b_.Sequence({comma, one, rest});
    // Where it may end before this item; the brackets allow that of the first.
    const bool optional = i > 0 && i >= min;
    rest = b_.Call(b_.AddRule(pointer, optional ? b_.Optional(with) : with));
  }
  const ExprId all = fixed > 0 ? rest : b_.Sequence({item, rest});
  if (max == 0) return b_.Sequence({b_.Literal("["), json_.Space(), b_.Literal("]")});
  return json_.Braced('[', all, ']', /*may_be_empty=*/min == 0);
}

StatusOr<ExprId> SchemaCompiler::CompileString(const SchemaJson& schema,
                                               const std::string& pointer) {
  CAUSEWAY_ASSIGN_OR_RETURN(const int64_t min, CountOf(schema, "minLength", 0, pointer));
  CAUSEWAY_ASSIGN_OR_RETURN(const int64_t max, CountOf(schema, "maxLength", -1, pointer));
  if (max >= 0 && min > max) {
    return SchemaError(pointer, Text("minLength is ", min, ", more than maxLength, ", max));
  }
  const auto pattern = schema.find("pattern");
  const auto format = schema.find("format");
  if (pattern == schema.end() && format == schema.end()) return json_.StringOfLength(min, max);
  if ((pattern != schema.end() && format != schema.end()) || schema.contains("minLength") ||
      schema.contains("maxLength")) {
    return SchemaError(pointer,
                       "only one of pattern, format and a length (minLength, maxLength) is "
                       "supported of a string");
  }
  const SchemaJson& value = pattern != schema.end() ? *pattern : *format;
  if (!value.is_string()) {
    return SchemaError(pointer,
                       Text(pattern != schema.end() ? "pattern" : "format", " is not a string"));
  }
  RegexOptions options{.spelling = Spelling::kJson};
  std::string text = value.get<std::string>();
  if (pattern != schema.end()) {
    // As the standard has it: a pattern may match anywhere in the string.
    options.open_start = true;
    options.open_end = true;
  } else {
    const char* known = PatternOfFormat(text);
    if (known == nullptr) {
      return SchemaError(pointer, Text("the format ", Describe(value),
                                       " is not supported; expected date, time, date-time, uuid, "
                                       "ipv4 or email"));
    }
    text = known;
  }
  const StatusOr<ExprId> inside = ParseRegex(text, options, b_);
  if (!inside.ok()) {
    return SchemaError(pointer, Text("the pattern can't be used: ", inside.status().message()));
  }
  return b_.Sequence({b_.Literal("\""), *inside, b_.Literal("\"")});
}

StatusOr<ExprId> SchemaCompiler::CompileNumber(const SchemaJson& schema, const std::string& pointer,
                                               bool integer) {
  NumberBounds bounds;
  for (const auto& [keyword, lower, exclusive] :
       {std::tuple{"minimum", true, false}, std::tuple{"exclusiveMinimum", true, true},
        std::tuple{"maximum", false, false}, std::tuple{"exclusiveMaximum", false, true}}) {
    const auto found = schema.find(keyword);
    if (found == schema.end()) continue;
    if (!found->is_number()) {
      return SchemaError(pointer, Text(keyword, " is ", Describe(*found), "; expected a number"));
    }
    const double value = found->get<double>();
    const double whole = lower ? std::ceil(value) : std::floor(value);
    if (std::abs(value) > static_cast<double>(kMostInteger)) {
      return SchemaError(pointer, Text(keyword, " is ", Describe(*found),
                                       "; bounds of more than 18 digits are not supported"));
    }
    if (whole != value && !integer) {
      return SchemaError(pointer, Text(keyword, " is ", Describe(*found),
                                       "; of a number only whole bounds are supported"));
    }
    const int64_t bound =
        found->is_number_integer() ? found->get<int64_t>() : static_cast<int64_t>(whole);
    const bool strict = exclusive && whole == value;
    std::optional<int64_t>& present = lower ? bounds.least : bounds.most;
    bool& open = lower ? bounds.above_least : bounds.below_most;
    const bool tighter = !present || (lower ? bound > *present : bound < *present);
    open = tighter ? strict : open || (strict && bound == *present);
    if (tighter) present = bound;
  }
  return integer ? json_.Integer(bounds) : json_.Number(bounds);
}

}  // namespace causeway
