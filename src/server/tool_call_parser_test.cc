#include "server/tool_call_parser.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "server/json.h"
#include "server/reasoning_parser.h"

namespace causeway {
namespace {

using Kind = ToolEvent::Kind;
using Names = std::vector<std::string>;

// Neighbours of a kind joined: what the events say, however the text was cut.
std::vector<ToolEvent> Join(const std::vector<ToolEvent>& events) {
  std::vector<ToolEvent> out;
  for (const ToolEvent& event : events) {
    const bool joins = event.kind == Kind::kContent || event.kind == Kind::kArguments;
    if (joins && !out.empty() && out.back().kind == event.kind) {
      out.back().text += event.text;
    } else {
      out.push_back(event);
    }
  }
  return out;
}

// The text in the pieces that end at `cuts`.
std::vector<ToolEvent> Parse(ToolCallFormat format, const Names& tools, const std::string& text,
                             const std::vector<size_t>& cuts = {}) {
  ToolCallParser parser(format, tools);
  std::vector<ToolEvent> out;
  const auto add = [&out](const std::vector<ToolEvent>& events) {
    out.insert(out.end(), events.begin(), events.end());
  };
  size_t begin = 0;
  for (const size_t cut : cuts) {
    add(parser.Push(std::string_view(text).substr(begin, cut - begin)));
    begin = cut;
  }
  add(parser.Push(std::string_view(text).substr(begin)));
  add(parser.Flush());
  return Join(out);
}

ToolCallCollector Collect(ToolCallFormat format, const Names& tools, const std::string& text) {
  ToolCallCollector collector;
  collector.Add(Parse(format, tools, text));
  return collector;
}

std::string Show(const std::vector<ToolEvent>& events) {
  std::string out;
  for (const ToolEvent& event : events) {
    const char* kNames[] = {"content", "call", "arguments", "end", "broken"};
    out += Text(kNames[static_cast<int>(event.kind)], " ", event.text, "\n");
  }
  return out;
}

constexpr const char* kBegin = "<｜tool▁calls▁begin｜>";
constexpr const char* kEnd = "<｜tool▁calls▁end｜>";

std::string CallV3(const std::string& name, const std::string& arguments) {
  return Text("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", name, "\n```json\n", arguments,
              "\n```<｜tool▁call▁end｜>");
}
std::string CallV31(const std::string& name, const std::string& arguments) {
  return Text("<｜tool▁call▁begin｜>", name, "<｜tool▁sep｜>", arguments, "<｜tool▁call▁end｜>");
}
std::string Parameter(const std::string& key, bool string, const std::string& value) {
  return Text("<｜DSML｜parameter name=\"", key, "\" string=\"", string ? "true" : "false", "\">",
              value, "</｜DSML｜parameter>\n");
}
std::string CallV32(const std::string& name, const std::string& parameters) {
  return Text("<｜DSML｜invoke name=\"", name, "\">\n", parameters, "</｜DSML｜invoke>\n");
}
std::string SectionV32(const std::string& calls) {
  return Text("\n\n<｜DSML｜function_calls>\n", calls, "</｜DSML｜function_calls>");
}

struct Case {
  ToolCallFormat format;
  std::string text;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
};

// All with the tools "f" and "weather".
std::vector<Case> WholeCases() {
  const std::string city = R"({"city": "Paris", "days": [1, 2.50], "when": {"at": "}\"]"}})";
  return {
      {ToolCallFormat::kV3,
       Text("Let me see.", kBegin, CallV3("weather", city), kEnd),
       "Let me see.",
       {{"weather", city}}},
      {ToolCallFormat::kV3,
       Text(kBegin, CallV3("f", "{}"), "\n", CallV3("weather", R"({"a": "<｜tool▁call▁end｜>"})"),
            kEnd),
       "",
       {{"f", "{}"}, {"weather", R"({"a": "<｜tool▁call▁end｜>"})"}}},
      {ToolCallFormat::kV31,
       Text("é", kBegin, CallV31("weather", city), CallV31("f", "{}"), kEnd),
       "é",
       {{"weather", city}, {"f", "{}"}}},
      {ToolCallFormat::kV31,
       Text(kBegin, "\n", CallV31(" f ", "\n{\"x\":\n1}\n"), kEnd, "Done."),
       "Done.",
       {{"f", "{\"x\":\n1}"}}},
      {ToolCallFormat::kV31, Text(kBegin, CallV31("f", "{}")), "", {{"f", "{}"}}},
      {ToolCallFormat::kV32,
       Text("Let me see.",
            SectionV32(Text(CallV32("weather", Text(Parameter("city", true, "Paris \"\\\n<b> é"),
                                                    Parameter("days", false, "[1, 2.50]"),
                                                    Parameter("metric", false, " true "))),
                            CallV32("f", "")))),
       "Let me see.",
       {{"weather", R"({"city": "Paris \"\\\n<b> é", "days": [1, 2.50], "metric": true})"},
        {"f", "{}"}}},
      {ToolCallFormat::kV32,
       Text("<｜DSML｜function_calls>", CallV32("f", Parameter("k", true, "")),
            "</｜DSML｜function_calls>\n"),
       "\n",
       {{"f", R"({"k": ""})"}}},
      {ToolCallFormat::kV32,
       "1 < 2\n\nand <｜DSML｜nothing>\n\n",
       "1 < 2\n\nand <｜DSML｜nothing>\n\n",
       {}},
  };
}

