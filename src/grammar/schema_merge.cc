#include "grammar/schema_merge.h"

#include <algorithm>
#include <set>

namespace causeway {
namespace {

SchemaJson AsList(const SchemaJson& value) {
  return value.is_array() ? value : SchemaJson::array({value});
}

// The types that both lists have; an integer is a number too.
SchemaJson CommonTypes(const SchemaJson& a, const SchemaJson& b) {
  SchemaJson out = SchemaJson::array();
  const auto has = [](const SchemaJson& list, const char* type) {
    return std::find(list.begin(), list.end(), type) != list.end();
  };
  for (const SchemaJson& type : AsList(a)) {
    const SchemaJson others = AsList(b);
    if (std::find(others.begin(), others.end(), type) != others.end()) {
      out.push_back(type);
    } else if ((type == "integer" && has(others, "number")) ||
               (type == "number" && has(others, "integer"))) {
      out.push_back("integer");
    }
  }
  return out;
}

// What the keyword `additionalProperties` of a schema says about a property it does not name.
const SchemaJson* Additional(const SchemaJson& schema) {
  const auto found = schema.find("additionalProperties");
  return found == schema.end() ? nullptr : &*found;
}

class Merger {
 public:
  explicit Merger(std::string pointer) : pointer_(std::move(pointer)) {}

  StatusOr<SchemaJson> Merge(const SchemaJson& a, const SchemaJson& b, int depth) {
    if (depth > 64) return SchemaError(pointer_, "allOf is nested too deeply");
    if (a == b) return a;
    if (a.is_boolean()) return a.get<bool>() ? b : a;
    if (b.is_boolean()) return b.get<bool>() ? a : b;
    if (!a.is_object() || !b.is_object()) {
      return SchemaError(pointer_, "a schema is an object, true or false");
    }
    SchemaJson out = a;
    CAUSEWAY_RETURN_IF_ERROR(MergeProperties(a, b, depth, out));
    for (const auto& [keyword, value] : b.items()) {
      if (keyword == "properties" || keyword == "additionalProperties") continue;
      const auto mine = out.find(keyword);
      if (mine == out.end()) {
        out[keyword] = value;
      } else if (*mine != value && !IsAnnotation(keyword)) {
        CAUSEWAY_ASSIGN_OR_RETURN(const SchemaJson both, Both(keyword, *mine, value, depth));
        if (both == kImpossible) return SchemaJson(false);
        out[keyword] = both;
      }
    }
    return out;
  }

 private:
  // Not a value of any keyword.
  static inline const SchemaJson kImpossible = "impossible";

  StatusOr<SchemaJson> Both(const std::string& keyword, const SchemaJson& a, const SchemaJson& b,
                            int depth) {
    const auto numbers = [&] { return a.is_number() && b.is_number(); };
    if (keyword == "type") {
      SchemaJson types = CommonTypes(a, b);
      return types.empty() ? kImpossible : types;
    }
    if ((keyword == "minimum" || keyword == "exclusiveMinimum" || keyword == "minLength" ||
         keyword == "minItems") &&
        numbers()) {
      return std::max(a, b);
    }
    if ((keyword == "maximum" || keyword == "exclusiveMaximum" || keyword == "maxLength" ||
         keyword == "maxItems") &&
        numbers()) {
      return std::min(a, b);
    }
    if (keyword == "required" && a.is_array() && b.is_array()) {
      SchemaJson out = a;
      for (const SchemaJson& name : b) {
        if (std::find(a.begin(), a.end(), name) == a.end()) out.push_back(name);
      }
      return out;
    }
    if (keyword == "enum" && a.is_array() && b.is_array()) {
      SchemaJson out = SchemaJson::array();
      for (const SchemaJson& value : a) {
        if (std::find(b.begin(), b.end(), value) != b.end()) out.push_back(value);
      }
      return out.empty() ? kImpossible : out;
    }
    if (keyword == "const") return kImpossible;
    if (keyword == "items") return Merge(a, b, depth + 1);
    return SchemaError(pointer_, Text("the keyword ", keyword,
                                      " has two values that can't be made one by allOf, anyOf, "
                                      "oneOf or $ref"));
  }

  // A property that one schema names is for the other an additional one.
  Status MergeProperties(const SchemaJson& a, const SchemaJson& b, int depth, SchemaJson& out) {
    const SchemaJson empty = SchemaJson::object();
    const auto of = [&](const SchemaJson& schema) -> const SchemaJson& {
      const auto found = schema.find("properties");
      return found == schema.end() || !found->is_object() ? empty : *found;
    };
    const SchemaJson& from_a = of(a);
    const SchemaJson& from_b = of(b);
    SchemaJson properties = SchemaJson::object();
    for (const auto& [name, schema] : from_a.items()) {
      const auto other = from_b.find(name);
      const SchemaJson* theirs = other != from_b.end() ? &*other : Additional(b);
      if (theirs == nullptr) {
        properties[name] = schema;
        continue;
      }
      CAUSEWAY_ASSIGN_OR_RETURN(properties[name], MergeParts(schema, *theirs, depth));
    }
    for (const auto& [name, schema] : from_b.items()) {
      if (from_a.contains(name)) continue;
      const SchemaJson* theirs = Additional(a);
      if (theirs == nullptr) {
        properties[name] = schema;
        continue;
      }
      CAUSEWAY_ASSIGN_OR_RETURN(properties[name], MergeParts(*theirs, schema, depth));
    }
    if (a.contains("properties") || b.contains("properties")) out["properties"] = properties;
    if (Additional(a) != nullptr && Additional(b) != nullptr) {
      CAUSEWAY_ASSIGN_OR_RETURN(out["additionalProperties"],
                                MergeParts(*Additional(a), *Additional(b), depth));
    } else if (Additional(b) != nullptr) {
      out["additionalProperties"] = *Additional(b);
    }
    return Status();
  }

  // Parts may have references, which only the compiler can follow.
  StatusOr<SchemaJson> MergeParts(const SchemaJson& a, const SchemaJson& b, int depth) {
    const auto plain = [](const SchemaJson& schema) {
      return !schema.is_object() || (!schema.contains("$ref") && !schema.contains("allOf"));
    };
    if (a.is_boolean() || b.is_boolean() || (plain(a) && plain(b))) return Merge(a, b, depth + 1);
    return SchemaJson{{"allOf", SchemaJson::array({a, b})}};
  }

  const std::string pointer_;
};

}  // namespace

bool IsAnnotation(const std::string& keyword) {
  static const std::set<std::string> annotations = {
      "title",      "description", "default",     "examples",        "example",  "$schema",
      "$id",        "id",          "$comment",    "$anchor",         "readOnly", "writeOnly",
      "deprecated", "$defs",       "definitions", "contentMediaType"};
  return annotations.contains(keyword);
}

StatusOr<SchemaJson> MergeSchemas(const SchemaJson& a, const SchemaJson& b,
                                  const std::string& pointer) {
  return Merger(pointer).Merge(a, b, 0);
}

}  // namespace causeway
