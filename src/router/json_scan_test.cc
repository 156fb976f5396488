#include "router/json_scan.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

namespace causeway {
namespace {

std::vector<std::pair<std::string, std::string>> Members(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> out;
  const JsonProblem problem = ScanObject(text, [&](const JsonMember& member) {
    EXPECT_EQ(text[member.begin], '"');
    EXPECT_EQ(text.substr(member.end - member.value.size(), member.value.size()), member.value);
    out.emplace_back(member.key, member.value);
  });
  EXPECT_FALSE(problem.has_value()) << *problem;
  return out;
}

TEST(JsonScan, MembersAreFoundAsTheyStand) {
  const auto members =
      Members(R"( { "a" : [1, {"b": "}"}] , "c\"d":"x\\" ,"e":{},"f":-1.5e+3, "g" :null } )");
  const std::vector<std::pair<std::string, std::string>> expected = {{"a", R"([1, {"b": "}"}])"},
                                                                     {R"(c\"d)", R"("x\\")"},
                                                                     {"e", "{}"},
                                                                     {"f", "-1.5e+3"},
                                                                     {"g", "null"}};
  EXPECT_EQ(members, expected);
  EXPECT_TRUE(Members("{}").empty());
  EXPECT_TRUE(Members(" {\n} ").empty());
}

TEST(JsonScan, BrokenTextSaysWhereItBreaks) {
  for (const char* text : {"",
                           "   ",
                           "[1]",
                           "\"a\"",
                           "{",
                           "{\"a\"",
                           "{\"a\":",
                           "{\"a\":1",
                           "{\"a\":1,",
                           "{\"a\":1,}",
                           "{\"a\" 1}",
                           "{a:1}",
                           "{\"a\":01}",
                           "{\"a\":1.}",
                           "{\"a\":.5}",
                           "{\"a\":+1}",
                           "{\"a\":1e}",
                           "{\"a\":tru}",
                           "{\"a\":nulll}",
                           "{\"a\":\"\\x\"}",
                           "{\"a\":\"\\u12g4\"}",
                           "{\"a\":\"\n\"}",
                           "{\"a\":[1,]}",
                           "{\"a\":[1}",
                           "{\"a\":{\"b\":1]}",
                           "{} x",
                           "{\"a\":1}}",
                           "{\"a\":\"b}"}) {
    const JsonProblem problem = ScanObject(text, [](const JsonMember&) {});
    ASSERT_TRUE(problem.has_value()) << text;
    EXPECT_NE(problem->find("expected"), std::string::npos) << *problem;
  }
}

TEST(JsonScan, DeepNestingIsRefusedAndShallowIsNot) {
  const auto nested = [](size_t levels) {
    return "{\"a\":" + std::string(levels, '[') + std::string(levels, ']') + "}";
  };
  EXPECT_FALSE(ScanObject(nested(256), [](const JsonMember&) {}).has_value());
  EXPECT_TRUE(ScanObject(nested(257), [](const JsonMember&) {}).has_value());
  EXPECT_TRUE(ScanObject(nested(1'000'000), [](const JsonMember&) {}).has_value());
}

// Bytes of valid documents are changed, removed and doubled: both readers must agree.
TEST(JsonScan, WhatIsValidIsAsAnIndependentParserHasIt) {
  const std::vector<std::string> seeds = {
      R"({"text":"hello \"you\" \u00e4","n":[1,-0.5,2e10],"deep":{"x":[{},[],null,true,false]}})",
      R"({"a":"\\","b":"","c":[[1,2],[3]],"d":{"e":{"f":"g"}}})", R"({"n":0,"m":-0,"k":10.25E-7})"};
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::string bytes = "{}[]\",:\\ntfu0123456789.eE+- ";
  int valid = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string text = seeds[random() % seeds.size()];
    const size_t changes = random() % 3;
    for (size_t i = 0; i < changes; ++i) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = bytes[random() % bytes.size()];
          break;
        case 1:
          text.erase(at, 1);
          break;
        default:
          text.insert(at, 1, bytes[random() % bytes.size()]);
      }
    }
    bool object = false;
    try {
      object = nlohmann::json::parse(text).is_object();
    } catch (const nlohmann::json::out_of_range&) {
      continue;  // a number beyond double's range, which is the worker's to refuse
    } catch (const nlohmann::json::parse_error&) {
    }
    const JsonProblem problem = ScanObject(text, [](const JsonMember&) {});
    ASSERT_EQ(!problem.has_value(), object) << text << " " << problem.value_or("");
    valid += object ? 1 : 0;
  }
  EXPECT_GT(valid, 20'000);
}

TEST(JsonScan, StringsSurviveQuotingAndUnescaping) {
  const std::string text = "a\"b\\c\n\t\x01 \xc3\xa4 \xf0\x9f\x98\x80";
  EXPECT_EQ(nlohmann::json::parse(QuoteJson(text)).get<std::string>(), text);
  const std::string quoted = nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/true);
  EXPECT_EQ(UnescapeJson(quoted.substr(1, quoted.size() - 2)), text);
  EXPECT_EQ(UnescapeJson("\\ud800x"), "\xef\xbf\xbdx");
  EXPECT_TRUE(IsKey("str\\u0065am", "stream"));
  EXPECT_FALSE(IsKey("streams", "stream"));
}

}  // namespace
}  // namespace causeway
