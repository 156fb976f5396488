#include "grammar/json_schema.h"

#include "grammar/schema_compiler.h"

namespace causeway {
namespace {

// Text without `word`, then `word`: at its end, `after`. Or text in which it does not come. One
// rule for each length of a beginning of the word that the text ends with (Knuth, Morris and
// Pratt).
RuleId TextUntil(GrammarBuilder& b, const std::string& word, ExprId after) {
  std::vector<size_t> fallback(word.size(), 0);
  for (size_t i = 1, length = 0; i < word.size(); ++i) {
    while (length > 0 && word[i] != word[length]) length = fallback[length - 1];
    if (word[i] == word[length]) ++length;
    fallback[i] = length;
  }
  std::vector<RuleId> rules;
  for (size_t i = 0; i < word.size(); ++i) rules.push_back(b.AddRule("text"));
  for (size_t seen = 0; seen < word.size(); ++seen) {
    std::vector<ByteSet> to(word.size() + 1);
    for (int byte = 0; byte < 256; ++byte) {
      size_t state = seen;
      while (state > 0 && static_cast<uint8_t>(word[state]) != byte) state = fallback[state - 1];
      if (static_cast<uint8_t>(word[state]) == byte) ++state;
      to[state].Add(byte);
    }
    std::vector<ExprId> parts = {b.Empty()};
    for (size_t state = 0; state <= word.size(); ++state) {
      if (to[state] == ByteSet()) continue;
      const ExprId next = state == word.size() ? after : b.Call(rules[state]);
      parts.push_back(b.Sequence({b.Bytes(to[state]), next}));
    }
    b.Define(rules[seen], b.Choice(std::move(parts)));
  }
  return rules[0];
}

StatusOr<Grammar> Build(GrammarBuilder& builder, RuleId root) {
  StatusOr<Grammar> grammar = builder.Build(root);
  if (grammar.ok()) return grammar;
  return InvalidArgument(Text("the schema can't be used: ", grammar.status().message()));
}

}  // namespace

StatusOr<Grammar> CompileJsonSchema(const SchemaJson& schema) {
  GrammarBuilder builder;
  JsonRules json(builder);
  SchemaCompiler compiler(schema, builder, json);
  CAUSEWAY_ASSIGN_OR_RETURN(const ExprId root, compiler.Run());
  return Build(builder, builder.AddRule("#", root));
}

StatusOr<Grammar> CompileJsonObject() {
  GrammarBuilder builder;
  JsonRules json(builder);
  return Build(builder, builder.AddRule("#", json.Object()));
}

StatusOr<Grammar> CompileTags(const std::vector<TaggedSchema>& tags, const TagOptions& options) {
  if (tags.empty()) return InvalidArgument("there are no tags");
  GrammarBuilder builder;
  JsonRules json(builder);
  std::vector<ExprId> parts;
  for (const TaggedSchema& tag : tags) {
    // References of a schema are its own: each has a compiler for itself.
    SchemaCompiler compiler(tag.schema, builder, json);
    CAUSEWAY_ASSIGN_OR_RETURN(const ExprId value, compiler.Run());
    parts.push_back(
        builder.Sequence({builder.Literal(tag.begin), value, builder.Literal(tag.end)}));
  }
  const ExprId one = builder.Call(builder.AddRule("tag", builder.Choice(std::move(parts))));
  const ExprId more = builder.Repeat(builder.Sequence({builder.Literal(options.separator), one}), 0,
                                     options.max_tags < 0 ? -1 : options.max_tags - 1);
  const ExprId all =
      builder.Sequence({builder.Literal(options.open), one, more, builder.Literal(options.close)});
  if (options.trigger.empty()) return Build(builder, builder.AddRule("tags", all));
  return Build(builder, TextUntil(builder, options.trigger, all));
}

}  // namespace causeway
