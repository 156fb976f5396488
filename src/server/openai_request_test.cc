#include "server/openai_request.h"

#include <gtest/gtest.h>

#include <random>

#include "server/fake_tokenizer.h"
#include "server/grammar_store.h"
#include "server/string_matcher.h"
#include "server/text_stream.h"

namespace causeway {
namespace {

using Ids = std::vector<int32_t>;

const FakeTokenizer& Fake() {
  static const FakeTokenizer tokenizer;
  return tokenizer;
}

GrammarStore& Grammars() {
  static GrammarStore grammars(Fake());
  return grammars;
}

ServedModel Model() {
  return {.name = "served",
          .tokenizer = Fake(),
          .chat_format = ChatFormat::kV32,
          .context_length = 1000,
          .vocab_size = FakeTokenizer::kVocabulary,
          .bos_token = FakeTokenizer::kBos,
          .max_choices = 8,
          .grammars = &Grammars()};
}

OpenAiRequest Parse(Endpoint endpoint, const std::string& body) {
  OpenAiRequest out;
  const std::optional<ApiError> error = ParseOpenAiRequest(endpoint, body, Model(), out);
  EXPECT_FALSE(error) << body << ": " << error->message;
  return out;
}
OpenAiRequest Completion(const std::string& fields) {
  return Parse(Endpoint::kCompletions,
               Text(R"({"prompt": "hi")", fields.empty() ? "" : ", ", fields, "}"));
}
OpenAiRequest Chat(const std::string& fields) {
  return Parse(Endpoint::kChat, Text(R"({"messages": [{"role": "user", "content": "hi"}])",
                                     fields.empty() ? "" : ", ", fields, "}"));
}

struct BadCase {
  const char* body;
  const char* param;
  const char* message;  // a part of it
  int status = 400;
};

void ExpectRefused(Endpoint endpoint, const std::string& body, const BadCase& bad) {
  OpenAiRequest out;
  const std::optional<ApiError> error = ParseOpenAiRequest(endpoint, body, Model(), out);
  ASSERT_TRUE(error) << "accepted: " << body;
  EXPECT_EQ(error->param, bad.param) << body << ": " << error->message;
  EXPECT_EQ(error->http_status, bad.status) << body;
  EXPECT_NE(error->message.find(bad.message), std::string::npos) << body << ": " << error->message;
}

TEST(OpenAiRequestTest, PenaltiesBiasAndTextOptionsReachTheirPlaces) {
  for (const Endpoint endpoint : {Endpoint::kCompletions, Endpoint::kChat}) {
    const std::string prompt = endpoint == Endpoint::kChat
                                   ? R"("messages": [{"role": "user", "content": "a"}])"
                                   : R"("prompt": "a")";
    OpenAiRequest request;
    const auto error = ParseOpenAiRequest(
        endpoint, Text("{", prompt, R"(, "frequency_penalty": 1, "presence_penalty": -2,
            "repetition_penalty": 0.5, "logit_bias": {"7": 100}, "skip_special_tokens": false,
            "include_stop_str_in_output": true})"),
        Model(), request);
    ASSERT_FALSE(error) << error->message;
    EXPECT_EQ(request.sampling.frequency_penalty, 1);
    EXPECT_EQ(request.sampling.presence_penalty, -2);
    EXPECT_EQ(request.sampling.repetition_penalty, 0.5);
    ASSERT_EQ(request.sampling.logit_bias.size(), 1u);
    EXPECT_EQ(request.sampling.logit_bias[0].token, 7);
    EXPECT_FALSE(request.skip_special_tokens);
    EXPECT_TRUE(request.no_stop_trim);
  }
}

TEST(OpenAiRequestTest, ConstraintsBecomeGrammarsThatRequestsShare) {
  const auto parse = [](const std::string& fields) {
    OpenAiRequest request;
    const auto error = ParseOpenAiRequest(
        Endpoint::kCompletions, Text(R"({"prompt": "a", )", fields, "}"), Model(), request);
    EXPECT_FALSE(error) << fields << ": " << error->message;
    return request.sampling.grammar;
  };
  EXPECT_EQ(parse(R"("response_format": {"type": "text"})"), nullptr);
  EXPECT_EQ(parse(R"("regex": "", "response_format": null)"), nullptr);
  const auto object = parse(R"("response_format": {"type": "json_object"})");
  EXPECT_NE(object, nullptr);
  EXPECT_EQ(parse(R"("response_format": {"type": "json_object"})"), object);
  const std::string schema = R"("response_format": {"type": "json_schema", "json_schema": {
      "name": "n", "strict": true, "schema": {"type": "object", "properties": {"a": {}}}}})";
  EXPECT_NE(parse(schema), nullptr);
  EXPECT_EQ(parse(schema), parse(schema));
  EXPECT_NE(parse(schema), object);
  EXPECT_NE(parse(R"("regex": "[ab]+")"), nullptr);
  EXPECT_NE(parse(R"("ebnf": "root ::= \"a\"")"), nullptr);
}

