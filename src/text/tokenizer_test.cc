#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "text/bpe.h"
#include "text/bpe_tokenizer.h"
#include "text/json_value.h"
#include "text/split_pattern.h"
#include "text/tokenizer_json_builder.h"
#include "text/utf8.h"

namespace causeway {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

const std::string kSource = CAUSEWAY_SOURCE_DIR;

std::unique_ptr<Tokenizer> Demo() {
  auto tokenizer = Tokenizer::Load(kSource + "/data/demo/tokenizer.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

std::unique_ptr<Tokenizer> Make(const json& description) {
  auto tokenizer = MakeBpeTokenizer(description.dump(), "test.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

Ids IdsOf(const JsonValue& list) {
  Ids ids;
  for (const JsonValue& id : list.values) ids.push_back(static_cast<int32_t>(*id.Integer()));
  return ids;
}

TEST(Tokenizer, GivesTheIdsOfHuggingFaceForTheDemoTokenizer) {
  const auto tokenizer = Demo();
  std::ifstream file(kSource + "/testdata/tokenizer/demo_ids.jsonl");
  std::string line;
  int count = 0;
  while (std::getline(file, line)) {
    const auto entry = ParseJson(line, "line");
    ASSERT_TRUE(entry.ok()) << entry.status().message();
    const JsonValue* hex = entry->Find("hex");
    const std::string text = hex != nullptr ? FromHex(hex->text) : entry->Find("text")->text;
    const Ids ids = tokenizer->Encode(text, true);
    EXPECT_EQ(ids, IdsOf(*entry->Find("ids"))) << line;
    EXPECT_EQ(tokenizer->Encode(text, false), IdsOf(*entry->Find("plain"))) << line;
    std::string sound;
    AppendUtf8(text, &sound);
    EXPECT_EQ(tokenizer->Decode(ids, false), sound) << line;
    ++count;
  }
  EXPECT_GE(count, 290);
}

TEST(Tokenizer, ReplacesBrokenUtf8AsPythonDoes) {
  // "\N" stands for one U+FFFD; from bytes.decode("utf-8", "replace") of CPython.
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"61ff62", "a\\Nb"},
      {"c3", "\\N"},
      {"c328", "\\N("},
      {"e4bd", "\\N"},
      {"e4bda0e5", "\xe4\xbd\xa0\\N"},
      {"f09f98", "\\N"},
      {"f09f9861", "\\Na"},
      {"8080", "\\N\\N"},
      {"eda080", "\\N\\N\\N"},
      {"c080", "\\N\\N"},
      {"e08080", "\\N\\N\\N"},
      {"f0808080", "\\N\\N\\N\\N"},
      {"f4908080", "\\N\\N\\N\\N"},
      {"f888808080", "\\N\\N\\N\\N\\N"},
      {"e4e4bda0", "\\N\xe4\xbd\xa0"},
      {"f09ff09f9880", "\\N\xf0\x9f\x98\x80"},
      {"efbfbdefbf", "\\N\\N"},
      {"ed9fbfee8080", "\xed\x9f\xbf\xee\x80\x80"},
      {"f48fbfbf", "\xf4\x8f\xbf\xbf"},
      {"00", std::string(1, '\0')},
  };
  for (auto [hex, expected] : cases) {
    for (size_t at; (at = expected.find("\\N")) != std::string::npos;)
      expected.replace(at, 2, "\xef\xbf\xbd");
    std::string found;
    AppendUtf8(FromHex(hex), &found);
    EXPECT_EQ(found, expected) << hex;
  }
}

// Byte-pair encoding as its definition says: again and again the pair of lowest rank.
Ids NaiveBpe(const BpeModel& model, std::string_view piece) {
  std::map<std::string, int32_t> ids;
  for (const auto& token : model.vocabulary) ids[token.text] = token.id;
  std::vector<std::string> parts;
  for (const char c : piece) parts.push_back(ByteLevelChar(static_cast<uint8_t>(c)));
  for (;;) {
    size_t best = parts.size(), best_rank = model.merges.size();
    for (size_t i = 0; i + 1 < parts.size(); ++i)
      for (size_t rank = 0; rank < best_rank; ++rank)
        if (model.merges[rank].first == parts[i] && model.merges[rank].second == parts[i + 1]) {
          best = i;
          best_rank = rank;
        }
    if (best == parts.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<int64_t>(best) + 1);
  }
  Ids result;
  for (const std::string& part : parts) result.push_back(ids[part]);
  return result;
}

TEST(Bpe, MergesAsTheDefinitionSaysForRandomModelsAndLengths) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    BpeModel model;
    std::vector<std::string> texts;
    std::map<std::string, bool> known;
    for (int byte = 0; byte < 256; ++byte) model.vocabulary.push_back({ByteLevelChar(byte), byte});
    texts = {"a", "b", "c"};
    for (int i = 0; i < 25; ++i) {
      const std::string left = texts[random() % texts.size()],
                        right = texts[random() % texts.size()];
      if (known[left + " " + right] || (left + right).size() > 40) continue;
      known[left + " " + right] = true;
      model.merges.emplace_back(left, right);
      if (known[left + right]) continue;
      known[left + right] = true;
      texts.push_back(left + right);
      model.vocabulary.push_back({left + right, static_cast<int32_t>(model.vocabulary.size())});
    }
    const auto bpe = Bpe::Make(model, "model");
    ASSERT_TRUE(bpe.ok()) << bpe.status().message();
    for (int i = 0; i < 60; ++i) {
      std::string piece(1 + random() % 80, 'a');
      const auto letters = 1 + random() % 3;
      for (char& c : piece) c = static_cast<char>('a' + random() % letters);
      Ids ids;
      bpe->Encode(piece, &ids);
      ASSERT_EQ(ids, NaiveBpe(model, piece)) << "seed " << seed << ", piece " << piece;
    }
  }
}

TEST(Tokenizer, TakesLinearTimeOnAMegabyteOfHostileText) {
  const auto tokenizer = Demo();
  for (const std::string unit :
       {"a", " ", "\n", "\n ", " \t", ".", "1", "\xcc\x81", "\xe2\x80\x8d", "\x01", "\xe7\x9a\x84",
        "\xff", "<", "<think", "'s", "ab", "A ", "\xd0\xb5"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    const auto start = std::chrono::steady_clock::now();
    const Ids ids = tokenizer->Encode(text);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    std::string sound;
    AppendUtf8(text, &sound);
    EXPECT_EQ(tokenizer->Decode(ids, false), sound) << unit;
    // Half a second at most in a release build; a quadratic step would take many minutes.
    EXPECT_LT(taken.count(), 30) << unit;
  }
}

TEST(Tokenizer, ThreadsMayShareIt) {
  const auto tokenizer = Demo();
  const std::string text = "Natalia sold 48/2 = 24 clips <think>in May.</think>\n\n  \xe4\xbd\xa0 ";
  const Ids expected = tokenizer->Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> equal(4);
  for (size_t t = 0; t < equal.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) equal[t] += tokenizer->Encode(text) == expected ? 1 : 0;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 200));
}

