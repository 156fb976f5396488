#include "grammar/token_grammar.h"

#include <gtest/gtest.h>

#include <cmath>

#include "grammar/grammar_walk.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"
#include "grammar/schema_validator.h"

namespace causeway {
namespace {

// All bytes and many pieces of JSON; ids without text between them, and two ids with one text.
const std::vector<std::string>& Texts() {
  static const auto* texts = [] {
    auto* out = new std::vector<std::string>{"", ""};
    for (int byte = 0; byte < 256; ++byte) out->push_back(std::string(1, static_cast<char>(byte)));
    for (const char* piece :
         {"{\"",   "\": ",  "\":", ", \"", "\"}", "}}",   "]}",    "null", "true", "fal",
          "se",    "\"a\"", "ab",  "abc",  "é",   "\xc3", "\xa9x", "12",   "0.",   "-1",
          "\\u00", "\\\"",  "  ",  "\n  ", "",    "[[",   "]]",    "[1,",  "ab"}) {
      out->push_back(piece);
    }
    std::mt19937 random(11);
    for (int i = 0; i < 300; ++i) {
      std::string text;
      for (auto n = 1 + random() % 5; n > 0; --n) text += "{}[],:\"ab01 \\nue-."[random() % 18];
      out->push_back(text);
    }
    return out;
  }();
  return *texts;
}

std::shared_ptr<const Vocabulary> MakeVocabulary() {
  const std::vector<std::string_view> views(Texts().begin(), Texts().end());
  StatusOr<Vocabulary> vocabulary = Vocabulary::Make(views);
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status().message();
  return std::make_shared<Vocabulary>(std::move(vocabulary).value());
}

std::vector<StatusOr<Grammar>> Grammars() {
  std::vector<StatusOr<Grammar>> out;
  out.push_back(CompileJsonObject());
  out.push_back(CompileRegex("(ab|abc)*[01]{2,4}é?"));
  out.push_back(CompileJsonSchema(SchemaJson::parse(R"({"type": "object", "properties": {
      "a": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}, "b": {"type": "string", "maxLength": 4},
      "n": {"type": "number", "minimum": -5, "maximum": 12}}, "required": ["n"]})")));
  return out;
}

constexpr int32_t kEnd = 0;

// The tokens that a mask leaves, and whether the end is among them.
std::vector<int32_t> Left(GrammarCursor& cursor) {
  std::vector<float> logits(Texts().size() + 10, 1.0f);
  const int32_t ends[] = {kEnd};
  const Status status = cursor.Mask(ends, logits);
  EXPECT_TRUE(status.ok()) << status.message();
  std::vector<int32_t> out;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!std::isinf(logits[id])) out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

TEST(Vocabulary, IsATreeThatHoldsEveryTokenOnce) {
  const auto vocabulary = MakeVocabulary();
  std::vector<int32_t> seen;
  std::string path;
  const auto& places = vocabulary->places();
  for (size_t i = 0; i + 1 < places.size(); ++i) {
    path.resize(static_cast<size_t>(places[i].depth - 1));
    path += static_cast<char>(places[i].byte);
    ASSERT_GT(places[i].end, static_cast<int32_t>(i));
    for (int32_t t = places[i].first_token; t < places[i + 1].first_token; ++t) {
      const int32_t id = vocabulary->tokens()[static_cast<size_t>(t)];
      EXPECT_EQ(vocabulary->TextOf(id), path);
      seen.push_back(id);
    }
  }
  std::sort(seen.begin(), seen.end());
  std::vector<int32_t> expected;
  for (size_t id = 0; id < Texts().size(); ++id) {
    if (!Texts()[id].empty()) expected.push_back(static_cast<int32_t>(id));
  }
  EXPECT_EQ(seen, expected);
}

TEST(Vocabulary, WithoutATokenForEveryByteIsRefused) {
  std::vector<std::string_view> views(Texts().begin(), Texts().end());
  for (std::string_view& view : views) {
    if (view == "}") view = "";
  }
  const Status status = Vocabulary::Make(views).status();
  EXPECT_NE(status.message().find("no token for the byte 125 alone"), std::string::npos)
      << status.message();
}

TEST(TokenGrammar, MasksAreThoseOfEveryTokenTriedByItself) {
  const auto vocabulary = MakeVocabulary();
  std::mt19937 random(1);
  int64_t compared = 0;
  for (StatusOr<Grammar>& grammar : Grammars()) {
    ASSERT_TRUE(grammar.ok()) << grammar.status().message();
    Automaton plain(*grammar);
    const auto shared = std::make_shared<TokenGrammar>(*grammar, vocabulary);
    // Few states, so that they are forgotten again and again: it must not show.
    const auto small =
        std::make_shared<TokenGrammar>(*grammar, vocabulary, AutomatonLimits{.max_states = 1500});
    for (int run = 0; run < 30; ++run) {
      GrammarCursor cursor(shared);
      GrammarCursor forgetful(small);
      std::string text;
      for (int step = 0; step < 25; ++step) {
        std::vector<int32_t> expected;
        if (Matches(plain, text)) expected.push_back(kEnd);
        for (size_t id = 1; id < Texts().size(); ++id) {
          if (!Texts()[id].empty() && StateAfter(plain, text + Texts()[id]) != Automaton::kDead) {
            expected.push_back(static_cast<int32_t>(id));
          }
        }
        const std::vector<int32_t> left = Left(cursor);
        ASSERT_EQ(left, expected) << text;
        ASSERT_EQ(Left(forgetful), expected) << text;
        ASSERT_FALSE(left.empty()) << text;
        ++compared;
        const int32_t token = left[random() % left.size()];
        if (token == kEnd) break;
        ASSERT_TRUE(cursor.Take(token).ok());
        ASSERT_TRUE(forgetful.Take(token).ok());
        text += Texts()[static_cast<size_t>(token)];
        EXPECT_EQ(cursor.accepts(), Matches(plain, text));
        if (cursor.complete()) break;
      }
    }
  }
  EXPECT_GT(compared, 300);
}

TEST(TokenGrammar, RandomTokensUnderTheMaskAlwaysLeadToAValueOfTheSchema) {
  const auto vocabulary = MakeVocabulary();
  const SchemaJson schema = SchemaJson::parse(R"({"type": "object", "properties": {
      "id": {"type": "integer", "minimum": 1, "maximum": 2000},
      "name": {"type": "string", "minLength": 1, "maxLength": 5},
      "kind": {"enum": ["ab", "abc", null, [1, 2]]},
      "parts": {"type": "array", "items": {"$ref": "#"}, "minItems": 0, "maxItems": 2},
      "note": {"oneOf": [{"type": "null"}, {"type": "string", "pattern": "^[ab]+$"}]}},
      "required": ["id", "note"], "additionalProperties": {"type": "boolean"}})");
  StatusOr<Grammar> grammar = CompileJsonSchema(schema);
  ASSERT_TRUE(grammar.ok()) << grammar.status().message();
  Automaton plain(*grammar);
  const auto shared = std::make_shared<TokenGrammar>(*grammar, vocabulary);
  const SchemaValidator validator(schema);
  for (uint32_t seed = 1; seed <= 150; ++seed) {
    std::mt19937 random(seed);
    GrammarCursor cursor(shared);
    std::string text;
    for (int step = 0; step < 60 && !cursor.complete(); ++step) {
      const std::vector<int32_t> left = Left(cursor);
      ASSERT_FALSE(left.empty()) << "seed " << seed << ": " << text;
      const int32_t token = left[random() % left.size()];
      if (token == kEnd) break;
      ASSERT_TRUE(cursor.Take(token).ok());
      text += Texts()[static_cast<size_t>(token)];
    }
    if (!cursor.accepts()) text += SomeEnd(plain, StateAfter(plain, text));
    const SchemaJson value = SchemaJson::parse(text, nullptr, /*allow_exceptions=*/false);
    ASSERT_FALSE(value.is_discarded()) << "seed " << seed << ": " << text;
    EXPECT_TRUE(validator.Accepts(value)) << "seed " << seed << ": " << text;
  }
}