TEST(OpenAiRequestTest, AConstraintBeginsAfterTheReasoning) {
  OpenAiRequest request;
  const auto error = ParseOpenAiRequest(
      Endpoint::kChat, R"({"messages": [{"role": "user", "content": "a"}], "thinking": true,
                           "response_format": {"type": "json_object"}})",
      Model(), request);
  ASSERT_FALSE(error) << error->message;
  EXPECT_EQ(request.sampling.grammar_after, FakeTokenizer::kThinkEnd);
}

TEST(OpenAiRequestTest, BodiesThatAreNotStrictJsonAreRefused) {
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  const BadCase kCases[] = {
      {"", "", "not valid JSON"},
      {"{", "", "not valid JSON"},
      {"[]", "", "expected an object"},
      {"\"x\"", "", "expected an object"},
      {"{\"prompt\": \"a\",}", "", "not valid JSON"},
      {"{\"prompt\": 'a'}", "", "not valid JSON"},
      {"{\"prompt\": \"a\"} x", "", "not valid JSON"},
      {"{\"prompt\": NaN}", "", "not valid JSON"},
      {"{\"prompt\": \"\xff\"}", "", "not valid JSON"},
      {"{\"prompt\": \"\xc3\"}", "", "not valid JSON"},
      {"{\"prompt\": \"\\ud800\"}", "", "not valid JSON"},
      {"{\"prompt\": \"a\", \"prompt\": \"b\"}", "", "twice"},
      {"{\"temperature\": 1e999}", "", "out of range"},
      {deep.c_str(), "", "64"},
  };
  for (const BadCase& bad : kCases) ExpectRefused(Endpoint::kCompletions, bad.body, bad);
}