TEST(Tokenizer, EveryTokensBytesLeadBackToItsId) {
  const auto tokenizer = Demo();
  EXPECT_EQ(tokenizer->size(), 4096);
  for (int32_t id = 0; id < 4096; ++id) {
    ASSERT_FALSE(tokenizer->TokenBytes(id).empty()) << id;
    EXPECT_EQ(tokenizer->TokenId(tokenizer->TokenBytes(id)), id);
  }
  EXPECT_EQ(tokenizer->TokenBytes(3), "<think>");
  EXPECT_TRUE(tokenizer->IsSpecial(3));
  EXPECT_FALSE(tokenizer->IsSpecial(300));
  EXPECT_EQ(tokenizer->TokenId("no such token"), std::nullopt);
  for (const int32_t id : {-1, 4096, INT32_MAX, INT32_MIN}) {
    EXPECT_TRUE(tokenizer->TokenBytes(id).empty());
    EXPECT_FALSE(tokenizer->IsSpecial(id));
  }
}

TEST(Tokenizer, FindsTheLeftmostAndLongestAddedToken) {
  const auto tokenizer = Make(SmallTokenizerJson());
  EXPECT_EQ(tokenizer->size(), 303);
  EXPECT_EQ(tokenizer->Encode("<a><a>b"), (Ids{300, 301}));
  EXPECT_EQ(tokenizer->Encode("<<a>"), (Ids{'<', 300}));
  // "x<" begins further left, but normalised tokens are looked for in what the others leave.
  EXPECT_EQ(tokenizer->Encode("x<a>"), (Ids{'x', 300}));
  EXPECT_EQ(tokenizer->Encode("x<b"), (Ids{302, 'b'}));
  EXPECT_EQ(tokenizer->Encode("<a>", false), (Ids{'<', 'a', '>'}));
  EXPECT_EQ(tokenizer->Encode("hell<a>hello"), (Ids{258, 300, 258, 'o'}));
  EXPECT_EQ(tokenizer->Decode({258, 300, 302, 400, -5}), "hellx<");
  EXPECT_EQ(tokenizer->Decode({258, 300, 302}, false), "hell<a>x<");
  EXPECT_EQ(tokenizer->Encode(""), Ids{});
}