// Texts that look like calls and are none.
std::vector<Case> BrokenCases() {
  std::vector<Case> out;
  const auto add = [&out](ToolCallFormat format, const std::string& text) {
    out.push_back({format, text, text, {}});
  };
  for (const ToolCallFormat format : {ToolCallFormat::kV3, ToolCallFormat::kV31}) {
    add(format, kBegin);
    add(format, Text(kBegin, kEnd));
    add(format, Text(kBegin, "text"));
    add(format, Text(kBegin, "<｜tool▁call▁begin｜>"));
    add(format, kEnd);
  }
  for (const char* arguments : {"", "{", "{\"a\": 1", "{\"a\": }", "{]", "[1]", "\"x\"", "{} {}",
                                "{'a': 1}", "{\"a\": 01}"}) {
    add(ToolCallFormat::kV31, Text("a", kBegin, CallV31("f", arguments), kEnd, "b"));
    add(ToolCallFormat::kV3, Text("a", kBegin, CallV3("f", arguments), kEnd, "b"));
  }
  add(ToolCallFormat::kV31, Text(kBegin, CallV31("unknown", "{}"), kEnd));
  add(ToolCallFormat::kV31, Text(kBegin, CallV31("", "{}"), kEnd));
  add(ToolCallFormat::kV31, Text(kBegin, CallV31(std::string(300, 'f'), "{}"), kEnd));
  add(ToolCallFormat::kV31, Text(kBegin, CallV3("f", "{}"), kEnd));  // the other format
  add(ToolCallFormat::kV3, Text(kBegin, CallV31("f", "{}"), kEnd));
  add(ToolCallFormat::kV32, SectionV32(""));
  add(ToolCallFormat::kV32, SectionV32("what?"));
  add(ToolCallFormat::kV32, SectionV32(CallV32("unknown", "")));
  add(ToolCallFormat::kV32, SectionV32(CallV32("f", "{}")));
  add(ToolCallFormat::kV32, SectionV32(CallV32("f", Parameter("a", false, "Paris"))));
  add(ToolCallFormat::kV32, SectionV32(CallV32("f", Parameter("a", false, ""))));
  add(ToolCallFormat::kV32,
      SectionV32(CallV32("f", Text(Parameter("a", false, "1"), Parameter("a", false, "2")))));
  add(ToolCallFormat::kV32,
      "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
      "string=\"maybe\">x</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>");
  add(ToolCallFormat::kV32,
      "x\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
      "string=\"true\">half of a value </｜DSML｜para");
  return out;
}

TEST(ToolCallParserTest, CallsOfEveryFormatBecomeJson) {
  for (const Case& one : WholeCases()) {
    const ToolCallCollector found = Collect(one.format, {"f", "weather"}, one.text);
    EXPECT_EQ(found.content(), one.content) << one.text;
    ASSERT_EQ(found.calls().size(), one.calls.size()) << one.text;
    for (size_t i = 0; i < one.calls.size(); ++i) {
      EXPECT_EQ(found.calls()[i].name, one.calls[i].first) << one.text;
      EXPECT_EQ(found.calls()[i].arguments, one.calls[i].second) << one.text;
      EXPECT_TRUE(ParseOrderedJson(found.calls()[i].arguments, "arguments").ok()) << one.text;
    }
  }
}