TEST(OpenAiRequestTest, BadFieldsOfBothEndpointsAreRefusedByName) {
  const BadCase kCases[] = {
      {R"("model": "other")", "model", "served", 404},
      {R"("model": 7)", "model", "expected a string"},
      {R"("nonsense": 1)", "nonsense", "unknown field"},
      {R"("temperature": -0.1)", "temperature", "0 to 100"},
      {R"("temperature": "hot")", "temperature", "\"hot\""},
      {R"("top_p": 0)", "top_p", "above 0"},
      {R"("top_p": 1.5)", "top_p", "1.5"},
      {R"("top_k": -2)", "top_k", "-1"},
      {R"("top_k": 1.5)", "top_k", "integer"},
      {R"("min_p": 1.1)", "min_p", "0 to 1"},
      {R"("max_tokens": -1)", "max_tokens", "at least"},
      {R"("max_tokens": 99999999999999999999)", "max_tokens", "integer"},
      {R"("max_tokens": 9223372036854775807)", "max_tokens", "1000"},
      {R"("max_tokens": true)", "max_tokens", "true"},
      {R"("min_tokens": -1)", "min_tokens", "at least 0"},
      {R"("min_tokens": 6, "max_tokens": 5)", "min_tokens", "5"},
      {R"("n": 0)", "n", "1 to 128"},
      {R"("n": 129)", "n", "129"},
      {R"("seed": "x")", "seed", "integer"},
      {R"("stop": "")", "stop", "not empty"},
      {R"("stop": ["a", 1])", "stop", "strings"},
      {R"("stop": {"a": 1})", "stop", "strings"},
      {R"("stop": ["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])", "stop",
       "17 strings; at most 16"},
      {R"("stop_token_ids": [400])", "stop_token_ids", "0 to 399"},
      {R"("stop_token_ids": 3)", "stop_token_ids", "list"},
      {R"("ignore_eos": "no")", "ignore_eos", "true or false"},
      {R"("stream": 1)", "stream", "true or false"},
      {R"("stream_options": {"include_usage": true})", "stream_options", "stream"},
      {R"("stream": true, "stream_options": {"usage": true})", "stream_options.usage", "unknown"},
      {R"("stream": true, "stream_options": [])", "stream_options", "object"},
      {R"("presence_penalty": 2.5)", "presence_penalty",
       "presence_penalty is 2.5; expected a number -2 to 2"},
      {R"("frequency_penalty": -3)", "frequency_penalty",
       "frequency_penalty is -3; expected a number -2 to 2"},
      {R"("repetition_penalty": 0)", "repetition_penalty",
       "repetition_penalty is 0; expected a number above 0 and at most 2"},
      {R"("logit_bias": [])", "logit_bias", "expected an object"},
      {R"("logit_bias": {"x": 1})", "logit_bias", "expected a token id 0 to 399"},
      {R"("logit_bias": {"400": 1})", "logit_bias", "expected a token id 0 to 399"},
      {R"("logit_bias": {"5": 101})", "logit_bias", "is 101; expected a number -100 to 100"},
      {R"("logit_bias": {"5": "1"})", "logit_bias", "expected a number -100 to 100"},
      {R"("response_format": {"type": "xml"})", "response_format.type",
       "response_format.type is \"xml\"; expected"},
      {R"("response_format": {"type": "json_schema"})", "response_format.json_schema", "missing"},
      {R"("response_format": {"type": "json_object", "json_schema": {}})",
       "response_format.json_schema", "needs"},
      {R"("response_format": {"type": "json_schema", "json_schema": {"name": "x"}})",
       "response_format.json_schema.schema", "missing"},
      {R"("response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}})",
       "response_format", "response_format: #: the keyword not is not supported"},
      {R"("response_format": 3)", "response_format", "expected an object"},
      {R"("regex": "a++")", "regex", "possessive repetitions are not supported, at character 2"},
      {R"("regex": "a", "ebnf": "root ::= \"a\"")", "regex", "send one of them"},
      {R"("ebnf": "root ::= x")", "ebnf", "the rule x is not defined"},
      {R"("stop_regex": 3)", "stop_regex", "expected strings"},
      {R"("stop_regex": "(")", "stop_regex", "no closing )"},
      {R"("stop_regex": "a*")", "stop_regex", "matches the empty text"},
      {R"("json_schema": "{}")", "json_schema", "not supported"},
      {R"("skip_special_tokens": 1)", "skip_special_tokens", "expected true or false"},
      {R"("no_stop_trim": "yes")", "no_stop_trim", "expected true or false"},
      {R"("lora_path": "x")", "lora_path", "not supported"},
  };
  for (const BadCase& bad : kCases) {
    ExpectRefused(Endpoint::kCompletions, Text(R"({"prompt": "hi", )", bad.body, "}"), bad);
    ExpectRefused(Endpoint::kChat,
                  Text(R"({"messages": [{"role": "user", "content": "hi"}], )", bad.body, "}"),
                  bad);
  }
}