TEST(Tokenizer, MergesMayBeStringsOrPairs) {
  json description = SmallTokenizerJson();
  description["model"]["merges"] = json::parse(R"([["h","e"],["l","l"],["he","ll"]])");
  EXPECT_EQ(Make(description)->Encode("shell hell"),
            Make(SmallTokenizerJson())->Encode("shell hell"));
}

TEST(Tokenizer, IgnoreMergesTakesAWholeEntryWithoutMerging) {
  json description = SmallTokenizerJson();
  description["model"]["vocab"]["abc"] = 259;  // no merge leads to it
  EXPECT_EQ(Make(description)->Encode("abc"), (Ids{'a', 'b', 'c'}));
  description["model"]["ignore_merges"] = true;
  EXPECT_EQ(Make(description)->Encode("abc abcd"), (Ids{259, ' ', 'a', 'b', 'c', 'd'}));
}

TEST(Tokenizer, SplitsAtAStringAndWithTheByteLevelPattern) {
  json description = SmallTokenizerJson();
  description["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"String", "el"}};
  EXPECT_EQ(Make(description)->Encode("hell"), (Ids{'h', 'e', 'l', 'l'}));
  description["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  // One piece with its space: "he" and "ll" still merge; "h" and "e's" are cut before the "'s".
  EXPECT_EQ(Make(description)->Encode(" hell's"), (Ids{' ', 258, '\'', 's'}));
}

TEST(SplitPattern, MeansWhatOnigurumaWithUnicode16Means) {
  struct Case {
    std::string pattern, text;
    size_t begin, end;  // end 0: no match
  };
  const std::vector<Case> cases = {
      {"\\s+", "a\xe1\xa0\x8e", 0, 0},                  // U+180E is no white space
      {"\\s+", "a\xc2\x85\xc2\xa0\xe3\x80\x80", 1, 8},  // U+0085, U+00A0, U+3000 are
      {"\\s+", "a\x1c\x0b\x0cz", 2, 4},                 // U+000B and U+000C are, U+001C is not
      {"\\S", " \xe1\xa0\x8e", 1, 4},
      {"\\p{L}", "1\xe1\xb2\x89", 1, 4},  // U+1C89, new in Unicode 16
      {"[^\\p{L}]", "\xe1\xb2\x89.", 3, 4},
      {"\\P{L}", "\xe1\xb2\x89.", 3, 4},
      {"\\p{S}", "a\xf0\x9f\xab\xa8", 1, 5},  // U+1FAE8, new in Unicode 15
      {"\\p{L}\\p{M}*", "e\xcc\x81\xcc\x80x", 0, 5},
      {"a{2,3}", "baaaa", 1, 4},
      {" ?[a-c]+(?!\\S)", "xx abd abc", 6, 10},
      {"(?:a|b)?c", "xbc", 1, 3},
      {"[\\-\\]]+", "a]-]", 1, 4},
  };
  const SplitPattern::Scratch scratch;
  for (const Case& test : cases) {
    const auto pattern = SplitPattern::Regex(test.pattern, "here");
    ASSERT_TRUE(pattern.ok()) << pattern.status().message();
    size_t begin = 0, end = 0;
    EXPECT_EQ(pattern->Find(test.text, 0, scratch, &begin, &end), test.end > 0) << test.pattern;
    EXPECT_EQ(begin, test.begin) << test.pattern;
    EXPECT_EQ(end, test.end) << test.pattern;
  }
}

TEST(SplitPattern, RefusesWhatItDoesNotKnowToMeanTheSame) {
  for (const std::string pattern :
       {"\\d",        "\\w+",    "\\h",        "\\bA",        "a.b",     "^a",
        "a$",         "(a)",     "(?i:a)",     "(?<n>a)",     "(?<=a)b", "(?:ab)+",
        "(?:a|b){2}", "\\p{Lu}", "\\p{Greek}", "[[:alpha:]]", "[a&&b]",  "[\\S]",
        "[\\P{L}]",   "[\\s-x]", "[]a]",       "[a",          "a{,2}",   "a{2}?",
        "a{2}+",      "a**",     "a{x",        "*a",          "\\",      "\\x41",
        "\\u0041",    "(?:a",    "a)",         "a*",          "(?!a)",   "b|"}) {
    const auto compiled = SplitPattern::Regex(pattern, "here");
    ASSERT_FALSE(compiled.ok()) << pattern;
    EXPECT_EQ(compiled.status().message().rfind("here: pattern ", 0), 0u)
        << compiled.status().message();
  }
}

// One change to a good tokenizer.json and what the error must name.
struct BadJson {
  std::string pointer;
  json value;
  std::vector<std::string> named;
};

TEST(Tokenizer, ErrorsNameTheFileAndTheKey) {
  const json step = {{"type", "Lowercase"}};
  const std::vector<BadJson> cases = {
      {"/model/type", "WordPiece", {"model.type", "WordPiece", "BPE"}},
      {"/model/dropout", 0.5, {"model.dropout", "0.5"}},
      {"/model/continuing_subword_prefix", "##", {"model.continuing_subword_prefix", "##"}},
      {"/model/end_of_word_suffix", "</w>", {"model.end_of_word_suffix"}},
      {"/model/ignore_merges", 1, {"model.ignore_merges", "found 1"}},
      {"/model/vocab", json::array(), {"model.vocab", "an array"}},
      {"/model/vocab/he", -1, {"model.vocab[\"he\"]", "found -1"}},
      {"/model/vocab/he", 1 << 20, {"model.vocab[\"he\"]", "1048575"}},
      {"/model/vocab/he", 1e30, {"model.vocab[\"he\"]"}},
      {"/model/vocab/he", "256", {"model.vocab[\"he\"]"}},
      {"/model/vocab/he", 257, {"model.vocab", "257", "another entry"}},
      {"/model/vocab", {{"a", 0}}, {"model.vocab", "byte 0", "256"}},
      {"/model/merges", {"h e", "l x"}, {"model.merges[1]", "lx"}},
      {"/model/merges", {"h q\xc3\xa9\xc4\x80\xe4\xbd\xa0"}, {"model.merges[0]"}},
      {"/model/merges", {"he"}, {"model.merges[0]", "a b"}},
      {"/model/merges", {"h e l"}, {"model.merges[0]"}},
      {"/model/merges", {{"h", "e", "l"}}, {"model.merges[0]", "an array"}},
      {"/model/merges", json::parse(R"([["h", 1]])"), {"model.merges[0]"}},
      {"/model/merges", "h e", {"model.merges"}},
      {"/normalizer", {{"type", "NFC"}}, {"normalizer", "NFC"}},
      {"/truncation", {{"max_length", 8}}, {"truncation"}},
      {"/padding", {{"length", 8}}, {"padding"}},
      {"/decoder", nullptr, {"decoder", "null", "ByteLevel"}},
      {"/decoder/type", "Metaspace", {"decoder.type", "Metaspace"}},
      {"/pre_tokenizer", nullptr, {"pre_tokenizer", "null"}},
      {"/pre_tokenizer/pretokenizers", json::array(), {"pretokenizers", "0 steps"}},
      {"/pre_tokenizer/pretokenizers/0",
       step,
       {"pre_tokenizer.pretokenizers[0].type", "Lowercase"}},
      {"/pre_tokenizer/pretokenizers/1",
       step,
       {"pre_tokenizer.pretokenizers[1].type", "ByteLevel"}},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true, {"add_prefix_space", "true"}},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", {"behavior", "Removed", "Isolated"}},
      {"/pre_tokenizer/pretokenizers/0/invert", true, {"invert"}},
      {"/pre_tokenizer/pretokenizers/0/pattern", "x", {"pattern", "Regex"}},
      {"/pre_tokenizer/pretokenizers/0/pattern", {{"Glob", "x"}}, {"pattern", "Glob"}},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "", {"pattern", "empty"}},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w", {"pretokenizers[0]", "\\w"}},
      {"/added_tokens", {{"a", 1}}, {"added_tokens", "an object"}},
      {"/added_tokens/0/id", -1, {"added_tokens[0].id", "-1"}},
      {"/added_tokens/0/id", 1 << 20, {"added_tokens[0].id"}},
      {"/added_tokens/0/id", 301, {"added_tokens[1].id", "301", "<a>"}},
      {"/added_tokens/0/id", 256, {"added_tokens[0].id", "256", "he"}},
      {"/added_tokens/0/content", "he", {"added_tokens[0].id", "300", "256"}},
      {"/added_tokens/0/content", "", {"added_tokens[0].content", "0 bytes"}},
      {"/added_tokens/0/content", std::string(300, 'x'), {"added_tokens[0].content", "300 bytes"}},
      {"/added_tokens/0/content", "<a>b", {"added_tokens[1].content", "<a>b", "once"}},
      {"/added_tokens/0/lstrip", true, {"added_tokens[0].lstrip", "true", "false"}},
      {"/added_tokens/0/rstrip", true, {"added_tokens[0].rstrip"}},
      {"/added_tokens/0/single_word", true, {"added_tokens[0].single_word"}},
      {"/added_tokens/0/special", "yes", {"added_tokens[0].special", "yes"}},
      {"/added_tokens/0", 7, {"added_tokens[0].id", "nothing"}},
      {"/model", 7, {"model", "found 7"}},
  };
  for (const BadJson& test : cases) {
    json description = SmallTokenizerJson();
    description[json::json_pointer(test.pointer)] = test.value;
    const auto tokenizer = MakeBpeTokenizer(description.dump(), "test.json");
    ASSERT_FALSE(tokenizer.ok()) << test.pointer << " = " << test.value;
    const std::string message = tokenizer.status().message();
    EXPECT_EQ(message.rfind("test.json: ", 0), 0u) << test.pointer << ": " << message;
    for (const std::string& named : test.named)
      EXPECT_NE(message.find(named), std::string::npos)
          << test.pointer << ": " << message << " lacks " << named;
  }
  for (const std::string text : {"", "[]", "{", "{}", "null"})
    EXPECT_FALSE(MakeBpeTokenizer(text, "test.json").ok()) << text;
}

