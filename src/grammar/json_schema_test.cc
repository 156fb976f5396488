#include "grammar/json_schema.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "grammar/grammar_walk.h"
#include "grammar/schema_validator.h"

namespace causeway {
namespace {

Automaton Compiled(const SchemaJson& schema) {
  StatusOr<Grammar> grammar = CompileJsonSchema(schema);
  EXPECT_TRUE(grammar.ok()) << schema.dump() << ": " << grammar.status().message();
  return Automaton(std::move(grammar).value());
}

TEST(JsonSchema, MatchesTheValuesItDescribes) {
  struct Case {
    const char* schema;
    std::vector<std::string> yes, no;
  };
  const Case cases[] = {
      {"true",
       {"1", "{}", "[1,{\"a\":null}]", "\"\\u00e9é\"", "-0.5e+10"},
       {"", "01", "[1,]", "nul", "\"\n\"", "\"\\ud800\"", "{\"a\" 1}"}},
      {R"({"type": "object"})",
       {"{}", "{\n  \"a\": 1\n}", "{ \"a\":[1, 2] }"},
       {"[]", "{,}", "{a:1}", "{  }"}},
      {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["b"]})",
       {R"({"a":1,"b":true})", R"({"a": 1, "b": true})", R"({"b":false})"},
       {"{}", R"({"a":1})", R"({"b":true,"a":1})", R"({"b":1})", R"({"b":true,"c":1})",
        R"({"a":1,"a":1,"b":true})"}},
      {R"({"type": "object", "properties": {"ab": {"type": "null"}, "a": {}}, "additionalProperties": {"type": "integer"}})",
       {"{}", R"({"ab":null,"a":"x","c":3})", R"({"abc":3,"b":4})", R"({"":1})"},
       {R"({"ab":3})", R"({"c":null})", R"({"\u0061b":3})"}},
      {R"({"properties": {"a": {"$ref": "#"}}})",
       {"{}", R"({"a":{"a":{}}})"},
       {R"({"a":1})", "[]"}},
      {R"({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3})",
       {"[1]", "[1, 2,3]"},
       {"[]", "[1,2,3,4]", "[\"a\"]"}},
      {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false, "minItems": 1})",
       {"[1]", "[1,\"a\"]"},
       {"[]", "[\"a\"]", "[1,\"a\",2]"}},
      {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "null"}, "maxItems": 3})",
       {"[]", "[1]", "[1,\"a\",null]"},
       {"[1,null]", "[1,\"a\",null,null]"}},
      {R"({"type": "array", "items": {}, "maxItems": 0})", {"[]", "[ ]"}, {"[1]"}},
      {R"({"type": "string", "minLength": 2, "maxLength": 3})",
       {"\"ab\"", "\"é😀x\"", R"("\n\u0041")", R"("\ud83d\ude00a")"},
       {"\"a\"", "\"abcd\"", "\"a\\\"", "ab"}},
      {R"({"type": "string", "pattern": "^[A-Z]\\d+$"})",
       {"\"A1\"", "\"Z09\""},
       {"\"A\"", "\"xA1\"", "\"A1x\""}},
      {R"({"type": "string", "pattern": "b[\"\\\\]"})", {R"("b\"")", R"("ab\\c")"}, {R"("b")"}},
      {R"({"type": "string", "format": "date"})", {"\"2026-03-01\""}, {"\"2026-13-01\"", "\"1\""}},
      {R"({"enum": ["a\"b", 1, null, [1,2], {"x": true}]})",
       {R"("a\"b")", "1", "null", "[1,2]", "{\"x\":true}"},
       {"2", "\"a\"", "[1]"}},
      {R"({"type": "string", "enum": ["a", 1]})", {"\"a\""}, {"1"}},
      {R"({"const": "x"})", {"\"x\""}, {"\"y\""}},
      {R"({"type": "integer", "minimum": -12, "maximum": 105})",
       {"-12", "-9", "-1", "0", "9", "99", "100", "105"},
       {"-13", "-20", "-0", "106", "110", "1000", "1.0", "00"}},
      {R"({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3})",
       {"1", "2"},
       {"0", "3", "-1"}},
      {R"({"type": "integer", "minimum": 998, "maximum": 1003})",
       {"998", "999", "1000", "1003"},
       {"997", "1004", "99", "9980"}},
      {R"({"type": "number", "minimum": 0, "maximum": 1})",
       {"0", "0.5", "0.999", "1", "1.0", "0.0"},
       {"-0.1", "1.01", "2", "-0"}},
      {R"({"type": "number", "exclusiveMinimum": -1, "maximum": 2})",
       {"-0.99", "0", "1.75", "2.000"},
       {"-1", "-1.0", "2.1"}},
      {R"({"type": "number", "exclusiveMaximum": 0})", {"-0.5", "-3"}, {"0", "-0.0", "1"}},
      {R"({"type": ["string", "null"]})", {"\"\"", "null"}, {"1"}},
      {R"({"anyOf": [{"type": "integer"}, {"type": "boolean"}]})", {"1", "true"}, {"\"a\""}},
      {R"({"type": "object", "properties": {"k": {"type": "string"}}, "anyOf": [{"required": ["k"]}, {"properties": {"z": {"type": "null"}}, "required": ["z"]}]})",
       {R"({"k":"a"})", R"({"k":"a","z":null})", R"({"z":null})"},
       {"{}", R"({"z":1})"}},
      {R"({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}]})",
       {R"({"a":1,"b":null})"},
       {R"({"a":1})", R"({"b":null})"}},
      {R"({"allOf": [{"type": "integer", "minimum": 3}, {"type": "number", "maximum": 5}]})",
       {"3", "5"},
       {"2", "6", "3.5"}},
      {R"({"$ref": "#/$defs/list", "$defs": {"list": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"next": {"$ref": "#/$defs/list"}}, "required": ["next"]}]}}})",
       {"null", R"({"next":null})", R"({"next":{"next":{"next":null}}})"},
       {"{}", R"({"next":1})"}},
      {R"({"$ref": "#/$defs/a~1b~0", "$defs": {"a/b~": {"type": "null"}}})", {"null"}, {"1"}},
      {R"({"type": "array", "items": {"$ref": "#"}})", {"[]", "[[],[[]]]"}, {"[1]"}},
      {R"({"type": "object", "required": ["x"]})",
       {R"({"x":1})", R"({"x":1,"y":2})"},
       {"{}", R"({"y":2})"}},
  };
  for (const Case& c : cases) {
    Automaton automaton = Compiled(SchemaJson::parse(c.schema));
    for (const std::string& text : c.yes) {
      EXPECT_TRUE(Matches(automaton, text)) << c.schema << "\n  " << text;
    }
    for (const std::string& text : c.no) {
      EXPECT_FALSE(Matches(automaton, text)) << c.schema << "\n  " << text;
    }
  }
}