TEST(OpenAiRequestTest, BadCompletionFieldsAreRefusedByName) {
  const BadCase kCases[] = {
      {R"({})", "prompt", "missing"},
      {R"({"prompt": null})", "prompt", "missing"},
      {R"({"prompt": 5})", "prompt", "expected a string"},
      {R"({"prompt": []})", "prompt", "empty"},
      {R"({"prompt": [[]]})", "prompt", "prompt[0] is empty"},
      {R"({"prompt": [5, "a"]})", "prompt", "prompt[1]"},
      {R"({"prompt": ["a", 5]})", "prompt", "prompt[1]"},
      {R"({"prompt": [5, -1]})", "prompt", "prompt[1] is -1"},
      {R"({"prompt": [[1], [400]]})", "prompt", "prompt[1][0] is 400"},
      {R"({"prompt": [1.5]})", "prompt", "1.5"},
      {R"({"prompt": ["a", "b", "c"], "n": 3})", "prompt", "at most 8"},
      {R"({"prompt": "a", "logprobs": 21})", "logprobs", "0 to 20"},
      {R"({"prompt": "a", "logprobs": true})", "logprobs", "integer"},
      {R"({"prompt": "a", "suffix": "b"})", "suffix", "not supported"},
      {R"({"prompt": "a", "best_of": 2})", "best_of", "not supported"},
      {R"({"prompt": "a", "messages": []})", "messages", "unknown field"},
      {R"({"prompt": "a", "max_completion_tokens": 3})", "max_completion_tokens", "unknown field"},
      {R"({"prompt": "a", "max_tokens": 999})", "max_tokens", "at most 998"},
  };
  for (const BadCase& bad : kCases) ExpectRefused(Endpoint::kCompletions, bad.body, bad);
  const std::string long_prompt = Text(R"({"prompt": ")", std::string(1500, 'x'), R"("})");
  ExpectRefused(Endpoint::kCompletions, long_prompt, {"", "prompt", "1501 tokens"});
  ExpectRefused(Endpoint::kCompletions, long_prompt, {"", "prompt", "context length is 1000"});
}

TEST(OpenAiRequestTest, BadChatFieldsAreRefusedByName) {
  const BadCase kCases[] = {
      {R"({})", "messages", "missing"},
      {R"({"messages": []})", "messages", "at least one"},
      {R"({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0})", "max_tokens",
       "at least 1"},
      {R"({"messages": "hi"})", "messages", "expected a list"},
      {R"({"messages": ["hi"]})", "messages[0]", "expected an object"},
      {R"({"messages": [{"content": "hi"}]})", "messages[0].role", "missing"},
      {R"({"messages": [{"role": "user"}]})", "messages[0].content", "missing"},
      {R"({"messages": [{"role": "user", "content": 5}]})", "messages[0].content", "expected"},
      {R"({"messages": [{"role": "wizard", "content": "x"}]})", "messages", "wizard"},
      {R"({"messages": [{"role": "user", "content": "x", "extra": 1}]})", "messages[0].extra",
       "unknown"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]})",
       "messages[0].content[0].type", "image_url"},
      {R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})",
       "messages[0].content[0].text", "missing"},
      {R"({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]})",
       "messages[0].tool_calls", "not supported"},
      {R"({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]})",
       "messages[0].tool_calls[0].function", "missing"},
      {R"({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2})", "top_logprobs",
       "logprobs"},
      {R"({"messages": [{"role": "user", "content": "x"}], "logprobs": 2})", "logprobs", "true"},
      {R"({"messages": [{"role": "user", "content": "x"}], "echo": true})", "echo", "unknown"},
      {R"({"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "immense"})",
       "reasoning_effort", "xhigh"},
      {R"({"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"a": 1}})",
       "chat_template_kwargs.a", "unknown"},
      {R"({"messages": [{"role": "user", "content": "x"}], "thinking": {"type": "maybe"}})",
       "thinking.type", "enabled"},
      {R"({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5,
           "max_completion_tokens": 6})",
       "max_tokens", "send one of them"},
      {R"({"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 5000})",
       "max_completion_tokens", "5000"},
      {R"({"messages": [{"role": "user", "content": "x"}], "n": 9})", "n", "at most 8"},
  };
  for (const BadCase& bad : kCases) ExpectRefused(Endpoint::kChat, bad.body, bad);
}