TEST(Tokenizer, AFileThatIsMissingOrNoFileIsAnError) {
  const auto missing = Tokenizer::Load("/nonexistent/tokenizer.json");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("/nonexistent/tokenizer.json"), std::string::npos);
  EXPECT_FALSE(Tokenizer::Load("/").ok());
}

TEST(Tokenizer, BytesGivesOneIdPerByte) {
  const auto tokenizer = Tokenizer::Bytes(2048, 0, 1);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const Tokenizer& bytes = **tokenizer;
  EXPECT_EQ(bytes.size(), 258);
  EXPECT_EQ(bytes.Encode("<s>h\xc3\xa9</s>"), (Ids{0, 2 + 'h', 2 + 0xc3, 2 + 0xa9, 1}));
  EXPECT_EQ(bytes.Encode("<s>", false), (Ids{2 + '<', 2 + 's', 2 + '>'}));
  EXPECT_EQ(bytes.Decode(bytes.Encode("<s>h\xc3\xa9\xff</s>")), "h\xc3\xa9\xef\xbf\xbd");
  EXPECT_EQ(bytes.TokenId("<s>"), 0);
  EXPECT_EQ(bytes.TokenId("a"), 2 + 'a');
  EXPECT_EQ(bytes.TokenId("ab"), std::nullopt);
  EXPECT_TRUE(bytes.IsSpecial(1));
  EXPECT_FALSE(bytes.IsSpecial(2));
  EXPECT_TRUE(bytes.TokenBytes(258).empty());
  EXPECT_TRUE(bytes.TokenBytes(-1).empty());
}

TEST(Tokenizer, BytesRefusesAVocabularyThatIsTooSmall) {
  EXPECT_TRUE(Tokenizer::Bytes(258, 1, 0).ok());
  const auto small = Tokenizer::Bytes(257, 0, 1);
  ASSERT_FALSE(small.ok());
  EXPECT_NE(small.status().message().find("257, expected at least 258"), std::string::npos);
  EXPECT_FALSE(Tokenizer::Bytes(1000, 3, 3).ok());
  EXPECT_FALSE(Tokenizer::Bytes(1000, -1, 3).ok());
  EXPECT_FALSE(Tokenizer::Bytes(INT64_MAX, 0, INT32_MAX).ok());
}

}  // namespace
}  // namespace causeway
