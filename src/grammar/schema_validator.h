// For tests: says whether a value fits a schema, straight from the standard's words and with no
// part of the compiler.
#pragma once

#include <cmath>
#include <string>

#include "grammar/json_schema.h"

namespace causeway {

class SchemaValidator {
 public:
  explicit SchemaValidator(const SchemaJson& root) : root_(root) {}

  bool Accepts(const SchemaJson& value) const { return Fits(root_, value); }

 private:
  static size_t Length(const std::string& text) {
    size_t out = 0;
    for (const char c : text) out += (c & 0xc0) != 0x80;
    return out;
  }

  static bool HasType(const SchemaJson& value, const std::string& type) {
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    if (type == "number") return value.is_number();
    if (type == "boolean") return value.is_boolean();
    if (type == "null") return value.is_null();
    return value.is_number() && std::floor(value.get<double>()) == value.get<double>();
  }

  bool Fits(const SchemaJson& schema, const SchemaJson& value) const {
    if (schema.is_boolean()) return schema.get<bool>();
    const auto has = [&](const char* name) { return schema.contains(name); };
    if (has("$ref")) {
      const std::string reference = schema["$ref"];
      if (!Fits(root_.at(SchemaJson::json_pointer(reference.substr(1))), value)) return false;
    }
    if (has("type")) {
      const SchemaJson types =
          schema["type"].is_array() ? schema["type"] : SchemaJson::array({schema["type"]});
      bool any = false;
      for (const SchemaJson& type : types) any = any || HasType(value, type);
      if (!any) return false;
    }
    if (has("const") && value != schema["const"]) return false;
    if (has("enum")) {
      bool any = false;
      for (const SchemaJson& one : schema["enum"]) any = any || one == value;
      if (!any) return false;
    }
    if (has("allOf")) {
      for (const SchemaJson& one : schema["allOf"]) {
        if (!Fits(one, value)) return false;
      }
    }
    for (const char* keyword : {"anyOf", "oneOf"}) {
      if (!has(keyword)) continue;
      bool any = false;
      for (const SchemaJson& one : schema[keyword]) any = any || Fits(one, value);
      if (!any) return false;
    }
    if (value.is_object() && !FitsObject(schema, value)) return false;
    if (value.is_array() && !FitsArray(schema, value)) return false;
    if (value.is_string()) {
      const auto length = static_cast<double>(Length(value.get<std::string>()));
      if (has("minLength") && length < schema["minLength"].get<double>()) return false;
      if (has("maxLength") && length > schema["maxLength"].get<double>()) return false;
    }
    if (value.is_number()) {
      const auto number = value.get<double>();
      const auto bound = [&](const char* name) { return schema[name].get<double>(); };
      if (has("minimum") && number < bound("minimum")) return false;
      if (has("maximum") && number > bound("maximum")) return false;
      if (has("exclusiveMinimum") && number <= bound("exclusiveMinimum")) return false;
      if (has("exclusiveMaximum") && number >= bound("exclusiveMaximum")) return false;
    }
    return true;
  }

  bool FitsObject(const SchemaJson& schema, const SchemaJson& value) const {
    if (schema.contains("required")) {
      for (const SchemaJson& name : schema["required"]) {
        if (!value.contains(name.get<std::string>())) return false;
      }
    }
    for (const auto& [name, member] : value.items()) {
      if (schema.contains("properties") && schema["properties"].contains(name)) {
        if (!Fits(schema["properties"][name], member)) return false;
      } else if (schema.contains("additionalProperties")) {
        if (!Fits(schema["additionalProperties"], member)) return false;
      }
    }
    return true;
  }

  bool FitsArray(const SchemaJson& schema, const SchemaJson& value) const {
    if (schema.contains("minItems") && value.size() < schema["minItems"].get<size_t>()) {
      return false;
    }
    if (schema.contains("maxItems") && value.size() > schema["maxItems"].get<size_t>()) {
      return false;
    }
    const size_t prefix = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
    for (size_t i = 0; i < value.size(); ++i) {
      if (i < prefix) {
        if (!Fits(schema["prefixItems"][i], value[i])) return false;
      } else if (schema.contains("items") && !Fits(schema["items"], value[i])) {
        return false;
      }
    }
    return true;
  }

  const SchemaJson& root_;
};

}  // namespace causeway