TEST(OpenAiRequestTest, FieldsThatAskForNothingAreAccepted) {
  const char* kFields[] = {
      R"("user": "u")",
      R"("metadata": {"a": "b"})",
      R"("store": true)",
      R"("service_tier": "auto")",
      R"("presence_penalty": 0)",
      R"("presence_penalty": 0.0)",
      R"("frequency_penalty": null)",
      R"("repetition_penalty": 1.0)",
      R"("logit_bias": {})",
      R"("response_format": {"type": "text"})",
      R"("skip_special_tokens": true)",
      R"("model": null)",
      R"("model": "served")",
      R"("stop": null)",
      R"("stop": [])",
      R"("n": 1)",
  };
  for (const char* fields : kFields) {
    EXPECT_EQ(Completion(fields).choices(), 1u);
    EXPECT_EQ(Chat(fields).choices(), 1u);
  }
  EXPECT_EQ(Completion(R"("best_of": 2, "n": 2, "suffix": "")").choices(), 2u);
  EXPECT_EQ(Chat(R"("tools": [], "tool_choice": "none", "modalities": ["text"])").choices(), 1u);
}

TEST(OpenAiRequestTest, SamplingFieldsReachTheEngine) {
  for (const bool chat : {false, true}) {
    const char* fields =
        R"("temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125, "seed": -1,
           "max_tokens": 50, "min_tokens": 3, "ignore_eos": true, "stop_token_ids": [11, 12],
           "stop": ["x", "y"], "stream": true, "stream_options": {"include_usage": true}, "n": 3)";
    const OpenAiRequest request = chat ? Chat(fields) : Completion(fields);
    EXPECT_EQ(request.sampling.temperature, 0.25);
    EXPECT_EQ(request.sampling.top_p, 0.5);
    EXPECT_EQ(request.sampling.top_k, 7);
    EXPECT_EQ(request.sampling.min_p, 0.125);
    EXPECT_EQ(request.sampling.max_new_tokens, 50);
    EXPECT_EQ(request.sampling.min_new_tokens, 3);
    EXPECT_TRUE(request.sampling.ignore_eos);
    EXPECT_EQ(request.sampling.stop_token_ids, Ids({11, 12}));
    EXPECT_EQ(request.sampling.logprobs, -1);
    EXPECT_EQ(request.stop, std::vector<std::string>({"x", "y"}));
    EXPECT_TRUE(request.stream);
    EXPECT_TRUE(request.include_usage);
    EXPECT_EQ(request.seeds, std::vector<uint64_t>({~uint64_t{0}, 0, 1}));
  }
}

TEST(OpenAiRequestTest, DefaultsAreOpenAis) {
  const OpenAiRequest completion = Completion("");
  EXPECT_EQ(completion.sampling.temperature, 1.0);
  EXPECT_EQ(completion.sampling.top_p, 1.0);
  EXPECT_EQ(completion.sampling.max_new_tokens, 16);
  EXPECT_FALSE(completion.stream);
  const OpenAiRequest chat = Chat("");
  EXPECT_EQ(chat.sampling.max_new_tokens, 1000 - static_cast<int64_t>(chat.prompts.front().size()));
  EXPECT_NE(Completion("").seeds, Completion("").seeds) << "random seeds differ";
  const auto one = SeedsFrom(7);
  const auto other = SeedsFrom(7);
  const uint64_t first = one();
  EXPECT_EQ(other(), first);
  EXPECT_NE(one(), first);
  // 995 tokens leave 5.
  const OpenAiRequest tight =
      Parse(Endpoint::kCompletions, Text(R"({"prompt": ")", std::string(994, 'x'), R"("})"));
  EXPECT_EQ(tight.sampling.max_new_tokens, 5);
}