TEST(TokenGrammar, ATokenThatDoesNotFitChangesNothing) {
  StatusOr<Grammar> grammar = CompileRegex("ab");
  ASSERT_TRUE(grammar.ok());
  GrammarCursor cursor(std::make_shared<TokenGrammar>(*grammar, MakeVocabulary()));
  const std::vector<int32_t> before = Left(cursor);
  EXPECT_FALSE(cursor.Take(2 + 'b').ok());
  EXPECT_FALSE(cursor.Take(kEnd).ok()) << "no text, as a special token";
  EXPECT_FALSE(cursor.Take(-1).ok());
  EXPECT_FALSE(cursor.Take(1 << 30).ok());
  EXPECT_EQ(Left(cursor), before);
  EXPECT_TRUE(cursor.Take(2 + 'a').ok());
  EXPECT_FALSE(cursor.complete());
  EXPECT_TRUE(cursor.Take(2 + 'b').ok());
  EXPECT_TRUE(cursor.complete());
  EXPECT_EQ(Left(cursor), std::vector<int32_t>{kEnd});
}

TEST(TokenGrammar, ItBeginsAfterATokenIfAskedTo) {
  StatusOr<Grammar> grammar = CompileRegex("ab");
  ASSERT_TRUE(grammar.ok());
  GrammarCursor cursor(std::make_shared<TokenGrammar>(*grammar, MakeVocabulary()), 1);
  EXPECT_EQ(Left(cursor).size(), Texts().size() + 9) << "all but the end";
  EXPECT_TRUE(cursor.Take(2 + 'z').ok());
  EXPECT_TRUE(cursor.Take(1).ok());
  EXPECT_FALSE(cursor.Take(2 + 'z').ok());
  EXPECT_TRUE(cursor.Take(2 + 'a').ok());
}

TEST(TokenGrammar, TooManyStatesAreAnErrorAndNotAHang) {
  StatusOr<Grammar> grammar = CompileRegex("[ab]*a[ab]{30}");
  ASSERT_TRUE(grammar.ok());
  GrammarCursor cursor(
      std::make_shared<TokenGrammar>(*grammar, MakeVocabulary(), AutomatonLimits{.max_states = 1}));
  std::vector<float> logits(Texts().size(), 0.0f);
  EXPECT_EQ(cursor.Mask({}, logits).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(cursor.Mask({}, logits).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace causeway
