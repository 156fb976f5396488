#include "grammar/ebnf.h"

#include <gtest/gtest.h>

#include "grammar/grammar_walk.h"

namespace causeway {
namespace {

TEST(Ebnf, RulesMatchWhatTheySay) {
  StatusOr<Grammar> grammar = CompileEbnf(R"(
      # lists of words
      root ::= "yes" | list "." ?
      list ::= "[" item ("," item){0,2} "]"
      item ::= [a-z\u00e9]+ | list | "\"" [^"]* "\x41")");
  ASSERT_TRUE(grammar.ok()) << grammar.status().message();
  Automaton automaton(std::move(grammar).value());
  for (const char* text : {"yes", "[a]", "[a,bé,[c]].", "[\"x AA]"}) {
    EXPECT_TRUE(Matches(automaton, text)) << text;
  }
  for (const char* text : {"", "no", "[]", "[a,b,c,d]", "[A]", "yes.", "[[a]"}) {
    EXPECT_FALSE(Matches(automaton, text)) << text;
  }
}

TEST(Ebnf, AListByRecursionAtItsEndMayBeLong) {
  StatusOr<Grammar> grammar = CompileEbnf(R"(root ::= "a" | "a" "," root)");
  ASSERT_TRUE(grammar.ok()) << grammar.status().message();
  Automaton automaton(std::move(grammar).value());
  std::string text = "a";
  for (int i = 0; i < 5000; ++i) text += ",a";
  EXPECT_TRUE(Matches(automaton, text));
  EXPECT_LT(automaton.states(), 10u);
}

TEST(Ebnf, WhatIsWrongIsNamed) {
  struct Case {
    const char* text;
    const char* message;
  };
  const Case cases[] = {
      {"", "no rule root"},
      {"root = \"a\"", "expected a rule"},
      {"root ::= x", "the rule x is not defined"},
      {"root ::= \"a\"\nroot ::= \"b\"", "defined twice"},
      {"root ::= root \"a\" | \"b\"", "the rule root refers to itself before any text"},
      {"root ::= a\na ::= b?\nb ::= a", "refers to itself before any text"},
      {"root ::= \"a\" root", "no text matches"},
      {"root ::= \"a", "no closing quote"},
      {"root ::= (\"a\"", "no closing )"},
      {"root ::= \"a\")", ") without ("},
      {"root ::= \"a\"{3,2}", "below its start"},
      {"root ::= [b-a]", "low to high"},
      {"root ::= \"a\" $", "expected a literal"},
      {"root ::= (\"aaaa\"{1000}){1000}", "too large"},
  };
  for (const Case& c : cases) {
    const Status status = CompileEbnf(c.text).status();
    EXPECT_NE(status.message().find(c.message), std::string::npos)
        << c.text << ": " << status.message();
  }
}

}  // namespace
}  // namespace causeway