TEST(OpenAiRequestTest, EveryFormOfPromptBecomesTokens) {
  const int32_t a = FakeTokenizer::ByteId('a');
  const int32_t b = FakeTokenizer::ByteId('b');
  const auto prompts = [](const char* json) {
    return Parse(Endpoint::kCompletions, Text(R"({"prompt": )", json, "}")).prompts;
  };
  EXPECT_EQ(prompts(R"("ab")"), std::vector<Ids>({{0, a, b}}));
  EXPECT_EQ(prompts(R"("<bos>ab")"), std::vector<Ids>({{0, a, b}})) << "not a second BOS";
  EXPECT_EQ(prompts(R"("")"), std::vector<Ids>({{0}}));
  EXPECT_EQ(prompts(R"(["a", "b"])"), std::vector<Ids>({{0, a}, {0, b}}));
  EXPECT_EQ(prompts("[1, 399]"), std::vector<Ids>({{1, 399}})) << "ids are taken as they are";
  EXPECT_EQ(prompts("[[1, 2], [3]]"), std::vector<Ids>({{1, 2}, {3}}));
}

TEST(OpenAiRequestTest, EchoKeepsTheTextOfEveryPrompt) {
  const OpenAiRequest request =
      Parse(Endpoint::kCompletions, R"({"prompt": ["a<bos>b", "c"], "echo": true})");
  EXPECT_EQ(request.echo, std::vector<std::string>({"a<bos>b", "c"}));
  const OpenAiRequest ids =
      Parse(Endpoint::kCompletions, R"({"prompt": [0, 300, 301], "echo": true})");
  EXPECT_EQ(ids.echo, std::vector<std::string>({"Hello"}));
}

TEST(OpenAiRequestTest, ABatchWithASeedAnswersAsItsPromptsOneByOne) {
  const OpenAiRequest request =
      Parse(Endpoint::kCompletions, R"({"prompt": ["a", "b"], "n": 2, "seed": 40})");
  EXPECT_EQ(request.seeds, std::vector<uint64_t>({40, 41, 40, 41}));
}

