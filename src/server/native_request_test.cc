#include "server/native_request.h"

#include <gtest/gtest.h>

#include "server/fake_tokenizer.h"
#include "server/grammar_store.h"

namespace causeway {
namespace {

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
          .context_length = 300,
          .vocab_size = FakeTokenizer::kVocabulary,
          .bos_token = FakeTokenizer::kBos,
          .max_choices = 8,
          .grammars = &Grammars()};
}

NativeRequest Parse(const std::string& body) {
  NativeRequest request;
  const auto error = ParseNativeRequest(body, Model(), request);
  EXPECT_FALSE(error) << body << ": " << error->message;
  return request;
}

ApiError Refusal(const std::string& body) {
  NativeRequest request;
  const auto error = ParseNativeRequest(body, Model(), request);
  EXPECT_TRUE(error) << body;
  return error.value_or(ApiError());
}

std::vector<int32_t> WithBos(const std::string& text) {
  return Fake().Encode("<bos>" + text, true);
}

TEST(NativeRequestTest, ATextGetsSGLangsDefaults) {
  const NativeRequest request = Parse(R"({"text": "hi"})");
  ASSERT_EQ(request.prompts.size(), 1u);
  const NativePrompt& prompt = request.prompts[0];
  EXPECT_EQ(prompt.tokens, WithBos("hi"));
  EXPECT_EQ(prompt.sampling.max_new_tokens, 128);
  EXPECT_EQ(prompt.sampling.temperature, 1.0);
  EXPECT_EQ(prompt.sampling.logprobs, -1);
  EXPECT_EQ(prompt.stream_interval, 1);
  EXPECT_FALSE(request.list);
  EXPECT_FALSE(request.stream);
  EXPECT_EQ(request.rids, std::vector<std::string>{request.id});
  EXPECT_NE(request.id, Parse(R"({"text": "hi"})").id);
}

TEST(NativeRequestTest, IdsAreTakenAsTheyAre) {
  const NativeRequest one = Parse(R"({"input_ids": [5, 6, 7]})");
  EXPECT_EQ(one.prompts[0].tokens, std::vector<int32_t>({5, 6, 7}));
  EXPECT_FALSE(one.list);
  const NativeRequest several = Parse(R"({"input_ids": [[5], [6, 7]]})");
  ASSERT_EQ(several.prompts.size(), 2u);
  EXPECT_EQ(several.prompts[1].tokens, std::vector<int32_t>({6, 7}));
  EXPECT_TRUE(several.list);
  EXPECT_TRUE(Parse(R"({"text": ["a"]})").list) << "a list of one is a list";
}

TEST(NativeRequestTest, WhatSGLangsRouterWritesIntoARequestChangesNothing) {
  const NativeRequest request = Parse(R"({"text": "hi", "model": null, "stream": false,
      "return_text_in_logprobs": false, "log_metrics": true, "return_hidden_states": false,
      "background": false, "no_logs": false, "return_bytes": false, "return_entropy": false})");
  EXPECT_EQ(request.prompts[0].tokens, Parse(R"({"text": "hi"})").prompts[0].tokens);
  EXPECT_EQ(Parse(R"({"text": "hi", "model": "m"})").prompts.size(), 1u);
}

