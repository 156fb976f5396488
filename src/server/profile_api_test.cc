#include "server/profile_api.h"

#include <gtest/gtest.h>

#include "net/http_client.h"
#include "server/json.h"
#include "server/scripted_engine.h"

namespace causeway {
namespace {

// Takes every profile and says that it is written.
class ProfiledEngine : public ScriptedEngine {
 public:
  ProfiledEngine() : ScriptedEngine({}) {}
  void StartProfile(const ProfileOptions& options, ProfileReply reply) override {
    started = options;
    reply(Text(options.output_dir, "/profile"));
  }
  void StopProfile(ProfileReply reply) override {
    if (started.output_dir.empty()) return reply(InvalidArgument("no profile is under way"));
    reply(Text(started.output_dir, "/profile"));
  }
  ProfileOptions started;
};

class ProfileApiTest : public testing::Test {
 protected:
  void Listen(const std::string& key) {
    api_ = std::make_unique<ProfileApi>(engine_, key, "/default");
    auto made = HttpServer::Listen({}, api_->Routes());
    ASSERT_TRUE(made.ok()) << made.status().message();
    server_ = std::move(made).value();
  }
  HttpReply Call(const char* method, const char* path, const std::string& body = "") {
    auto client = HttpClient::Connect("127.0.0.1", server_->port(), Soon());
    EXPECT_TRUE(client.ok()) << client.status().message();
    auto reply = client->Call(method, path, body, Soon());
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return reply.ok() ? *reply : HttpReply();
  }

  ProfiledEngine engine_;
  std::unique_ptr<ProfileApi> api_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(ProfileApiTest, SGLangsFieldsReachTheEngineAndThoseWithoutEffectAreNamed) {
  Listen("");
  const HttpReply started =
      Call("POST", "/start_profile",
           R"({"output_dir": "/x", "num_steps": 5, "start_step": 7, "profile_prefix": "a-b_1.c",)"
           R"( "activities": ["CPU", "GPU"], "with_stack": null, "record_shapes": true})");
  EXPECT_EQ(started.status, 200) << started.body;
  EXPECT_EQ(started.body,
            "Start profiling.\nWithout effect here: activities, record_shapes.\n"
            "To be written to /x/profile\n");
  EXPECT_EQ(engine_.started.output_dir, "/x");
  EXPECT_EQ(engine_.started.prefix, "a-b_1.c");
  EXPECT_EQ(engine_.started.start_step, 7);
  EXPECT_EQ(engine_.started.num_steps, 5);
  const HttpReply stopped = Call("POST", "/stop_profile");
  EXPECT_EQ(stopped.status, 200);
  EXPECT_EQ(stopped.body, "Stop profiling.\nWritten to /x/profile\n");
}

TEST_F(ProfileApiTest, WithoutABodyEverythingHasItsDefault) {
  Listen("");
  for (const char* method : {"GET", "POST"}) {
    engine_.started = {};
    EXPECT_EQ(Call(method, "/stop_profile").status, 400);
    EXPECT_EQ(Call(method, "/start_profile").status, 200);
    EXPECT_EQ(engine_.started.output_dir, "/default");
    EXPECT_EQ(engine_.started.num_steps, 0);
    EXPECT_EQ(Call(method, "/stop_profile").status, 200);
  }
}

TEST_F(ProfileApiTest, WhatIsWrongIsNamedAndNothingStarts) {
  Listen("");
  for (const auto& [body, message] : std::vector<std::pair<std::string, std::string>>{
           {"[", "the request's body"},
           {R"({"num_steps": 0})", "num_steps"},
           {R"({"num_steps": "many"})", "num_steps"},
           {R"({"output_dir": 5})", "output_dir"},
           {R"({"output_dir": "a\u0000b"})", "output_dir has a zero byte"},
           {R"({"profile_prefix": "../x"})", "profile_prefix is "},
           {Text(R"({"profile_prefix": ")", std::string(101, 'x'), "\"}"), "101 characters"},
           {R"({"steps": 5})", "steps"}}) {
    const HttpReply reply = Call("POST", "/start_profile", body);
    EXPECT_EQ(reply.status, 400) << body;
    EXPECT_NE(reply.body.find(message), std::string::npos) << reply.body;
  }
  EXPECT_EQ(Call("POST", "/start_profile", std::string(70'000, ' ')).status, 413);
  EXPECT_TRUE(engine_.started.output_dir.empty());
}

TEST_F(ProfileApiTest, TheKeyIsAskedFor) {
  Listen("secret");
  for (const char* path : {"/start_profile", "/stop_profile"}) {
    EXPECT_EQ(Call("POST", path).status, 401);
    EXPECT_EQ(Call("GET", path).status, 401);
  }
  EXPECT_TRUE(engine_.started.output_dir.empty());
}

}  // namespace
}  // namespace causeway
