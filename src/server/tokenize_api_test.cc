#include "server/tokenize_api.h"

#include <gtest/gtest.h>

#include "net/http_client.h"
#include "server/fake_tokenizer.h"
#include "server/openai_api.h"
#include "server/scripted_engine.h"

namespace causeway {
namespace {

Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

class TokenizeApiTest : public testing::Test {
 protected:
  TokenizeApiTest()
      : engine_({}),
        metrics_({.model_name = "served"}),
        api_({.name = "served",
              .tokenizer = tokenizer_,
              .chat_format = ChatFormat::kV32,
              .context_length = 1000,
              .vocab_size = FakeTokenizer::kVocabulary,
              .bos_token = FakeTokenizer::kBos},
             ApiKey()),
        desk_(engine_, metrics_, {}) {
    server_ = std::move(HttpServer::Listen({}, api_.Routes(desk_))).value();
  }

  HttpReply Post(const char* path, const std::string& body) {
    auto client = HttpClient::Connect("127.0.0.1", server_->port(), Soon());
    EXPECT_TRUE(client.ok()) << client.status().message();
    auto reply = client->Call("POST", path, body, Soon());
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return std::move(reply).value();
  }
  Json Answer(const char* path, const std::string& body) {
    const HttpReply reply = Post(path, body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return Json::parse(reply.body);
  }
  void ExpectRefused(const char* path, const std::string& body, const std::string& param) {
    const HttpReply reply = Post(path, body);
    EXPECT_EQ(reply.status, 400) << body;
    EXPECT_EQ(Json::parse(reply.body)["error"]["param"], param) << body << " " << reply.body;
  }

  const FakeTokenizer tokenizer_;
  ScriptedEngine engine_;
  ServeMetrics metrics_;
  const TokenizeApi api_;
  RequestDesk desk_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(TokenizeApiTest, ATextBecomesIdsWithTheirNumberAndTheContext) {
  for (const char* path : {"/v1/tokenize", "/tokenize"}) {
    const Json answer = Answer(path, R"({"model": "any", "prompt": "hi"})");
    EXPECT_EQ(answer["tokens"], Json(tokenizer_.Encode("<bos>hi", true)));
    EXPECT_EQ(answer["count"], 3);
    EXPECT_EQ(answer["max_model_len"], 1000);
  }
  EXPECT_EQ(Answer("/v1/tokenize", R"({"prompt": "hi", "add_special_tokens": false})")["tokens"],
            Json(tokenizer_.Encode("hi", true)));
  EXPECT_EQ(Answer("/v1/tokenize", R"({"prompt": "", "add_special_tokens": false})")["tokens"],
            Json::array());
}

TEST_F(TokenizeApiTest, SeveralTextsBecomeLists) {
  const Json answer = Answer("/v1/tokenize", R"({"prompt": ["a", "bcd"]})");
  ASSERT_EQ(answer["tokens"].size(), 2u);
  EXPECT_EQ(answer["tokens"][1], Json(tokenizer_.Encode("<bos>bcd", true)));
  EXPECT_EQ(answer["count"], Json({2, 4}));
}

TEST_F(TokenizeApiTest, MessagesBecomeThePromptOfTheirChat) {
  const Json answer =
      Answer("/v1/tokenize", R"({"messages": [{"role": "user", "content": "hi"}]})");
  ChatMessage message;
  message.role = "user";
  message.content = "hi";
  const std::string text = RenderChat(ChatFormat::kV32, {message}, {}).value();
  EXPECT_EQ(answer["tokens"], Json(tokenizer_.Encode(text, true)));
  EXPECT_GT(answer["count"], 3);
}

TEST_F(TokenizeApiTest, IdsBecomeTheirText) {
  const Json ids = tokenizer_.Encode("<bos>hi", true);
  for (const char* path : {"/v1/detokenize", "/detokenize"}) {
    EXPECT_EQ(Answer(path, Text(R"({"tokens": )", Dump(ids), "}")), Json({{"text", "hi"}}));
  }
  EXPECT_EQ(Answer("/v1/detokenize",
                   Text(R"({"skip_special_tokens": false, "tokens": )", Dump(ids), "}"))["text"],
            "<bos>hi");
  EXPECT_EQ(Answer("/v1/detokenize", R"({"tokens": [[300, 301], [], [303]]})")["text"],
            Json({"Hello", "", "ld"}));
  EXPECT_EQ(Answer("/v1/detokenize", R"({"tokens": []})")["text"], "");
}

TEST_F(TokenizeApiTest, WhatIsWrongIsNamed) {
  ExpectRefused("/v1/tokenize", "{}", "prompt");
  ExpectRefused("/v1/tokenize", R"({"prompt": 1})", "prompt");
  ExpectRefused("/v1/tokenize", R"({"prompt": []})", "prompt");
  ExpectRefused("/v1/tokenize", R"({"prompt": ["a", 1]})", "prompt");
  ExpectRefused("/v1/tokenize", R"({"prompt": "a", "nonsense": 1})", "nonsense");
  ExpectRefused("/v1/tokenize", R"({"prompt": "a", "add_special_tokens": 1})",
                "add_special_tokens");
  ExpectRefused("/v1/tokenize", R"({"messages": []})", "messages");
  ExpectRefused("/v1/detokenize", "{}", "tokens");
  ExpectRefused("/v1/detokenize", R"({"tokens": "a"})", "tokens");
  ExpectRefused("/v1/detokenize", R"({"tokens": [400]})", "tokens");
  ExpectRefused("/v1/detokenize", R"({"tokens": [-1]})", "tokens");
  ExpectRefused("/v1/detokenize", R"({"tokens": [[1], 2]})", "tokens");
  EXPECT_EQ(Post("/v1/tokenize", "{").status, 400);
  EXPECT_TRUE(engine_.requests().empty());
}

}  // namespace
}  // namespace causeway
