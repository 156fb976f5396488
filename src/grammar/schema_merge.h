// Two JSON schemas as one that asks for both.
#pragma once

#include <string>

#include "grammar/json_schema.h"

namespace causeway {

// Keywords that say nothing about values, definitions included.
bool IsAnnotation(const std::string& keyword);

// `pointer`: of `b`, for messages. Neither may have $ref or allOf on its top level. Refuses what
// can't be expressed by the keywords of one schema, as two patterns.
StatusOr<SchemaJson> MergeSchemas(const SchemaJson& a, const SchemaJson& b,
                                  const std::string& pointer);

}  // namespace causeway
