#include "server/tool_grammar.h"

#include <algorithm>

#include "grammar/json_rules.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"
#include "grammar/schema_compiler.h"
#include "server/json.h"

namespace causeway {
namespace {

// A tool's function, parsed, with a schema of an object.
struct Function {
  std::string name;
  Json parameters;
};

std::vector<Function> ChosenFunctions(const ToolFields& tools) {
  std::vector<Function> out;
  for (size_t i = 0; i < tools.names.size(); ++i) {
    if (tools.choice == ToolFields::Choice::kNamed && tools.names[i] != tools.named) continue;
    const Json function = Json::parse(tools.functions[i]);
    // No parameters are none at all.
    Json parameters = function.value("parameters", Json());
    if (!parameters.is_object()) parameters = {{"properties", Json::object()}};
    if (!parameters.contains("type")) parameters["type"] = "object";
    out.push_back({tools.names[i], std::move(parameters)});
  }
  return out;
}

int64_t MostCalls(const ToolFields& tools) {
  return tools.choice == ToolFields::Choice::kNamed || !tools.parallel ? 1 : -1;
}

// V3 and V3.1: the arguments are JSON between marks.
StatusOr<Grammar> MarkedGrammar(ToolCallFormat format, const ToolFields& tools) {
  const bool v3 = format == ToolCallFormat::kV3;
  std::vector<TaggedSchema> tags;
  for (Function& function : ChosenFunctions(tools)) {
    tags.push_back({.begin = v3 ? Text("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", function.name,
                                       "\n```json\n")
                                : Text("<｜tool▁call▁begin｜>", function.name, "<｜tool▁sep｜>"),
                    .schema = std::move(function.parameters),
                    .end = v3 ? "\n```<｜tool▁call▁end｜>" : "<｜tool▁call▁end｜>"});
  }
  return CompileTags(tags, {.open = "<｜tool▁calls▁begin｜>",
                            .separator = v3 ? "\n" : "",
                            .close = "<｜tool▁calls▁end｜>",
                            .max_tags = MostCalls(tools)});
}

// A schema that asks for a string and nothing more of it.
bool IsAnyString(const Json& schema) {
  if (!schema.is_object() || schema.value("type", Json()) != "string") return false;
  const std::string_view kAnnotations[] = {"type", "title", "description", "default", "examples"};
  return std::all_of(schema.items().begin(), schema.items().end(), [&](const auto& item) {
    return std::find(std::begin(kAnnotations), std::end(kAnnotations), item.key()) !=
           std::end(kAnnotations);
  });
}

// V3.2: a mark around each parameter.
class DsmlGrammar {
 public:
  explicit DsmlGrammar(const ToolFields& tools) : functions_(ChosenFunctions(tools)) {}

  StatusOr<Grammar> Build(int64_t most_calls) {
    std::vector<ExprId> calls;
    for (const Function& function : functions_) {
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId call, Call(function));
      calls.push_back(call);
    }
    const ExprId call = b_.Call(b_.AddRule("call", b_.Choice(std::move(calls))));
    return b_.Build(b_.AddRule("calls", b_.Sequence({b_.Literal("\n\n<｜DSML｜function_calls>\n"),
                                                     b_.Repeat(call, 1, most_calls),
                                                     b_.Literal("</｜DSML｜function_calls>")})));
  }

 private:
  StatusOr<ExprId> Call(const Function& function) {
    const Json& schema = function.parameters;
    const std::string place = Text("the parameters of ", function.name);
    if (schema["type"] != "object") {
      return InvalidArgument(
          Text(place, " have the type ", Dump(schema["type"]), "; expected \"object\""));
    }
    for (const char* keyword : {"$ref", "allOf", "anyOf", "oneOf", "enum", "const"}) {
      if (schema.contains(keyword)) {
        return InvalidArgument(Text(place, " have ", keyword,
                                    " on their top level, which a forced "
                                    "call can't honour in this chat format"));
      }
    }
    const Json properties = schema.value("properties", Json::object());
    const Json required = schema.value("required", Json::array());
    if (!properties.is_object() || !required.is_array()) {
      return InvalidArgument(Text(place, " are no JSON schema: properties is ",
                                  DescribeJson(properties), " and required ",
                                  DescribeJson(required)));
    }
    for (const Json& name : required) {
      if (!name.is_string() || !properties.contains(name.get<std::string>())) {
        return InvalidArgument(
            Text(place, " require ", DescribeJson(name), ", which is not among the properties"));
      }
    }
    std::vector<ExprId> parts = {
        b_.Literal(Text("<｜DSML｜invoke name=\"", function.name, "\">\n"))};
    for (const auto& [key, property] : properties.items()) {
      CAUSEWAY_ASSIGN_OR_RETURN(const ExprId parameter, Parameter(schema, key, property));
      const bool needed = std::find(required.begin(), required.end(), key) != required.end();
      parts.push_back(needed ? parameter : b_.Optional(parameter));
    }
    parts.push_back(b_.Literal("</｜DSML｜invoke>\n"));
    return b_.Sequence(std::move(parts));
  }

  StatusOr<ExprId> Parameter(const Json& schema, const std::string& key, const Json& property) {
    if (key.find_first_of("\"<>\n") != std::string::npos) {
      return InvalidArgument(
          Text("the parameter ", Dump(Json(key)), " has a name that this chat format can't write"));
    }
    const bool raw = IsAnyString(property);
    ExprId value = 0;
    if (raw) {
      CAUSEWAY_ASSIGN_OR_RETURN(value, RawText());
    } else {
      // What it refers to by #/$defs stays there; compilers keep views of their schemas.
      Json root = property;
      for (const char* place : {"$defs", "definitions"}) {
        if (root.is_object() && schema.contains(place)) root[place] = schema[place];
      }
      schemas_.push_back(std::make_unique<Json>(std::move(root)));
      compilers_.push_back(std::make_unique<SchemaCompiler>(*schemas_.back(), b_, json_));
      CAUSEWAY_ASSIGN_OR_RETURN(value, compilers_.back()->Run());
    }
    return b_.Sequence({b_.Literal(Text("<｜DSML｜parameter name=\"", key, "\" string=\"",
                                        raw ? "true" : "false", "\">")),
                        value, b_.Literal("</｜DSML｜parameter>\n")});
  }

  // Any text without "</｜", with which the parameter's end begins.
  StatusOr<ExprId> RawText() {
    if (!raw_) {
      CAUSEWAY_ASSIGN_OR_RETURN(
          const ExprId text,
          ParseRegex("(?:[^<]|(?:<+/)*<+[^</]|(?:<+/)+[^<｜])*(?:<+/)*<*", {}, b_));
      raw_ = b_.AddRule("text", text);
    }
    return b_.Call(*raw_);
  }

  const std::vector<Function> functions_;
  GrammarBuilder b_;
  JsonRules json_{b_};
  std::vector<std::unique_ptr<Json>> schemas_;
  std::vector<std::unique_ptr<SchemaCompiler>> compilers_;
  std::optional<RuleId> raw_;
};

}  // namespace

StatusOr<Grammar> ToolCallGrammar(ToolCallFormat format, const ToolFields& tools) {
  if (format == ToolCallFormat::kV32) return DsmlGrammar(tools).Build(MostCalls(tools));
  return MarkedGrammar(format, tools);
}

}  // namespace causeway