TEST(JsonSchema, WhatItCannotHonourIsRefusedWithItsPlace) {
  struct Case {
    const char* schema;
    const char* message;
  };
  const Case cases[] = {
      {"3", "#: it is 3; a schema is"},
      {R"({"properties": {"a/b": {"type": "array", "uniqueItems": true}}})",
       "#/properties/a~1b: the keyword uniqueItems is not supported"},
      {R"({"items": {"not": {}}})", "#/items: the keyword not is not supported"},
      {R"({"type": "text"})", "#: type is \"text\"; expected object"},
      {R"({"type": []})", "empty list"},
      {R"({"type": "number", "multipleOf": 0.1})", "multipleOf"},
      {R"({"type": "number", "minimum": 0.5})", "only whole bounds"},
      {R"({"type": "number", "minimum": 1e30})", "18 digits"},
      {R"({"type": "integer", "minimum": "1"})", "expected a number"},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})", "no text matches"},
      {R"({"type": "string", "minLength": -1})",
       "minLength is -1; expected an integer 0 to 100000"},
      {R"({"type": "string", "minLength": 3, "maxLength": 2})", "more than maxLength"},
      {R"j({"type": "string", "pattern": "(?=a)"})j", "#: the pattern can't be used: groups"},
      {R"({"type": "string", "pattern": "a", "maxLength": 3})", "only one of"},
      {R"({"type": "string", "format": "regex"})", "format \"regex\" is not supported"},
      {R"({"enum": []})", "enum is not a list"},
      {R"({"enum": ["a"], "minLength": 3})", "minLength beside enum"},
      {R"({"$ref": "http://x/y"})", "not supported; expected a place in the same schema"},
      {R"({"$ref": "#/$defs/x"})", "refers to nothing"},
      {R"({"$ref": "#"})", "refers to itself before any text"},
      {R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})", "refers to itself before any text"},
      {R"({"allOf": [{"$ref": "#"}]})", "refer to themselves"},
      {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
       "no text matches"},
      {R"({"anyOf": []})", "anyOf is not a list"},
      {R"({"allOf": [{"type": "string", "pattern": "a"}, {"pattern": "b"}]})",
       "#/allOf/1: the keyword pattern has two values"},
      {R"({"allOf": [{"type": "string"}, {"type": "null"}]})", "no text matches"},
      {R"({"properties": {"a": false}, "required": ["a"]})", "no text matches"},
      {R"({"items": [{}]})", "prefixItems"},
      {R"({"required": "a"})", "required is not a list"},
      {"false", "no text matches"},
  };
  for (const Case& c : cases) {
    const Status status = CompileJsonSchema(SchemaJson::parse(c.schema)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.schema;
    EXPECT_NE(status.message().find(c.message), std::string::npos)
        << c.schema << ": " << status.message();
  }
}

TEST(JsonSchema, HostileSchemasAreRefusedWithinTheLimits) {
  // Deep, wide in copies, and exponential in references.
  SchemaJson deep = SchemaJson::object();
  for (int i = 0; i < 300; ++i) deep = {{"type", "array"}, {"items", deep}};
  EXPECT_FALSE(CompileJsonSchema(deep).ok());
  SchemaJson copies = {{"type", "string"}, {"pattern", "((((a{99}){99}){99}){99}){99}"}};
  EXPECT_FALSE(CompileJsonSchema(copies).ok());
  SchemaJson doubling = {{"$defs", {{"d0", {{"type", "null"}}}}},
                         {"allOf", {{{"$ref", "#/$defs/d40"}}}}};
  for (int i = 1; i <= 40; ++i) {
    const SchemaJson part = {{"$ref", Text("#/$defs/d", i - 1)}};
    doubling["$defs"][Text("d", i)] = {{"allOf", SchemaJson::array({part, part})}};
  }
  const Status status = CompileJsonSchema(doubling).status();
  EXPECT_NE(status.message().find("more than 20000 schemas"), std::string::npos)
      << status.message();
  SchemaJson wide = {{"type", "object"}, {"properties", SchemaJson::object()}};
  for (int i = 0; i < 3000; ++i) wide["properties"][Text("p", i)] = {{"type", "null"}};
  Automaton automaton = Compiled(wide);
  EXPECT_TRUE(Matches(automaton, R"({"p7":null,"p2999":null})"));
}

TEST(JsonSchema, TextsNestOnlyAsDeepAsTheyCanBeEnded) {
  Automaton automaton = Compiled(SchemaJson(true));
  std::string open;
  while (StateAfter(automaton, open + "[") != Automaton::kDead) open += "[";
  EXPECT_GT(open.size(), 60u);
  EXPECT_LT(open.size(), 1000u);
  EXPECT_TRUE(Matches(automaton, open + std::string(open.size(), ']')));
}

// Schemas of every keyword, small enough that texts end.
class RandomSchema {
 public:
  explicit RandomSchema(uint32_t seed) : random_(seed) {}

  SchemaJson Make() {
    SchemaJson root = One(3);
    if (root.is_object()) root["$defs"] = {{"leaf", Leaf()}, {"tree", Tree()}};
    return root;
  }

 private:
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  SchemaJson Tree() {
    return {{"type", "object"},
            {"properties",
             {{"value", Leaf()},
              {"children",
               {{"type", "array"}, {"items", {{"$ref", "#/$defs/tree"}}}, {"maxItems", 2}}}}},
            {"required", {"value"}}};
  }

  SchemaJson Leaf() {
    switch (Below(9)) {
      case 0:
        return {{"type", "boolean"}};
      case 1:
        return {{"type", "null"}};
      case 2: {
        const int low = static_cast<int>(Below(400)) - 200;
        return {{"type", "integer"},
                {"minimum", low},
                {"maximum", low + static_cast<int>(Below(1500))}};
      }
      case 3: {
        const int low = static_cast<int>(Below(40)) - 20;
        return {{"type", "number"},
                {"exclusiveMinimum", low},
                {"exclusiveMaximum", low + 1 + static_cast<int>(Below(30))}};
      }
      case 4:
        return {{"type", "string"}, {"minLength", Below(3)}, {"maxLength", 3 + Below(5)}};
      case 5:
        return {{"enum", {"a", "é\"\\", 3, nullptr, {{"k", {1, 2}}}}}};
      case 6:
        return {{"const", Text("c", Below(9))}};
      case 7:
        return {{"type", {"number", "null"}}};
      default:
        return {{"type", "string"}};
    }
  }

  SchemaJson One(int depth) {
    if (depth == 0) return Leaf();
    switch (Below(8)) {
      case 0:
      case 1: {
        SchemaJson out = {{"type", "object"},
                          {"properties", SchemaJson::object()},
                          {"required", SchemaJson::array()}};
        for (uint32_t i = 0, n = Below(5); i < n; ++i) {
          const std::string name = Text(static_cast<char>('a' + i), i == 2 ? "\"/~" : "");
          out["properties"][name] = One(depth - 1);
          if (Below(2) == 0) out["required"].push_back(name);
        }
        if (Below(3) == 0) out["additionalProperties"] = Below(2) == 0 ? SchemaJson(false) : Leaf();
        return out;
      }
      case 2: {
        SchemaJson out = {{"type", "array"}, {"items", One(depth - 1)}};
        if (Below(2) == 0) out["minItems"] = Below(3);
        if (Below(2) == 0) out["maxItems"] = 2 + Below(3);
        return out;
      }
      case 3:
        return {{"type", "array"},
                {"prefixItems", {One(depth - 1), Leaf()}},
                {"items", Below(2) == 0 ? SchemaJson(false) : Leaf()}};
      case 4:
        return {{Below(2) == 0 ? "anyOf" : "oneOf", {One(depth - 1), Leaf()}}};
      case 5:
        return {{"allOf",
                 {{{"type", "object"}, {"properties", {{"x", Leaf()}}}, {"required", {"x"}}},
                  {{"properties", {{"y", One(depth - 1)}}}}}}};
      case 6:
        return {{"$ref", Below(2) == 0 ? "#/$defs/tree" : "#/$defs/leaf"}};
      default:
        return Leaf();
    }
  }

  std::mt19937 random_;
};

TEST(JsonSchema, RandomTextsOfRandomSchemasAreValuesThatThePlainValidatorAccepts) {
  int64_t texts = 0;
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    const SchemaJson schema = RandomSchema(seed).Make();
    StatusOr<Grammar> grammar = CompileJsonSchema(schema);
    ASSERT_TRUE(grammar.ok()) << seed << " " << schema.dump() << grammar.status().message();
    Automaton automaton(std::move(grammar).value());
    const SchemaValidator validator(schema);
    std::mt19937 random(seed);
    for (int i = 0; i < 8; ++i) {
      const std::string text = RandomText(automaton, random, random() % 120);
      const SchemaJson value = SchemaJson::parse(text, nullptr, /*allow_exceptions=*/false);
      ASSERT_FALSE(value.is_discarded()) << "seed " << seed << ": " << text;
      ASSERT_TRUE(validator.Accepts(value)) << "seed " << seed << ": " << schema.dump() << "\n"
                                            << text;
      ++texts;
    }
  }
  EXPECT_EQ(texts, 2400);
}

TEST(JsonSchema, AnyObjectIsOne) {
  StatusOr<Grammar> grammar = CompileJsonObject();
  ASSERT_TRUE(grammar.ok());
  Automaton automaton(std::move(grammar).value());
  EXPECT_TRUE(Matches(automaton, R"({"a": {"b": [1, "x"]}})"));
  EXPECT_FALSE(Matches(automaton, "[1]"));
  std::mt19937 random(3);
  for (int i = 0; i < 100; ++i) {
    const std::string text = RandomText(automaton, random, 100);
    EXPECT_TRUE(SchemaJson::parse(text, nullptr, false).is_object()) << text;
  }
}

TEST(JsonSchema, TagsStandAroundValuesAndFreeTextBeforeThem) {
  const SchemaJson a = {
      {"type", "object"}, {"properties", {{"x", {{"type", "integer"}}}}}, {"required", {"x"}}};
  const std::vector<TaggedSchema> tags = {{"f(", a, ")"}, {"g(", SchemaJson(true), ")"}};
  StatusOr<Grammar> at_once =
      CompileTags(tags, {.open = "<c>", .separator = ";", .close = "</c>", .max_tags = 2});
  ASSERT_TRUE(at_once.ok()) << at_once.status().message();
  Automaton required(std::move(at_once).value());
  EXPECT_TRUE(Matches(required, R"(<c>f({"x":1})</c>)"));
  EXPECT_TRUE(Matches(required, R"(<c>g(3);f({"x":1})</c>)"));
  for (const char* text :
       {"", "text", "<c></c>", "<c>f(3)</c>", "<c>g(1);g(2);g(3)</c>", "x<c>g(1)</c>"}) {
    EXPECT_FALSE(Matches(required, text)) << text;
  }
  StatusOr<Grammar> free = CompileTags(tags, {.trigger = "<<c>", .close = "</c>"});
  ASSERT_TRUE(free.ok()) << free.status().message();
  Automaton automaton(std::move(free).value());
  for (const char* text : {"", "any <text", "<<<c>g(1)</c>", "hi <<c>f({\"x\":2})g(1)</c>"}) {
    EXPECT_TRUE(Matches(automaton, text)) << text;
  }
  for (const char* text : {"<<c>", "<<c>x", "<<c>g(1)</c> more"}) {
    EXPECT_FALSE(Matches(automaton, text)) << text;
  }
  EXPECT_FALSE(CompileTags({}, {}).ok());
}

}  // namespace
}  // namespace causeway
