#include "router/logprob_merge.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "router/engine_metrics.h"

namespace causeway {
namespace {

using Json = nlohmann::json;

const Json& Logprobs(const Json& answer) { return answer["meta_info"]["input_token_logprobs"]; }

TEST(LogprobMerge, ThePromptsComeBeforeTheDecodeWorkersOwn) {
  const std::string prefill =
      R"({"text":"x","meta_info":{"id":"a","input_token_logprobs":[[null,5,null],[-0.25,6,"]"]]}})";
  const PromptLogprobs prompt = ReadPromptLogprobs(prefill, false);
  const Json merged = Json::parse(MergeAnswer(
      R"({"text":"out","meta_info":{"input_token_logprobs":[[-1.5,7,null]],"id":"b"},"index":0})",
      prompt));
  EXPECT_EQ(Logprobs(merged), Json::parse(R"([[null,5,null],[-0.25,6,"]"],[-1.5,7,null]])"));
  EXPECT_EQ(merged["text"], "out");
  EXPECT_EQ(merged["meta_info"]["id"], "b");
}

TEST(LogprobMerge, EmptyAndMissingListsAreTakenAsTheyAre) {
  const PromptLogprobs prompt =
      ReadPromptLogprobs(R"({"meta_info":{"input_token_logprobs":[ [1,2,3] ]}})", false);
  EXPECT_EQ(
      Logprobs(Json::parse(MergeAnswer(R"({"meta_info":{"input_token_logprobs":[]}})", prompt))),
      Json::parse("[[1,2,3]]"));
  EXPECT_EQ(
      Logprobs(Json::parse(MergeAnswer(R"({"meta_info":{"input_token_logprobs":null}})", prompt))),
      Json::parse("[[1,2,3]]"));
  EXPECT_EQ(MergeAnswer(R"({"meta_info":{"id":1}})", prompt), R"({"meta_info":{"id":1}})");
  EXPECT_EQ(MergeAnswer("no json", prompt), "no json");
  EXPECT_TRUE(ReadPromptLogprobs("no json", false).empty());
  EXPECT_TRUE(ReadPromptLogprobs("", true).empty());
  const PromptLogprobs none =
      ReadPromptLogprobs(R"({"meta_info":{"input_token_logprobs":[]}})", false);
  EXPECT_EQ(Logprobs(Json::parse(
                MergeAnswer(R"({"meta_info":{"input_token_logprobs":[[4,5,6]]}})", none))),
            Json::parse("[[4,5,6]]"));
}

TEST(LogprobMerge, ABatchIsMergedAnswerByAnswer) {
  const PromptLogprobs prompt = ReadPromptLogprobs(
      R"([{"meta_info":{"input_token_logprobs":[[1,1,null]]}},
          {"meta_info":{"input_token_logprobs":[[2,2,null],[3,3,null]]}}])",
      false);
  const Json merged = Json::parse(MergeAnswer(
      R"([{"meta_info":{"input_token_logprobs":[]}},{"meta_info":{"input_token_logprobs":[[9,9,null]]}}])",
      prompt));
  EXPECT_EQ(Logprobs(merged[0]), Json::parse("[[1,1,null]]"));
  EXPECT_EQ(Logprobs(merged[1]), Json::parse("[[2,2,null],[3,3,null],[9,9,null]]"));
}

TEST(LogprobMerge, AllListsOfThePromptAreMergedInWhateverOrderTheyStand) {
  const PromptLogprobs prompt = ReadPromptLogprobs(
      R"({"meta_info":{"input_token_logprobs":[[1,1,null]],"input_top_logprobs":[null,[[2,2,null]]],
          "input_token_ids_logprobs":[[[3,3,null]]]}})",
      false);
  const Json merged = Json::parse(MergeAnswer(
      R"({"meta_info":{"input_token_ids_logprobs":[],"output_top_logprobs":[[[9,9,null]]],
          "input_top_logprobs":[[[4,4,null]]],"input_token_logprobs":[]}})",
      prompt));
  EXPECT_EQ(merged["meta_info"], Json::parse(R"({"input_token_logprobs":[[1,1,null]],
                "input_top_logprobs":[null,[[2,2,null]],[[4,4,null]]],
                "input_token_ids_logprobs":[[[3,3,null]]],"output_top_logprobs":[[[9,9,null]]]})"));
}

TEST(LogprobMerge, AStreamIsMergedEventByEventHoweverItIsCut) {
  const PromptLogprobs prompt = ReadPromptLogprobs(
      "data: {\"index\":0,\"meta_info\":{\"input_token_logprobs\":[[1,1,null]]}}\n\n"
      "data: {\"index\":1,\"meta_info\":{\"input_token_logprobs\":[[2,2,null]]}}\r\n\r\n"
      "data: {\"index\":0,\"meta_info\":{\"input_token_logprobs\":[[7,7,null]]}}\n\n"
      "data: [DONE]\n\n",
      true);
  const std::string decode =
      ": a comment\n\n"
      "data: {\"index\":0,\"meta_info\":{\"input_token_logprobs\":[]}}\n\n"
      "data: {\"index\":1,\"text\":\"a\\nb\",\"meta_info\":{\"input_token_logprobs\":[]}}\r\n\r\n"
      "data: [DONE]\n\n"
      "data: cut of";
  const std::string expected =
      ": a comment\n\n"
      "data: {\"index\":0,\"meta_info\":{\"input_token_logprobs\":[[1,1,null]]}}\n\n"
      "data: "
      "{\"index\":1,\"text\":\"a\\nb\",\"meta_info\":{\"input_token_logprobs\":[[2,2,null]]}}"
      "\r\n\r\n"
      "data: [DONE]\n\n"
      "data: cut of";
  for (size_t piece = 1; piece <= decode.size(); ++piece) {
    EventMerger merger(prompt);
    std::string out;
    for (size_t at = 0; at < decode.size(); at += piece) {
      out += merger.Add(std::string_view(decode).substr(at, piece));
    }
    out += merger.Rest();
    ASSERT_EQ(out, expected) << "in pieces of " << piece;
  }
}

TEST(EngineMetrics, SamplesOfAllWorkersStandInTheirFamilyWithTheirWorker) {
  const std::string merged = MergeMetrics(
      {{"http://a:1",
        "# HELP sglang:x Help.\n# TYPE sglang:x histogram\n"
        "sglang:x_bucket{le=\"1\"} 2\nsglang:x_sum 3.5\n# TYPE up gauge\nup{} 1\n"},
       {"http://b:2",
        "# HELP sglang:x Other help.\n# TYPE sglang:x histogram\nsglang:x_bucket{le=\"1\"} 4\n"
        "lonely 7 1700000000\r\n# a comment\nbroken\n"}});
  EXPECT_EQ(merged,
            "# HELP sglang:x Help.\n# TYPE sglang:x histogram\n"
            "sglang:x_bucket{worker=\"http://a:1\",le=\"1\"} 2\n"
            "sglang:x_sum{worker=\"http://a:1\"} 3.5\n"
            "sglang:x_bucket{worker=\"http://b:2\",le=\"1\"} 4\n"
            "# TYPE up gauge\nup{worker=\"http://a:1\"} 1\n"
            "lonely{worker=\"http://b:2\"} 7 1700000000\n");
}

}  // namespace
}  // namespace causeway
