// Makes the rules of one JSON schema; see json_schema.h.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "grammar/json_rules.h"
#include "grammar/json_schema.h"

namespace causeway {

class SchemaCompiler {
 public:
  // All must outlive this. Rules of several schemas may go into one grammar.
  SchemaCompiler(const SchemaJson& root, GrammarBuilder& builder, JsonRules& json)
      : root_(root), b_(builder), json_(json) {}

  StatusOr<ExprId> Run() { return Compile(root_, "#", 0); }

 private:
  // A schema inside the root, or merged from such, with its pointer for messages.
  StatusOr<ExprId> Compile(const SchemaJson& schema, const std::string& pointer, int depth);
  StatusOr<ExprId> CompileObject(const SchemaJson& schema, const std::string& pointer, int depth);
  StatusOr<ExprId> CompileArray(const SchemaJson& schema, const std::string& pointer, int depth);
  StatusOr<ExprId> CompileString(const SchemaJson& schema, const std::string& pointer);
  StatusOr<ExprId> CompileNumber(const SchemaJson& schema, const std::string& pointer,
                                 bool integer);
  StatusOr<ExprId> CompileValues(const SchemaJson& schema, const std::string& pointer);
  StatusOr<ExprId> CompileAlternatives(const SchemaJson& schema, const char* keyword,
                                       const std::string& pointer, int depth);
  StatusOr<ExprId> CompileType(const std::string& type, const SchemaJson& schema,
                               const std::string& pointer, int depth);
  // The types that the schema names, or else those whose keywords it has; empty: any.
  StatusOr<std::vector<std::string>> TypesOf(const SchemaJson& schema,
                                             const std::string& pointer) const;
  // The rule of what a $ref refers to, made at the first reference.
  StatusOr<RuleId> RuleOf(const std::string& reference, const std::string& pointer, int depth);
  StatusOr<const SchemaJson*> Find(const std::string& reference, const std::string& pointer) const;
  // The schema without $ref and allOf on its top level.
  StatusOr<SchemaJson> Flatten(const SchemaJson& schema, const std::string& pointer, int depth);
  // A member of an object, key included.
  ExprId Member(ExprId key, ExprId value);

  const SchemaJson& root_;
  GrammarBuilder& b_;
  JsonRules& json_;
  std::map<std::string, RuleId> references_;
  int64_t compiled_ = 0;  // schemas
};

}  // namespace causeway