TEST(OpenAiRequestTest, MessagesKeepTheirParts) {
  const char* text = R"([
    {"role": "system", "content": "s", "name": "n"},
    {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
    {"role": "assistant", "content": null, "reasoning_content": "r", "refusal": null,
     "annotations": [], "tool_calls": [
       {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "result"}])";
  const StatusOr<Json> json = ParseOrderedJson(text, "test");
  ASSERT_TRUE(json.ok()) << json.status().message();
  FirstError error;
  const std::vector<ChatMessage> messages = ParseMessages(*json, error);
  ASSERT_TRUE(error.ok()) << error.get()->message;
  ASSERT_EQ(messages.size(), 4u);
  EXPECT_EQ(messages[0].content, "s");
  EXPECT_EQ(messages[1].content, "one two");
  EXPECT_EQ(messages[2].reasoning_content, "r");
  ASSERT_EQ(messages[2].tool_calls.size(), 1u);
  EXPECT_EQ(messages[2].tool_calls[0].id, "c1");
  EXPECT_EQ(messages[2].tool_calls[0].name, "f");
  EXPECT_EQ(messages[2].tool_calls[0].arguments, "{}");
  EXPECT_EQ(messages[3].tool_call_id, "c1");
  EXPECT_EQ(messages[3].content, "result");
}

TEST(OpenAiRequestTest, ThinkingCanBeAskedForInEveryDialect) {
  const char* kOn[] = {R"("thinking": true)",
                       R"("enable_thinking": true)",
                       R"("thinking": {"type": "enabled"})",
                       R"("chat_template_kwargs": {"thinking": true})",
                       R"("chat_template_kwargs": {"enable_thinking": true})",
                       R"("reasoning_effort": "low")",
                       R"("reasoning_effort": "xhigh")"};
  const size_t off = Chat("").prompts.front().size();
  for (const char* fields : kOn) {
    const OpenAiRequest request = Chat(fields);
    EXPECT_EQ(request.reasoning, ReasoningStart::kReasoning) << fields;
    EXPECT_NE(request.prompts.front().size(), off) << "the prompt ends in <think>, not </think>";
  }
  for (const char* fields : {R"("thinking": {"type": "disabled"})", R"("reasoning_effort": "none")",
                             R"("reasoning_effort": "high", "enable_thinking": false)"}) {
    EXPECT_EQ(Chat(fields).reasoning, ReasoningStart::kContent) << fields;
  }
}

TEST(OpenAiRequestTest, ManyFieldsAreRefusedInLinearTime) {
  std::string body = R"({"prompt": "a")";
  for (int i = 0; i < 200'000; ++i) body += Text(", \"k", i, "\": 0");
  body += "}";
  ExpectRefused(Endpoint::kCompletions, body, {"", "k0", "unknown"});
}

TEST(OpenAiRequestTest, RandomlyBrokenRequestsAreAcceptedOrRefusedWithAMessage) {
  const std::string kSeeds[] = {
      R"({"prompt": ["a", "bc"], "n": 2, "stop": ["x"], "logprobs": 3, "echo": false, "seed": 5})",
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "\u00e9\ud83d\ude00"}]},
          {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
           "function": {"name": "f", "arguments": "{}"}}]}], "stream": true, "top_p": 0.5e0})"};
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  const auto below = [&random](size_t limit) { return static_cast<size_t>(random()) % limit; };
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    const bool chat = i % 2 == 1;
    std::string body = kSeeds[chat ? 1 : 0];
    for (size_t edits = below(4); edits > 0; --edits) {
      const size_t at = below(body.size());
      switch (below(4)) {
        case 0:
          body[at] = static_cast<char>(random());
          break;
        case 1:
          body.erase(at, 1 + below(8));
          break;
        case 2:
          body.insert(at, body.substr(below(body.size()), below(16)));
          break;
        case 3:
          body[at] = "{}[],:\"0-19e.ntf\\"[below(18)];
          break;
      }
    }
    OpenAiRequest out;
    const Endpoint endpoint = chat ? Endpoint::kChat : Endpoint::kCompletions;
    const auto error = ParseOpenAiRequest(endpoint, body, Model(), out);
    if (error) {
      ASSERT_FALSE(error->message.empty()) << "seed " << seed << ": " << body;
      ASSERT_NO_THROW(ErrorResponse(*error)) << "seed " << seed << ": " << body;
    } else {
      ++accepted;
      ASSERT_EQ(out.choices(), out.prompts.size() * static_cast<size_t>(out.n))
          << "seed " << seed << ": " << body;
      ASSERT_GE(out.choices(), 1u);
    }
  }
  EXPECT_GT(accepted, 1000) << "seed " << seed << ": the unbroken ones at least";
}

// Feeds `text` in pieces of `size` bytes; the text that came out, and whether it matched.
std::pair<std::string, bool> Match(const std::vector<std::string>& needles, const std::string& text,
                                   size_t size) {
  StringMatcher matcher(needles);
  std::string out;
  for (size_t at = 0; at < text.size() && !matcher.matched(); at += size) {
    out += matcher.Push(text.substr(at, size));
  }
  if (!matcher.matched()) out += matcher.Flush();
  return {out, matcher.matched()};
}

