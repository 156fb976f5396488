#include "router/request_facts.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace causeway {
namespace {

using Json = nlohmann::json;

RequestFacts Facts(RequestKind kind, std::string_view body) {
  StatusOr<RequestFacts> facts = ReadFacts(kind, body);
  EXPECT_TRUE(facts.ok()) << facts.status().message();
  return facts.ok() ? *facts : RequestFacts();
}

// The body for the pair, parsed by a reader that refuses keys that appear twice.
Json Spliced(RequestKind kind, const std::string& body, std::optional<int> port = 9000) {
  const RequestFacts facts = Facts(kind, body);
  std::vector<uint64_t> rooms(facts.batch.value_or(1));
  for (size_t i = 0; i < rooms.size(); ++i) rooms[i] = (uint64_t{1} << 62) + i;
  const std::string text = WithBootstrap(body, facts, {.host = "10.0.0.1", .port = port}, rooms);
  int keys = 0;
  const auto count = [&keys](int depth, Json::parse_event_t event, Json&) {
    keys += event == Json::parse_event_t::key && depth == 1 ? 1 : 0;
    return true;
  };
  const Json out = Json::parse(text, count, false);
  EXPECT_TRUE(out.is_object()) << text;
  EXPECT_EQ(static_cast<size_t>(keys), out.size()) << "a key appears twice: " << text;
  return out;
}

TEST(RequestFacts, FieldsAreFoundWhateverStandsAround) {
  const RequestFacts facts =
      Facts(RequestKind::kGenerate,
            R"({"sampling_params":{"stream":false,"text":"no"},"text":"hi","str\u0065am":true,)"
            R"("return_logprob":true,"model":"a\u0062"})");
  EXPECT_TRUE(facts.stream);
  EXPECT_TRUE(facts.return_logprob);
  EXPECT_EQ(facts.model, "ab");
  EXPECT_FALSE(facts.batch.has_value());
  EXPECT_EQ(facts.prefix, "thi");
}

TEST(RequestFacts, BatchesAreListsOfPromptsAndNothingElse) {
  struct Case {
    RequestKind kind;
    const char* body;
    std::optional<size_t> batch;
  };
  const Case cases[] = {
      {RequestKind::kGenerate, R"({"text":"a"})", {}},
      {RequestKind::kGenerate, R"({"text":["a","b","c"]})", 3},
      {RequestKind::kGenerate, R"({"text":["a"]})", 1},
      {RequestKind::kGenerate, R"({"text":null,"input_ids":[[1,2],[3]]})", 2},
      {RequestKind::kGenerate, R"({"input_ids":[1,2,3]})", {}},
      {RequestKind::kGenerate, R"({"text":"a","sampling_params":{"n":4}})", {}},
      {RequestKind::kCompletion, R"({"prompt":["a","b"],"n":2})", 2},
      {RequestKind::kCompletion, R"({"prompt":[1,2,3]})", {}},
      {RequestKind::kCompletion, R"({"prompt":[[1,2,3],[4]]})", 2},
      {RequestKind::kCompletion, R"({"prompt":"a","n":2})", {}},
      {RequestKind::kCompletion, R"({"prompt":[]})", {}},
      {RequestKind::kChat, R"({"messages":[{"role":"user"},{"role":"user"}],"n":3})", {}},
  };
  for (const Case& one : cases) EXPECT_EQ(Facts(one.kind, one.body).batch, one.batch) << one.body;
}

TEST(RequestFacts, APromptsPrefixIsThatOfItsContinuation) {
  const auto begins = [](RequestKind kind, const char* shorter, const char* longer) {
    const std::string first = Facts(kind, shorter).prefix;
    return !first.empty() && Facts(kind, longer).prefix.starts_with(first);
  };
  EXPECT_TRUE(begins(RequestKind::kGenerate, R"({"text":"ab"})", R"({"x":1,"text":"abc"})"));
  EXPECT_TRUE(
      begins(RequestKind::kGenerate, R"({"input_ids":[1,2]})", R"({"input_ids":[1, 2, 3]})"));
  EXPECT_FALSE(begins(RequestKind::kGenerate, R"({"input_ids":[1,2]})", R"({"input_ids":[1,21]})"));
  EXPECT_TRUE(begins(RequestKind::kChat, R"({"messages":[{"role":"user","content":"hi"}]})",
                     R"({"messages":[{"role":"user","content":"hi"},{"role":"assistant"}]})"));
  EXPECT_FALSE(begins(RequestKind::kGenerate, R"({"text":"a"})", R"({"input_ids":[97]})"));
}

TEST(RequestFacts, TheBootstrapGoesIntoEveryFormOfBody) {
  for (const char* body : {R"({"text":"a}b"})", "{}", " { } ",
                           R"({"a":{"b":{"c":"}"}},"text":"x"}  )", R"({"text":"\"}\\"})"}) {
    const Json before = Json::parse(body);
    Json after = Spliced(RequestKind::kGenerate, body);
    EXPECT_EQ(after["bootstrap_host"], "10.0.0.1");
    EXPECT_EQ(after["bootstrap_port"], 9000);
    EXPECT_EQ(after["bootstrap_room"].get<uint64_t>(), uint64_t{1} << 62);
    for (const char* key : {"bootstrap_host", "bootstrap_port", "bootstrap_room"}) after.erase(key);
    EXPECT_EQ(after, before) << body;
  }
}

TEST(RequestFacts, ABatchGetsListsOfItsLengthAndNoPortIsNull) {
  const Json single = Spliced(RequestKind::kGenerate, R"({"text":"a"})", std::nullopt);
  EXPECT_TRUE(single["bootstrap_port"].is_null());
  const Json batch = Spliced(RequestKind::kCompletion, R"({"prompt":["a","b"]})", std::nullopt);
  EXPECT_EQ(batch["bootstrap_host"], Json::parse(R"(["10.0.0.1","10.0.0.1"])"));
  EXPECT_EQ(batch["bootstrap_port"], Json::parse("[null,null]"));
  ASSERT_EQ(batch["bootstrap_room"].size(), 2U);
  EXPECT_NE(batch["bootstrap_room"][0], batch["bootstrap_room"][1]);
}

TEST(RequestFacts, TheClientsOwnBootstrapGivesWay) {
  for (const char* body :
       {R"({"bootstrap_room":5})", R"({"bootstrap_room":5,"text":"a"})",
        R"({"text":"a", "bootstrap_room" : 5 , "bootstrap_host":"evil"})",
        R"({"bootstrap_host":["a","b"],"bootstrap_port":1,"bootstrap_room":null})",
        R"({"bootstrap_host":"x","text":"a","bootstrap_room":[1],"stream":true})",
        R"({"text":"a", "bootstrap_roo\u006d":7 })"}) {
    const Json after = Spliced(RequestKind::kGenerate, body);
    EXPECT_EQ(after["bootstrap_host"], "10.0.0.1") << body;
    EXPECT_EQ(after["bootstrap_room"].get<uint64_t>(), uint64_t{1} << 62) << body;
    EXPECT_EQ(after.contains("text"), Json::parse(body).contains("text")) << body;
  }
}

TEST(RequestFacts, ABodyThatIsNoObjectIsRefused) {
  for (const char* body : {"", "[]", "{\"a\":", "nonsense", "{\"text\":\"a\"} trailing"}) {
    const StatusOr<RequestFacts> facts = ReadFacts(RequestKind::kGenerate, body);
    ASSERT_FALSE(facts.ok()) << body;
    EXPECT_EQ(facts.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(facts.status().message().find("JSON"), std::string::npos);
  }
}

}  // namespace
}  // namespace causeway
