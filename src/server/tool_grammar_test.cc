#include "server/tool_grammar.h"

#include <gtest/gtest.h>

#include <random>

#include "grammar/grammar_walk.h"
#include "server/json.h"

namespace causeway {
namespace {

using Choice = ToolFields::Choice;

constexpr ToolCallFormat kFormats[] = {ToolCallFormat::kV3, ToolCallFormat::kV31,
                                       ToolCallFormat::kV32};

ToolFields Tools(Choice choice, const std::string& named = "", bool parallel = true) {
  ToolFields out;
  out.functions = {R"({"name": "weather", "parameters": {"type": "object", "properties": {
      "city": {"type": "string", "description": "Where."}, "days": {"type": "integer"},
      "unit": {"enum": ["C", "F"]}, "at": {"$ref": "#/$defs/place"}},
      "required": ["city", "unit"], "$defs": {"place": {"type": "array", "items": {"type": "number"},
      "minItems": 2, "maxItems": 2}}}})",
                   R"({"name": "time"})"};
  out.names = {"weather", "time"};
  out.choice = choice;
  out.named = named;
  out.parallel = parallel;
  return out;
}

Automaton Make(ToolCallFormat format, const ToolFields& tools) {
  StatusOr<Grammar> grammar = ToolCallGrammar(format, tools);
  EXPECT_TRUE(grammar.ok()) << grammar.status().message();
  return Automaton(std::move(grammar).value());
}

// The arguments of a call of weather, as its schema wants them.
void ExpectWeather(const Json& arguments) {
  EXPECT_TRUE(arguments["city"].is_string()) << arguments;
  EXPECT_TRUE(arguments["unit"] == "C" || arguments["unit"] == "F") << arguments;
  EXPECT_TRUE(!arguments.contains("days") || arguments["days"].is_number_integer()) << arguments;
  if (arguments.contains("at")) {
    ASSERT_EQ(arguments["at"].size(), 2u) << arguments;
    EXPECT_TRUE(arguments["at"][1].is_number()) << arguments;
  }
}

TEST(ToolGrammarTest, EveryTextIsCallsThatTheParserFindsAndTheSchemasAccept) {
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  for (const ToolCallFormat format : kFormats) {
    Automaton automaton = Make(format, Tools(Choice::kRequired));
    size_t most = 0;
    for (int i = 0; i < 100; ++i) {
      const std::string text = RandomText(automaton, random, 100 + 4 * static_cast<size_t>(i));
      ToolCallParser parser(format, {"weather", "time"});
      ToolCallCollector found;
      found.Add(parser.Push(text));
      found.Add(parser.Flush());
      EXPECT_EQ(found.content(), "") << "seed " << seed << ": " << text;
      ASSERT_FALSE(found.calls().empty()) << "seed " << seed << ": " << text;
      most = std::max(most, found.calls().size());
      for (const ToolCall& call : found.calls()) {
        const Json arguments = Json::parse(call.arguments);
        if (call.name == "weather") ExpectWeather(arguments);
        if (call.name == "time") {
          EXPECT_EQ(arguments, Json::object());
        }
      }
    }
    EXPECT_GT(most, 1u) << "several calls are possible";
  }
}

TEST(ToolGrammarTest, ANamedToolIsCalledOnceAndNoOther) {
  std::mt19937 random(7);
  for (const ToolCallFormat format : kFormats) {
    for (const ToolFields& tools :
         {Tools(Choice::kNamed, "weather"), Tools(Choice::kRequired, "", /*parallel=*/false)}) {
      Automaton automaton = Make(format, tools);
      for (int i = 0; i < 30; ++i) {
        ToolCallParser parser(format, {});
        ToolCallCollector found;
        found.Add(parser.Push(RandomText(automaton, random, 200)));
        found.Add(parser.Flush());
        ASSERT_EQ(found.calls().size(), 1u);
        if (tools.choice == Choice::kNamed) {
          EXPECT_EQ(found.calls()[0].name, "weather");
        }
      }
    }
  }
}

TEST(ToolGrammarTest, RawStringsOfV32HoldAnyTextButTheirEnd) {
  Automaton automaton = Make(ToolCallFormat::kV32, Tools(Choice::kNamed, "weather"));
  const auto text = [](const std::string& city) {
    return Text(
        "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n"
        "<｜DSML｜parameter name=\"city\" string=\"true\">",
        city,
        "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"unit\" string=\"false\">\"C\""
        "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>");
  };
  for (const char* city : {"", "Paris é\n\"quoted\\\"", "<b>x</b>", "<", "</", "<</</", "a</<b",
                           "<<a", "<｜DSML｜", "</</b"}) {
    EXPECT_TRUE(Matches(automaton, text(city))) << city;
  }
  EXPECT_FALSE(Matches(automaton, text("x</｜DSML｜parameter>y")));
}

TEST(ToolGrammarTest, SchemasThatCantBeHonouredAreNamed) {
  for (const char* parameters :
       {R"({"type": "array"})", R"({"type": "object", "anyOf": [{}]})",
        R"({"type": "object", "properties": {"a": {"type": "string", "contentEncoding": "x"}}})",
        R"({"type": "object", "required": ["b"]})"}) {
    ToolFields tools;
    tools.functions = {Text(R"({"name": "f", "parameters": )", parameters, "}")};
    tools.names = {"f"};
    tools.choice = Choice::kRequired;
    const StatusOr<Grammar> grammar = ToolCallGrammar(ToolCallFormat::kV32, tools);
    ASSERT_FALSE(grammar.ok()) << parameters;
    EXPECT_FALSE(grammar.status().message().empty());
  }
}

}  // namespace
}  // namespace causeway
