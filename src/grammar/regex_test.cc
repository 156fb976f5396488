#include "grammar/regex.h"

#include <gtest/gtest.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "grammar/grammar_walk.h"

namespace causeway {
namespace {

Automaton Compiled(std::string_view pattern) {
  StatusOr<Grammar> grammar = CompileRegex(pattern);
  EXPECT_TRUE(grammar.ok()) << pattern << ": " << grammar.status().message();
  return Automaton(std::move(grammar).value());
}

TEST(Regex, MatchesWhatItsPartsMean) {
  struct Case {
    const char* pattern;
    std::vector<std::string> yes, no;
  };
  const Case cases[] = {
      {"", {""}, {"a"}},
      {"abc", {"abc"}, {"ab", "abcd", "abd"}},
      {"a|bc|", {"a", "bc", ""}, {"b", "abc"}},
      {"a*b+c?", {"b", "aabbc", "abc"}, {"a", "ac", "abcc"}},
      {"a{2}b{1,3}c{2,}", {"aabcc", "aabbbcccc"}, {"abcc", "aabbbbcc", "aabc"}},
      {"(?:ab)+?", {"ab", "abab"}, {"", "aba"}},
      {"(?<x>a)(?P<y>b)", {"ab"}, {"a"}},
      {"[a-c_][^a-c]", {"ax", "_é", "b\n"}, {"aa", "dx", "_"}},
      {"[\\]\\-x-]", {"]", "-", "x"}, {"\\"}},
      {".", {"a", "é", "€", "😀", " "}, {"\n", "", "ab"}},
      {"\\d\\D\\w\\W\\s\\S", {"1a_- x"}, {"aaaa x"}},
      {"\\x41\\u00e9\\u{1F600}\\n\\.", {"Aé😀\n."}, {"Aé😀\nx"}},
      {"^a$|^b$", {"a", "b"}, {"ab", "^a$"}},
      {"\\(\\)\\{\\}", {"(){}"}, {"()"}},
      {"[\\u0800-\\u1000]", {"\xe0\xa0\x80", "\xe1\x80\x80"}, {"\xe1\x80\x81", "\xdf\xbf"}},
      {"[^\\x00-\\x7f]",
       {"é", "\xf4\x8f\xbf\xbf"},
       {"a", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80"}},
  };
  for (const Case& c : cases) {
    Automaton automaton = Compiled(c.pattern);
    for (const std::string& text : c.yes)
      EXPECT_TRUE(Matches(automaton, text)) << c.pattern << " " << text;
    for (const std::string& text : c.no)
      EXPECT_FALSE(Matches(automaton, text)) << c.pattern << " " << text;
  }
}

TEST(Regex, WhatIsNotUnderstoodIsRefusedWithItsPlace) {
  struct Case {
    const char* pattern;
    const char* message;
  };
  const Case cases[] = {
      {"a(?=b)", "groups with ? other than"},
      {"a(?!b)", "groups with ?"},
      {"(?<=a)b", "groups with ?"},
      {"(?i)a", "groups with ?"},
      {"(a)\\1", "\\1 is not supported, at character 4"},
      {"\\bword", "\\b is not supported"},
      {"\\p{L}", "\\p is not supported"},
      {"a++", "possessive"},
      {"a**", "follow each other"},
      {"*a", "nothing to repeat"},
      {"a{2,1}", "below its start"},
      {"a{x}", "expected a number"},
      {"a{1000000}", "limited to 100000"},
      {"(a", "no closing )"},
      {"a)", ") without ("},
      {"[a", "no closing ]"},
      {"[b-a]", "low to high"},
      {"a$b", "$ is supported at the end"},
      {"(^a)", "anchors"},
      {"a^b", "anchors"},
      {"\\", "nothing follows"},
      {"\\x4", "hexadecimal"},
      {"\\ud800", "no character"},
      {"[[:alpha:]]", "named classes"},
      {"a{", "expected a number"},
      {"{a}", "write \\{"},
      {"\xff", "UTF-8"},
      {"[^\\x00-\\u{10ffff}]", "no text matches"},
      {"(a{1000}){1000}", "too large"},
  };
  for (const Case& c : cases) {
    const Status status = CompileRegex(c.pattern).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.pattern;
    EXPECT_NE(status.message().find(c.message), std::string::npos)
        << c.pattern << ": " << status.message();
  }
  EXPECT_FALSE(CompileRegex(std::string(200, '(') + std::string(200, ')')).ok());
  EXPECT_FALSE(CompileRegex(std::string(100'000, 'a')).ok());
}

TEST(Regex, ASearchAcceptsWhereAMatchEnds) {
  StatusOr<Grammar> grammar = CompileRegexSearch("b+c|^x");
  ASSERT_TRUE(grammar.ok());
  Automaton automaton(std::move(grammar).value());
  for (const char* text : {"bc", "aabbc", "cbc", "x"})
    EXPECT_TRUE(Matches(automaton, text)) << text;
  for (const char* text : {"", "b", "bcx", "ax", "bca"})
    EXPECT_FALSE(Matches(automaton, text)) << text;
}

// A random pattern of few characters, in the syntax that PCRE2 reads the same way.
std::string RandomPattern(std::mt19937& random, int depth) {
  const auto atom = [&]() -> std::string {
    switch (random() % (depth > 0 ? 6 : 4)) {
      case 0:
        return "a";
      case 1:
        return "[ab]";
      case 2:
        return "[^b]";
      case 3:
        return "b";
      default:
        return Text("(", RandomPattern(random, depth - 1), ")");
    }
  };
  std::string out;
  const size_t atoms = 1 + random() % 3;
  for (size_t i = 0; i < atoms; ++i) {
    const char* repeats[] = {"", "", "*", "+", "?", "{2}", "{1,2}", "{2,}"};
    out += Text(atom(), repeats[random() % 8]);
    if (random() % 5 == 0 && i + 1 < atoms) out += "|";
  }
  return out;
}

TEST(Regex, RandomPatternsMatchAsPcre2HasIt) {
  const uint32_t seed = 20261126;
  std::mt19937 random(seed);
  int matched = 0;
  for (int i = 0; i < 300; ++i) {
    const std::string pattern = RandomPattern(random, 2);
    Automaton automaton = Compiled(pattern);
    const std::string whole = Text("\\A(?:", pattern, ")\\z");
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(whole.c_str()),
                                     PCRE2_ZERO_TERMINATED, 0, &error, &offset, nullptr);
    ASSERT_NE(code, nullptr) << whole;
    pcre2_match_data* match = pcre2_match_data_create_from_pattern(code, nullptr);
    for (int t = 0; t < 60; ++t) {
      std::string text;
      for (auto n = random() % 8; n > 0; --n) text += "abc"[random() % 3];
      const bool expected = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.c_str()),
                                        text.size(), 0, 0, match, nullptr) >= 0;
      ASSERT_EQ(Matches(automaton, text), expected)
          << pattern << " on \"" << text << "\", seed " << seed;
      matched += expected ? 1 : 0;
    }
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }
  EXPECT_GT(matched, 1000);
}

TEST(Regex, RandomTextsOfAPatternMatchIt) {
  std::mt19937 random(5);
  for (const char* pattern : {"[a-z]{1,5}@[a-z]+\\.(com|org)", "(\\d{3}-)?\\d{4}", "[^\"]*é+"}) {
    Automaton automaton = Compiled(pattern);
    const std::string whole = Text("\\A(?:", pattern, ")\\z");
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(whole.c_str()),
                                     PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &offset, nullptr);
    ASSERT_NE(code, nullptr);
    pcre2_match_data* match = pcre2_match_data_create_from_pattern(code, nullptr);
    for (int i = 0; i < 50; ++i) {
      const std::string text = RandomText(automaton, random, 20);
      EXPECT_GE(pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.c_str()), text.size(), 0, 0,
                            match, nullptr),
                0)
          << pattern << " on " << text;
    }
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }
}

}  // namespace
}  // namespace causeway