TEST(NativeRequestTest, EverySamplingParameterReachesTheEngine) {
  const NativeRequest request = Parse(R"({"text": "a", "sampling_params": {
      "max_new_tokens": 9, "min_new_tokens": 2, "temperature": 0.5, "top_p": 0.75, "top_k": 4,
      "min_p": 0.125, "ignore_eos": true, "stop": ["x", "y"], "stop_token_ids": [3, 4],
      "frequency_penalty": -0.5, "presence_penalty": 2, "repetition_penalty": 1.5,
      "logit_bias": {"5": -100, "399": 0.5},
      "sampling_seed": -1, "n": 2, "no_stop_trim": true, "skip_special_tokens": false,
      "stream_interval": 5}, "stream": true, "return_logprob": true, "top_logprobs_num": 3,
      "logprob_start_len": -1, "return_text_in_logprobs": true})");
  const NativePrompt& prompt = request.prompts[0];
  EXPECT_EQ(prompt.sampling.max_new_tokens, 9);
  EXPECT_EQ(prompt.sampling.min_new_tokens, 2);
  EXPECT_EQ(prompt.sampling.temperature, 0.5);
  EXPECT_EQ(prompt.sampling.top_p, 0.75);
  EXPECT_EQ(prompt.sampling.top_k, 4);
  EXPECT_EQ(prompt.sampling.min_p, 0.125);
  EXPECT_TRUE(prompt.sampling.ignore_eos);
  EXPECT_EQ(prompt.sampling.stop_token_ids, std::vector<int32_t>({3, 4}));
  EXPECT_EQ(prompt.sampling.logprobs, 3);
  EXPECT_EQ(prompt.sampling.frequency_penalty, -0.5);
  EXPECT_EQ(prompt.sampling.presence_penalty, 2);
  EXPECT_EQ(prompt.sampling.repetition_penalty, 1.5);
  ASSERT_EQ(prompt.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(prompt.sampling.logit_bias[0].token, 5);
  EXPECT_EQ(prompt.sampling.logit_bias[0].bias, -100);
  EXPECT_EQ(prompt.sampling.logit_bias[1].token, 399);
  EXPECT_EQ(prompt.stop, std::vector<std::string>({"x", "y"}));
  EXPECT_TRUE(prompt.no_stop_trim);
  EXPECT_FALSE(prompt.skip_special_tokens);
  EXPECT_EQ(prompt.stream_interval, 5);
  EXPECT_TRUE(request.text_in_logprobs);
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.list) << "two answers";
  EXPECT_EQ(request.seeds, std::vector<uint64_t>({~uint64_t{0}, 0}));
}

TEST(NativeRequestTest, ConstraintsBecomeGrammars) {
  for (const char* params :
       {R"({"regex": "a|b"})", R"({"json_schema": "{\"type\": \"object\"}"})",
        R"({"json_schema": {"type": "object"}})", R"({"ebnf": "root ::= [a-z]"})"}) {
    EXPECT_NE(Parse(Text(R"({"text": "a", "sampling_params": )", params, "}"))
                  .prompts[0]
                  .sampling.grammar,
              nullptr)
        << params;
  }
  const NativeRequest request =
      Parse(R"({"text": "a", "sampling_params": {"stop_regex": ["a+b", "c"]}})");
  EXPECT_EQ(request.prompts[0].stop_regex.size(), 2u);
}

TEST(NativeRequestTest, LogprobsOfThePromptBeginWhereTheyAreAskedFor) {
  const auto from = [](const std::string& fields) {
    return Parse(Text(R"({"text": "ab")", fields, "}")).prompts[0].sampling.prompt_logprobs_from;
  };
  EXPECT_EQ(from(""), -1);
  EXPECT_EQ(from(R"(, "return_logprob": true)"), -1);
  EXPECT_EQ(from(R"(, "logprob_start_len": 1)"), -1) << "no log-probabilities at all";
  EXPECT_EQ(from(R"(, "return_logprob": true, "logprob_start_len": 0)"), 0);
  EXPECT_EQ(from(R"(, "return_logprob": true, "logprob_start_len": 2)"), 2);
  EXPECT_EQ(from(R"(, "return_logprob": true, "logprob_start_len": 3)"), -1) << "there are none";
  const NativeRequest both = Parse(R"({"text": ["a", "b"], "token_ids_logprob": [5, 6]})");
  EXPECT_EQ(both.prompts[1].sampling.logprob_ids, std::vector<int32_t>({5, 6}));
  const NativeRequest each = Parse(R"({"text": ["a", "b"], "token_ids_logprob": [[5], null]})");
  EXPECT_EQ(each.prompts[0].sampling.logprob_ids, std::vector<int32_t>{5});
  EXPECT_TRUE(each.prompts[1].sampling.logprob_ids.empty());
}

TEST(NativeRequestTest, ListsGiveEachPromptItsOwnValue) {
  const NativeRequest request = Parse(R"({"text": ["a", "b"],
      "sampling_params": [{"temperature": 0}, {"max_new_tokens": 3}],
      "return_logprob": [false, true], "top_logprobs_num": [1, 2], "rid": ["x", "y"]})");
  EXPECT_EQ(request.prompts[0].sampling.temperature, 0);
  EXPECT_EQ(request.prompts[1].sampling.temperature, 1);
  EXPECT_EQ(request.prompts[1].sampling.max_new_tokens, 3);
  EXPECT_EQ(request.prompts[0].sampling.logprobs, -1);
  EXPECT_EQ(request.prompts[1].sampling.logprobs, 2);
  EXPECT_EQ(request.rids, std::vector<std::string>({"x", "y"}));
}