TEST(ToolCallParserTest, MalformedCallsComeBackAsContentToTheByte) {
  for (const Case& one : BrokenCases()) {
    const ToolCallCollector found = Collect(one.format, {"f", "weather"}, one.text);
    EXPECT_EQ(found.content(), one.text);
    EXPECT_TRUE(found.calls().empty()) << one.text;
  }
}

TEST(ToolCallParserTest, EverySplitInTwoGivesTheSameEvents) {
  std::vector<Case> cases = WholeCases();
  for (Case& one : BrokenCases()) cases.push_back(std::move(one));
  for (const Case& one : cases) {
    const auto whole = Parse(one.format, {"f", "weather"}, one.text);
    for (size_t cut = 0; cut <= one.text.size(); ++cut) {
      const auto split = Parse(one.format, {"f", "weather"}, one.text, {cut});
      ASSERT_EQ(split, whole) << "cut at " << cut << ":\n" << one.text << "\n" << Show(split);
    }
    std::vector<size_t> bytes;
    for (size_t i = 1; i < one.text.size(); ++i) bytes.push_back(i);
    EXPECT_EQ(Parse(one.format, {"f", "weather"}, one.text, bytes), whole) << one.text;
  }
}

// Texts made of the pieces of calls in any order: nearly all broken, each in another way.
TEST(ToolCallParserTest, RandomTextsKeepTheirBytesWhateverTheSplit) {
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  const auto below = [&random](size_t limit) { return static_cast<size_t>(random()) % limit; };
  const std::vector<std::string> kMarks[] = {
      {kBegin,
       kEnd,
       "<｜tool▁call▁begin｜>",
       "<｜tool▁call▁end｜>",
       "<｜tool▁sep｜>",
       "f",
       "{",
       "}",
       "{}",
       "\"",
       "\\",
       "text",
       "\n",
       "```json",
       "```",
       "function",
       CallV31("f", "{\"a\": 1}"),
       CallV3("f", "{\"a\": 1}"),
       "<",
       "[",
       "]"},
      {"\n\n<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>", "<｜DSML｜invoke name=\"",
       "f\">", "</｜DSML｜invoke>", "<｜DSML｜parameter name=\"", "a\" string=\"", "true\">",
       "false\">", "</｜DSML｜parameter>", "1", "{}", "\"", "text", "\n", "<", CallV32("f", ""),
       Parameter("b", true, "v"), CallV32("f", Parameter("c", false, "2"))}};
  int64_t calls = 0;
  for (int round = 0; round < 20'000; ++round) {
    const auto format = static_cast<ToolCallFormat>(round % 3);
    const auto& marks = kMarks[format == ToolCallFormat::kV32 ? 1 : 0];
    std::string text;
    for (size_t left = below(12); left > 0; --left) text += marks[below(marks.size())];
    const auto whole = Parse(format, {"f"}, text);
    std::vector<size_t> cuts;
    for (size_t at = below(8); at < text.size(); at += 1 + below(24)) cuts.push_back(at);
    ASSERT_EQ(Parse(format, {"f"}, text, cuts), whole) << "seed " << seed << ": " << text;
    ToolCallCollector collector;
    collector.Add(whole);
    for (const ToolCall& call : collector.calls()) {
      EXPECT_EQ(call.name, "f");
      ASSERT_TRUE(ParseOrderedJson(call.arguments, "arguments").ok()) << "seed " << seed << text;
    }
    if (collector.calls().empty()) {
      ASSERT_EQ(collector.content(), text) << "seed " << seed;
    }
    calls += static_cast<int64_t>(collector.calls().size());
  }
  EXPECT_GT(calls, 100) << "seed " << seed;
}