TEST(StringMatcherTest, PiecesOfAnySizeGiveTheSameText) {
  struct Case {
    std::vector<std::string> needles;
    std::string text;
    std::string expected;
    bool matched;
  };
  const Case kCases[] = {
      {{}, "anything", "anything", false},
      {{"STOP"}, "abSTOPcd", "ab", true},
      {{"STOP"}, "STO", "STO", false},
      {{"STOP"}, "STSTOP", "ST", true},
      {{"STOP"}, "STOP", "", true},
      {{"aab"}, "aaaab", "aa", true},
      {{"abab"}, "abaabab", "aba", true},
      {{"\n\n", "\nQ"}, "line\nQuestion", "line", true},
      {{"bc", "abcd"}, "xabcd", "xa", true},  // "bc" ends first
      {{"c", "abc"}, "xabcd", "x", true},     // both end there: the longer one
      {{"\xe4\xbd\xa0"}, "a\xe4\xbd\xa1 \xe4\xbd\xa0", "a\xe4\xbd\xa1 ", true},
  };
  for (const Case& one : kCases) {
    for (size_t size = 1; size <= one.text.size(); ++size) {
      const auto [text, matched] = Match(one.needles, one.text, size);
      EXPECT_EQ(text, one.expected) << one.text << " by " << size;
      EXPECT_EQ(matched, one.matched) << one.text << " by " << size;
    }
  }
}

TEST(StringMatcherTest, RepetitiveNeedlesTakeLinearTime) {
  const std::string needle = std::string(1 << 20, 'a') + "b";
  StringMatcher matcher({needle});
  size_t out = 0;
  for (int i = 0; i < 4 << 10; ++i) out += matcher.Push(std::string(1 << 10, 'a')).size();
  EXPECT_EQ(out, size_t{3} << 20) << "all but what may be the start of the needle";
}

TEST(TextStreamTest, HalfCharactersWaitForTheirRest) {
  TextStream stream(Fake(), {});
  const std::string text = "\xe4\xbd\xa0";
  EXPECT_EQ(stream.Push(FakeTokenizer::ByteId(text[0])).content, "");
  EXPECT_EQ(stream.Push(FakeTokenizer::ByteId(text[1])).content, "");
  EXPECT_EQ(stream.Push(FakeTokenizer::ByteId(text[2])).content, text);
  EXPECT_EQ(stream.Push(FakeTokenizer::ByteId(text[0])).content, "");
  EXPECT_EQ(stream.Flush().content, "\xef\xbf\xbd");
  EXPECT_EQ(stream.characters(), 2);
}

TEST(TextStreamTest, StopStringsDoNotEndAnAnswerBeforeItsLeastLength) {
  TextStream stream(Fake(), {.stop = {"STOP"}, .min_tokens = 2});
  EXPECT_EQ(stream.Push(Fake().PieceId("STOP")).content, "STOP");
  EXPECT_EQ(stream.Push(Fake().PieceId("STOP")).content, "STOP");
  EXPECT_EQ(stream.Push(Fake().PieceId("abSTOPcd")).content, "ab");
  EXPECT_TRUE(stream.stopped());
}

TEST(TextStreamTest, ReasoningEndsAtItsMarkWhetherSpecialOrText) {
  for (const bool special : {false, true}) {
    TextStream stream(Fake(), {.reasoning = ReasoningStart::kReasoning});
    TextPiece all;
    const auto add = [&all](TextPiece piece) {
      all.reasoning += piece.reasoning;
      all.content += piece.content;
    };
    for (char c : std::string("why </th ")) add(stream.Push(FakeTokenizer::ByteId(c)));
    if (special) {
      add(stream.Push(FakeTokenizer::kThinkEnd));
    } else {
      for (char c : std::string("</think>")) add(stream.Push(FakeTokenizer::ByteId(c)));
    }
    for (char c : std::string("so </think>")) add(stream.Push(FakeTokenizer::ByteId(c)));
    add(stream.Flush());
    EXPECT_EQ(all.reasoning, "why </th ");
    EXPECT_EQ(all.content, "so </think>");
    EXPECT_EQ(stream.reasoning_tokens(), special ? 10 : 17);
  }
}

}  // namespace
}  // namespace causeway
