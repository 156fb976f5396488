// Answers of a real model under a grammar: always texts of it, and the same ones in every layout,
// batch and chunk, after retractions, greedy or sampled.
#include <gtest/gtest.h>

#include "engine/engine_client.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"
#include "grammar/schema_validator.h"
#include "text/tokenizer.h"

namespace causeway {
namespace {

constexpr int32_t kEos = 1;

std::unique_ptr<ModelHost> LoadHost(const HostSetup& setup) {
  return LoadModel(CAUSEWAY_SOURCE_DIR "/testdata/golden/v32-tiny-bf16", setup);
}

// Ids 2 to 257 are bytes; some more are pieces of JSON.
std::string TextOf(int32_t token) {
  static const char* const kPieces[] = {"{\"", "\":", "\": ", ", \"", "\"}", "true", "null", "12"};
  if (token >= 2 && token < 258) return std::string(1, static_cast<char>(token - 2));
  const auto piece = static_cast<size_t>(token - 258);
  return token >= 258 && piece < std::size(kPieces) ? kPieces[piece] : "";
}

std::shared_ptr<const Vocabulary> MakeVocabulary(int64_t vocab) {
  std::vector<std::string> texts;
  for (int32_t id = 0; id < vocab; ++id) texts.push_back(TextOf(id));
  StatusOr<Vocabulary> made =
      Vocabulary::Make(std::vector<std::string_view>(texts.begin(), texts.end()));
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::make_shared<Vocabulary>(std::move(made).value());
}

const SchemaJson& Schema() {
  static const auto* schema = new SchemaJson(SchemaJson::parse(R"({
      "type": "object", "properties": {
        "name": {"type": "string", "maxLength": 6},
        "size": {"type": "integer", "minimum": 1, "maximum": 300},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
        "child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
      "required": ["name", "size"]})"));
  return *schema;
}

std::shared_ptr<TokenGrammar> MakeGrammar(StatusOr<Grammar> grammar, ModelHost& host) {
  EXPECT_TRUE(grammar.ok()) << grammar.status().message();
  return std::make_shared<TokenGrammar>(std::move(grammar).value(),
                                        MakeVocabulary(host.config().vocab_size));
}

SamplingParams Constrained(uint32_t i, std::shared_ptr<TokenGrammar> grammar) {
  SamplingParams sampling;
  sampling.temperature = i % 3 == 0 ? 0.0 : 1.0;
  sampling.seed = i;
  sampling.max_new_tokens = 150;
  sampling.ignore_eos = i % 2 == 0;
  // The random model would fill strings and nest for ever.
  sampling.logit_bias = {{2 + '"', 3.0}, {2 + '}', 3.0}};
  sampling.grammar = std::move(grammar);
  return sampling;
}

std::vector<std::unique_ptr<Client>> Clients(const std::shared_ptr<TokenGrammar>& grammar) {
  std::vector<std::unique_ptr<Client>> clients;
  for (uint32_t i = 0; i < 9; ++i) {
    clients.push_back(std::make_unique<Client>(std::to_string(i), Prompt(10 + 9 * i, i % 4),
                                               Constrained(i, grammar)));
  }
  return clients;
}

std::string AnswerOf(const Client& client) {
  std::string out;
  for (const int32_t token : client.tokens()) out += TextOf(token);
  return out;
}

const std::vector<std::string>& Alone() {
  static const auto* alone = [] {
    auto* out = new std::vector<std::string>;
    const auto host = LoadHost({});
    Engine engine(*host, {.limits = {.chunked_prefill_size = -1}});
    for (size_t i = 0; i < 9; ++i) {
      // A grammar of its own, without what others have cached.
      const auto client = std::move(Clients(MakeGrammar(CompileJsonSchema(Schema()), *host))[i]);
      EXPECT_TRUE(engine.Submit(client->request()).ok());
      EXPECT_TRUE(client->WaitForFinish());
      out->push_back(AnswerOf(*client));
    }
    return out;
  }();
  return *alone;
}

class ConstrainedTest : public testing::TestWithParam<HostSetup> {};

TEST_P(ConstrainedTest, AnswersFitTheSchemaAndAreThoseThatEachRequestGetsAlone) {
  HostSetup setup = GetParam();
  setup.total_tokens = 8 * kPage;  // too few for all: requests are retracted
  const auto host = LoadHost(setup);
  const auto grammar = MakeGrammar(CompileJsonSchema(Schema()), *host);
  const auto clients = Clients(grammar);
  Engine engine(*host, {.limits = {.chunked_prefill_size = 30,
                                   .max_running_requests = 6,
                                   .schedule_conservativeness = 0}});
  for (const auto& client : clients) ASSERT_TRUE(engine.Submit(client->request()).ok());
  const SchemaValidator validator(Schema());
  int64_t complete = 0;
  for (size_t i = 0; i < clients.size(); ++i) {
    ASSERT_TRUE(clients[i]->WaitForFinish());
    const RequestResult result = clients[i]->result();
    ASSERT_TRUE(result.status.ok()) << result.status.message();
    const std::string answer = AnswerOf(*clients[i]);
    EXPECT_EQ(answer, Alone()[i]) << "request " << i;
    if (result.reason == FinishReason::kLength) continue;
    const SchemaJson value = SchemaJson::parse(answer, nullptr, /*allow_exceptions=*/false);
    ASSERT_FALSE(value.is_discarded()) << answer;
    EXPECT_TRUE(validator.Accepts(value)) << answer;
    ++complete;
  }
  EXPECT_GT(complete, 3);
}

INSTANTIATE_TEST_SUITE_P(Layouts, ConstrainedTest,
                         testing::Values(HostSetup{}, HostSetup{.cp = 2},
                                         HostSetup{.cp = 2, .tp = 2, .ep = 4}),
                         [](const testing::TestParamInfo<HostSetup>& info) {
                           const HostSetup& setup = info.param;
                           return Text("cp", setup.cp, "tp", setup.tp, "ep", setup.ep);
                         });

TEST(Constrained, AnAnswerEndsWhereNothingCanFollow) {
  const auto host = LoadHost({});
  Engine engine(*host, {});
  SamplingParams sampling = Greedy(50);
  sampling.grammar = MakeGrammar(CompileRegex("yes|no"), *host);
  sampling.min_new_tokens = 20;
  Client client("client", Prompt(20, 1), sampling);
  ASSERT_TRUE(engine.Submit(client.request()).ok());
  ASSERT_TRUE(client.WaitForFinish());
  EXPECT_EQ(client.result().reason, FinishReason::kStop);
  EXPECT_EQ(client.result().stop_token.token, -1);
  EXPECT_TRUE(AnswerOf(client) == "yes" || AnswerOf(client) == "no") << AnswerOf(client);
}

TEST(Constrained, AnEndTokenIsPossibleWhereTheTextMayEndAndNowhereElse) {
  const auto host = LoadHost({});
  Engine engine(*host, {});
  SamplingParams sampling = Greedy(50);
  sampling.grammar = MakeGrammar(CompileRegex("a{3,}"), *host);
  sampling.logit_bias = {{kEos, 100.0}};
  for (const int64_t min : {0, 7}) {
    sampling.min_new_tokens = min;
    Client client(Text("min", min), Prompt(20, 1), sampling);
    ASSERT_TRUE(engine.Submit(client.request()).ok());
    ASSERT_TRUE(client.WaitForFinish());
    EXPECT_EQ(client.result().reason, FinishReason::kStop);
    EXPECT_EQ(client.result().stop_token.token, kEos);
    EXPECT_EQ(AnswerOf(client), std::string(static_cast<size_t>(std::max<int64_t>(3, min)), 'a'));
  }
}

TEST(Constrained, TheLengthLimitEndsAnAnswerInTheMiddle) {
  const auto host = LoadHost({});
  Engine engine(*host, {});
  SamplingParams sampling = Greedy(5);
  sampling.grammar = MakeGrammar(CompileRegex("a{40}"), *host);
  Client client("client", Prompt(20, 1), sampling);
  ASSERT_TRUE(engine.Submit(client.request()).ok());
  ASSERT_TRUE(client.WaitForFinish());
  EXPECT_EQ(client.result().reason, FinishReason::kLength);
  EXPECT_EQ(AnswerOf(client), "aaaaa");
}

}  // namespace
}  // namespace causeway