TEST(NativeRequestTest, ARidOfSeveralAnswersIsTheStartOfTheirNames) {
  EXPECT_EQ(Parse(R"({"text": "a", "rid": "r"})").rids, std::vector<std::string>{"r"});
  EXPECT_EQ(Parse(R"({"text": ["a", "b"], "rid": "r"})").rids,
            std::vector<std::string>({"r_0", "r_1"}));
  EXPECT_EQ(Parse(R"({"text": ["a"], "rid": ["r"], "sampling_params": {"n": 2}})").rids,
            std::vector<std::string>({"r_0", "r_1"}));
}

TEST(NativeRequestTest, TheLengthDefaultsToWhatTheContextLeaves) {
  const std::string text(250, 'a');  // 251 tokens of 300
  const auto longest = [&](const std::string& params) {
    return Parse(Text(R"({"text": ")", text, R"(", "sampling_params": )", params, "}"))
        .prompts[0]
        .sampling.max_new_tokens;
  };
  EXPECT_EQ(longest("null"), 49);
  EXPECT_EQ(longest(R"({"max_new_tokens": null})"), 49);
  EXPECT_EQ(longest(R"({"max_new_tokens": 49})"), 49);
  EXPECT_EQ(Parse(R"({"text": "a", "sampling_params": {"max_new_tokens": null}})")
                .prompts[0]
                .sampling.max_new_tokens,
            298);
}

TEST(NativeRequestTest, NoNewTokensMeansThePromptAlone) {
  const NativePrompt prompt =
      Parse(R"({"text": "a", "sampling_params": {"max_new_tokens": 0}})").prompts[0];
  EXPECT_TRUE(prompt.prefill_only);
  EXPECT_EQ(prompt.sampling.max_new_tokens, 1) << "the engine can't do less";
}

TEST(NativeRequestTest, ATinyTemperatureIsGreedy) {
  EXPECT_EQ(Parse(R"({"text": "a", "sampling_params": {"temperature": 1e-7}})")
                .prompts[0]
                .sampling.temperature,
            0);
}

// What SGLang's own clients send although it asks for nothing.
TEST(NativeRequestTest, ValuesThatAskForNothingAreAccepted) {
  Parse(R"({"text": "a", "lora_path": "", "image_data": null, "return_routed_experts": false,
            "return_logprob": false, "logprob_start_len": -1, "custom_labels": {"a": "b"},
            "sampling_params": {"json_schema": null, "regex": null, "stop": [], "stop_token_ids": [],
              "stop_regex": [], "frequency_penalty": 0.0, "presence_penalty": 0,
              "repetition_penalty": 1.0, "spaces_between_special_tokens": true, "top_k": -1}})");
}