TEST(ToolCallParserTest, ArgumentsComeBeforeTheCallIsWhole) {
  ToolCallParser parser(ToolCallFormat::kV32, {"f"});
  EXPECT_EQ(Show(parser.Push("\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n")), "");
  EXPECT_EQ(Show(parser.Push("<｜DSML｜parameter name=\"a\" string=\"true\">one ")),
            "call f\narguments {\"a\": \"one \n");
  EXPECT_EQ(Show(parser.Push("two")), "arguments two\n");
  EXPECT_EQ(Show(parser.Push("</｜DSML")), "");
  ToolCallParser v31(ToolCallFormat::kV31, {"f"});
  EXPECT_EQ(Show(v31.Push(Text(kBegin, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\""))),
            "call f\narguments {\"a\"\n");
}

TEST(ToolCallParserTest, ACallThatBreaksInAStreamIsTakenBackAndItsTextFollows) {
  const std::string text = Text(kBegin, CallV31("f", "{\"a\": }"));
  EXPECT_EQ(Show(Parse(ToolCallFormat::kV31, {"f"}, text)),
            Text("call f\narguments {\"a\": }\nbroken \ncontent ", text, "\n"));
}

TEST(ToolCallParserTest, WithoutNamesEveryToolIsKnown) {
  EXPECT_EQ(Collect(ToolCallFormat::kV31, {}, Text(kBegin, CallV31("any", "{}"))).calls().size(),
            1u);
}

TEST(ToolCallParserTest, HostileTextsTakeLinearTime) {
  const auto begin = std::chrono::steady_clock::now();
  for (const std::string& mark :
       {std::string(kBegin), Text(kBegin, "<｜tool▁call▁begin｜>"), std::string("\n"),
        Text(kBegin, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"),
        std::string("<｜DSML｜function_calls>")}) {
    std::string text;
    while (text.size() < 1 << 20) text += mark;
    for (const ToolCallFormat format :
         {ToolCallFormat::kV3, ToolCallFormat::kV31, ToolCallFormat::kV32}) {
      EXPECT_EQ(Collect(format, {}, text).content(), text);
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30))
      << "15 MiB; quadratic time would take hours";
}

TEST(ToolCallParserTest, NamesAreSglangs) {
  for (const char* name : {"deepseekv3", "deepseekv31", "deepseekv32"}) {
    const auto format = ParseToolCallFormat(name);
    ASSERT_TRUE(format.ok()) << name;
    EXPECT_STREQ(NameOf(*format), name);
  }
  EXPECT_NE(ParseToolCallFormat("qwen").status().message().find("deepseekv32"), std::string::npos);
  for (const char* name : {"deepseek-r1", "deepseek-v3"}) {
    EXPECT_STREQ(NameOf(*ParseReasoningFormat(name)), name);
  }
  EXPECT_NE(ParseReasoningFormat("x").status().message().find("deepseek-r1"), std::string::npos);
}

struct ReasoningCase {
  ReasoningStart start;
  std::string text;
  std::string reasoning;
  std::string content;
};

TEST(ReasoningParserTest, EverySplitDividesAlike) {
  const ReasoningCase kCases[] = {
      {ReasoningStart::kContent, "<think>a</think>b", "", "<think>a</think>b"},
      {ReasoningStart::kReasoning, "a</think>b</think>", "a", "b</think>"},
      {ReasoningStart::kReasoning, "<think>\na</think>b", "\na", "b"},
      {ReasoningStart::kReasoning, "never ends </thin", "never ends </thin", ""},
      {ReasoningStart::kReasoning, "<thi", "<thi", ""},
      {ReasoningStart::kReasoning, "</think>b", "", "b"},
      {ReasoningStart::kUndecided, "<think>a</think>b", "a", "b"},
      {ReasoningStart::kUndecided, "It is sunny.", "", "It is sunny."},
      {ReasoningStart::kUndecided, "<thi", "", "<thi"},
      {ReasoningStart::kUndecided, "", "", ""},
  };
  for (const ReasoningCase& one : kCases) {
    for (size_t cut = 0; cut <= one.text.size(); ++cut) {
      ReasoningParser parser(one.start);
      TextPiece all = parser.Push(one.text.substr(0, cut));
      all.Append(parser.Push(one.text.substr(cut)));
      all.Append(parser.Flush());
      EXPECT_EQ(all.reasoning, one.reasoning) << one.text << " cut at " << cut;
      EXPECT_EQ(all.content, one.content) << one.text << " cut at " << cut;
    }
  }
}

}  // namespace
}  // namespace causeway
