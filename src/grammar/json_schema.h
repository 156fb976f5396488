// JSON schemas as grammars: every text of the grammar is a value that the schema accepts.
//
// Understood: true, false; type (one or a list), enum, const; properties, required,
// additionalProperties; items, prefixItems, minItems, maxItems; minLength, maxLength, pattern,
// format (date, time, date-time, uuid, ipv4, email); minimum, maximum, exclusiveMinimum,
// exclusiveMaximum; anyOf, oneOf, allOf; $ref to places of the same schema, recursive ones too;
// $defs, definitions. Annotations (title, description, default, examples, ...) change nothing.
// Whatever else stands in it is refused, with the reason and the place as a JSON pointer.
//
// Of the values that a schema accepts the grammar leaves some out:
//   * properties come in the order of the schema
//   * an object whose schema names properties and has no additionalProperties gets no others
//   * a schema that names no type, but keywords of one, gives values of that type
//   * numbers and white space are limited as json_rules.h says
// oneOf is taken as anyOf: a value that several alternatives accept is not ruled out.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "grammar/grammar.h"

namespace causeway {

using SchemaJson = nlohmann::ordered_json;

// The refusal of a schema, "#/properties/a: the keyword uniqueItems is not supported".
Status SchemaError(const std::string& pointer, const std::string& what);

// A grammar of the values of the schema.
StatusOr<Grammar> CompileJsonSchema(const SchemaJson& schema);
// Of any object.
StatusOr<Grammar> CompileJsonObject();

// Part of a text: `begin`, then a value of the schema, then `end`. The texts may be empty.
struct TaggedSchema {
  std::string begin;
  SchemaJson schema;
  std::string end;
};

struct TagOptions {
  // Any text, then the tags. It ends where this text comes, and the tags have to follow; or nothing
  // follows, and it never comes. Without it the text is empty and the tags begin at once.
  std::string trigger = {};
  std::string open = {};  // before the first tag, after the trigger
  std::string separator = {};
  std::string close = {};  // after the last
  int64_t max_tags = -1;   // -1: without limit; at least one comes
};

// For tools: one or several of the tags, in any order. With the trigger "<call>" and tags from
// "f(" to ")</call>", say:   free text <call>f({"a": 1})</call>
// All texts are bytes, special tokens' texts only where the vocabulary has them as plain tokens.
StatusOr<Grammar> CompileTags(const std::vector<TaggedSchema>& tags, const TagOptions& options);

}  // namespace causeway