TEST(NativeRequestTest, WhatIsWrongIsNamed) {
  struct Case {
    const char* body;
    const char* param;
    const char* message;
  };
  const Case cases[] = {
      {R"({})", "text", "missing"},
      {R"({"text": "a", "input_ids": [1]})", "text", "one of them"},
      {R"({"text": 3})", "text", "a string"},
      {R"({"text": []})", "text", "0 prompts"},
      {R"({"text": ["a", 3]})", "text", "text[1]"},
      {R"({"text": ["1","2","3","4","5","6","7","8","9"]})", "text", "1 to 8"},
      {R"({"input_ids": []})", "input_ids", "empty"},
      {R"({"input_ids": [1, 400]})", "input_ids", "input_ids[1] is 400"},
      {R"({"input_ids": [[1], [-1]]})", "input_ids", "input_ids[1][0] is -1"},
      {R"({"input_ids": [[1], 2]})", "input_ids", "input_ids[1]"},
      {R"({"input_embeds": [[0.5]], "text": "a"})", "input_embeds", "not supported"},
      {R"({"text": "a", "sampling_params": 3})", "sampling_params", "an object"},
      {R"({"text": "a", "sampling_params": [{}]})", "sampling_params", "one prompt"},
      {R"({"text": ["a", "b"], "sampling_params": [{}]})", "sampling_params", "list of 2"},
      {R"({"text": "a", "sampling_params": {"top_p": 2}})", "sampling_params.top_p", "at most 1"},
      {R"({"text": "a", "sampling_params": {"frequency_penalty": 2.1}})",
       "sampling_params.frequency_penalty", "is 2.1; expected a number -2 to 2"},
      {R"({"text": "a", "sampling_params": {"logit_bias": {"-1": 1}}})",
       "sampling_params.logit_bias", "expected a token id 0 to 399"},
      {R"({"text": "a", "sampling_params": {"max_tokens": 2}})", "sampling_params.max_tokens",
       "unknown"},
      {R"({"text": ["a", "b"], "sampling_params": [{}, {"top_k": -2}]})",
       "sampling_params[1].top_k", "at least -1"},
      {R"({"text": ["a", "b"], "sampling_params": [{}, {"n": 2}]})", "sampling_params[1].n",
       "the same"},
      {R"({"text": ["a", "b", "c"], "sampling_params": {"n": 3}})", "sampling_params", "at most 8"},
      {R"({"text": "a", "sampling_params": {"regex": "(a"}})", "sampling_params.regex",
       "no closing )"},
      {R"({"text": "a", "sampling_params": {"json_schema": "{"}})", "sampling_params.json_schema",
       "not valid JSON"},
      {R"({"text": "a", "sampling_params": {"json_schema": "{\"type\": \"x\"}"}})",
       "sampling_params.json_schema", "#: type is"},
      {R"({"text": "a", "sampling_params": {"json_schema": "{}", "regex": "a"}})",
       "sampling_params.regex", "send one of them"},
      {R"({"text": "a", "sampling_params": {"structural_tag": "{}"}})",
       "sampling_params.structural_tag", "not supported"},
      {R"({"text": "a", "sampling_params": {"max_new_tokens": 299}})", "sampling_params",
       "at most 298"},
      {R"({"text": "a", "sampling_params": {"max_new_tokens": 2, "min_new_tokens": 3}})",
       "sampling_params", "more than"},
      {R"({"text": "a", "return_logprob": true, "logprob_start_len": 3})", "logprob_start_len",
       "logprob_start_len is 3; expected an integer -1 to 2, the prompt's length"},
      {R"({"text": "a", "return_logprob": true, "logprob_start_len": -2})", "logprob_start_len",
       "-1 to 2"},
      {R"({"text": "a", "return_logprob": 1})", "return_logprob", "true or false"},
      {R"({"text": "a", "top_logprobs_num": 129})", "top_logprobs_num", "0 to 128"},
      {R"({"text": "a", "token_ids_logprob": 1})", "token_ids_logprob", "a list of token ids"},
      {R"({"text": "a", "token_ids_logprob": [400]})", "token_ids_logprob", "0 to 399"},
      {R"({"text": ["a", "b"], "token_ids_logprob": [[1]]})", "token_ids_logprob",
       "one for each prompt"},
      {R"({"text": "a", "lora_path": "x"})", "lora_path", "not supported"},
      {R"({"text": "a", "image_data": "x"})", "image_data", "not supported"},
      {R"({"text": "a", "bootstrap_room": 3})", "bootstrap_room", "--disaggregation-mode"},
      {R"({"text": "a", "prompt": "b"})", "prompt", "unknown"},
      {R"({"text": "a", "rid": 3})", "rid", "a string"},
      {R"({"text": "a", "rid": ""})", "rid", "1 to 512"},
      {R"({"text": ["a", "b"], "rid": ["x", "x"]})", "rid", "different"},
      {R"({"text": ["a", "b"], "rid": ["x"]})", "rid", "list of 2"},
      {R"({"text": "a", "stream": 1})", "stream", "true or false"},
      {R"([])", "", "an object"},
      {R"({"text": "a")", "", "request's body"},
  };
  for (const Case& one : cases) {
    const ApiError error = Refusal(one.body);
    EXPECT_EQ(error.http_status, 400) << one.body;
    EXPECT_EQ(error.param, one.param) << one.body << ": " << error.message;
    EXPECT_NE(error.message.find(one.message), std::string::npos)
        << one.body << ": " << error.message;
  }
}

TEST(NativeRequestTest, APromptThatFillsTheContextIsRefusedWithBothNumbers) {
  const ApiError error = Refusal(Text(R"({"text": ")", std::string(299, 'a'), R"("})"));
  EXPECT_EQ(error.code, "context_length_exceeded");
  EXPECT_NE(error.message.find("300 tokens"), std::string::npos) << error.message;
  EXPECT_NE(error.message.find("context length is 300"), std::string::npos) << error.message;
}

}  // namespace
}  // namespace causeway
