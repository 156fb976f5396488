#include "server/api_key.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "net/http_client.h"

namespace causeway {
namespace {

Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

HttpRequest With(const std::string& authorization) {
  HttpRequest request;
  if (!authorization.empty()) request.headers.push_back({"authorization", authorization});
  return request;
}

TEST(ApiKeyTest, EveryKeyOfAFileAndTheOneBesideItMayAsk) {
  const auto keys = ApiKey::Parse("alone", "# staff\none\n\n  two 3 \r\n", "keys.txt");
  ASSERT_TRUE(keys.ok()) << keys.status().message();
  for (const char* key : {"alone", "one", "two"}) {
    EXPECT_FALSE(keys->Check(With(Text("Bearer ", key)))) << key;
    EXPECT_FALSE(keys->Check(With(Text("bearer ", key)))) << key;
  }
  for (const char* wrong : {"", "one", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Bearer #",
                            "Bearer 3", "Bearer two 3", "Basic one"}) {
    const auto refusal = keys->Check(With(wrong));
    ASSERT_TRUE(refusal) << wrong;
    EXPECT_EQ(refusal->http_status, 401) << wrong;
  }
  EXPECT_FALSE(ApiKey("").Check(With("")));
  EXPECT_TRUE(ApiKey("a").Check(With("")));
}

TEST(ApiKeyTest, AWrongFileNamesTheLineAndNeverAKey) {
  const struct {
    const char* text;
    const char* said;
  } kCases[] = {
      {"", "keys.txt: holds no key"},
      {"# only a comment\n\n", "keys.txt: holds no key"},
      {"secret\nsecret2 none\n", "line 2: after the key stands no number"},
      {"secret 0", "line 1: after the key"},
      {"secret 99999999999999999999", "line 1: after the key"},
      {"secret 3 4", "line 1: expected a key and perhaps a number"},
      {"secret\nother\nsecret 5", "line 3: the key is there already"},
  };
  for (const auto& bad : kCases) {
    const Status status = ApiKey::Parse("", bad.text, "keys.txt").status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << bad.text;
    EXPECT_NE(status.message().find(bad.said), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find("secret"), std::string::npos) << status.message();
  }
}

TEST(ApiKeyTest, AKeysOwnLimitIs429UntilOneOfItsRequestsHasEnded) {
  const auto keys = ApiKey::Parse("", "few 2\nmany", "keys.txt");
  ASSERT_TRUE(keys.ok());
  std::vector<HttpResponder> kept;  // on the io thread
  std::vector<HttpRoute> routes;
  routes.push_back({"GET", "/hang", keys->GuardWork([&](HttpRequest, HttpResponder responder) {
                      responder.Begin({});
                      kept.push_back(std::move(responder));
                    })});
  routes.push_back({"GET", "/end", keys->Guard([&](HttpRequest, HttpResponder responder) {
                      for (HttpResponder& open : kept) open.End();
                      kept.clear();
                      responder.Send({.body = "ended"});
                    })});
  routes.push_back({"GET", "/work", keys->GuardWork([](HttpRequest, HttpResponder responder) {
                      responder.Send({.body = "done"});
                    })});
  auto server = HttpServer::Listen({}, std::move(routes));
  ASSERT_TRUE(server.ok()) << server.status().message();
  const auto client = [&] {
    return HttpClient::Connect("127.0.0.1", (*server)->port(), Soon()).value();
  };
  const std::vector<HttpHeader> few = {{"Authorization", "Bearer few"}};
  const auto status = [&](const char* path, const char* key) {
    auto reply = client().Call("GET", path, "", Soon(), {{"Authorization", Text("Bearer ", key)}});
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    if (reply.ok() && reply->status == 429) {
      EXPECT_NE(FindHeader(reply->headers, "Retry-After"), nullptr);
      EXPECT_NE(reply->body.find("2 requests under way"), std::string::npos) << reply->body;
    }
    return reply.ok() ? reply->status : 0;
  };
  std::vector<HttpClient> hanging;
  const auto hang = [&] {
    hanging.push_back(client());
    ASSERT_TRUE(hanging.back().SendBytes(FormatRequest("GET", "/hang", "h", few, ""), Soon()).ok());
    ASSERT_EQ(hanging.back().ReadHead(Soon())->status, 200);
  };
  EXPECT_EQ(status("/work", "few"), 200);
  EXPECT_EQ(status("/work", "wrong"), 401);
  hang();
  EXPECT_EQ(status("/work", "few"), 200);
  hang();
  EXPECT_EQ(status("/work", "few"), 429);
  EXPECT_EQ(status("/work", "many"), 200) << "another key is not concerned";
  EXPECT_EQ(status("/end", "few"), 200) << "what is no work is not counted";
  EXPECT_EQ(status("/work", "few"), 200);
}

}  // namespace
}  // namespace causeway
