// How requests name the room that a prefill and a decode server share.
#include <gtest/gtest.h>

#include "server/fake_tokenizer.h"
#include "server/native_request.h"
#include "server/openai_request.h"

namespace causeway {
namespace {

ServedModel Model(ServerRole role) {
  static const FakeTokenizer tokenizer;
  return {.name = "served",
          .tokenizer = tokenizer,
          .chat_format = ChatFormat::kV32,
          .context_length = 1000,
          .vocab_size = FakeTokenizer::kVocabulary,
          .bos_token = FakeTokenizer::kBos,
          .max_choices = 8,
          .role = role};
}

// The rooms by prompt, or the error's param and message.
struct Read {
  std::vector<std::string> rooms;  // "host:port/room"
  std::string param;
  std::string message;
};
std::string TextOf(const Bootstrap& bootstrap) {
  return Text(bootstrap.host, ":", bootstrap.port, "/", bootstrap.room);
}
Read ReadNative(ServerRole role, const std::string& body) {
  NativeRequest request;
  Read out;
  if (const auto error = ParseNativeRequest(body, Model(role), request)) {
    return {{}, error->param, error->message};
  }
  for (const NativePrompt& prompt : request.prompts) {
    if (prompt.bootstrap) out.rooms.push_back(TextOf(*prompt.bootstrap));
  }
  return out;
}
Read ReadCompletion(ServerRole role, const std::string& body) {
  OpenAiRequest request;
  const ServedModel model = Model(role);
  if (const auto error = ParseOpenAiRequest(Endpoint::kCompletions, body, model, request)) {
    return {{}, error->param, error->message};
  }
  Read out;
  for (const Bootstrap& one : request.bootstrap) out.rooms.push_back(TextOf(one));
  return out;
}

using Rooms = std::vector<std::string>;
constexpr char kOne[] = R"("bootstrap_host": "p", "bootstrap_port": 9000, "bootstrap_room": 7)";

TEST(BootstrapTest, OneRoomIsTheRequests) {
  for (const ServerRole role : {ServerRole::kPrefill, ServerRole::kDecode}) {
    EXPECT_EQ(ReadNative(role, Text(R"({"text": "a", )", kOne, "}")).rooms, Rooms{"p:9000/7"});
    EXPECT_EQ(ReadCompletion(role, Text(R"({"prompt": "a", )", kOne, "}")).rooms,
              Rooms{"p:9000/7"});
  }
  EXPECT_EQ(ReadNative(ServerRole::kDecode, R"({"text": "a", "bootstrap_host": "p",
                       "bootstrap_port": null, "bootstrap_room": 9223372036854775807})")
                .rooms,
            Rooms{"p:8998/9223372036854775807"})
      << "the default port";
}

TEST(BootstrapTest, SeveralPromptsHaveListsOrRoomsOneAfterAnother) {
  const std::string lists = R"("bootstrap_host": ["p", "q"], "bootstrap_port": [1, 2],
                               "bootstrap_room": [5, 6])";
  EXPECT_EQ(ReadNative(ServerRole::kDecode, Text(R"({"text": ["a", "b"], )", lists, "}")).rooms,
            (Rooms{"p:1/5", "q:2/6"}));
  EXPECT_EQ(
      ReadCompletion(ServerRole::kDecode, Text(R"({"prompt": ["a", "b"], )", lists, "}")).rooms,
      (Rooms{"p:1/5", "q:2/6"}));
  EXPECT_EQ(
      ReadCompletion(ServerRole::kDecode, Text(R"({"prompt": ["a", "b"], "n": 3, )", kOne, "}"))
          .rooms,
      (Rooms{"p:9000/7", "p:9000/10"}))
      << "each answer has its own";
}

TEST(BootstrapTest, TheRoomBehindTheLastIsTheFirst) {
  EXPECT_EQ(RoomBehind(7, 0), 7);
  EXPECT_EQ(RoomBehind(7, 2), 9);
  EXPECT_EQ(RoomBehind(INT64_MAX, 1), 0);
}

TEST(BootstrapTest, WhatIsWrongIsNamed) {
  struct Case {
    ServerRole role;
    const char* fields;
    const char* param;
    const char* message;
  };
  const Case kCases[] = {
      {ServerRole::kCombined, kOne, "bootstrap_room", "--disaggregation-mode"},
      {ServerRole::kPrefill, R"("stream": false)", "bootstrap_room", "router"},
      {ServerRole::kDecode, R"("bootstrap_room": 1)", "bootstrap_host", "missing"},
      {ServerRole::kPrefill, R"("bootstrap_room": -1)", "bootstrap_room", "-1"},
      {ServerRole::kPrefill, R"("bootstrap_room": 9223372036854775808)", "bootstrap_room",
       "from 0 to 9223372036854775807"},
      {ServerRole::kPrefill, R"("bootstrap_room": "x")", "bootstrap_room", "an integer"},
      {ServerRole::kPrefill, R"("bootstrap_room": [1, 2])", "bootstrap_room", "2 values"},
      {ServerRole::kDecode, R"("bootstrap_room": 1, "bootstrap_host": 5)", "bootstrap_host", "5"},
      {ServerRole::kDecode, R"("bootstrap_room": 1, "bootstrap_host": "p", "bootstrap_port": 0)",
       "bootstrap_port", "1 to 65535"}};
  for (const Case& bad : kCases) {
    for (const Read& read :
         {ReadNative(bad.role, Text(R"({"text": "a", )", bad.fields, "}")),
          ReadCompletion(bad.role, Text(R"({"prompt": "a", )", bad.fields, "}"))}) {
      EXPECT_EQ(read.param, bad.param) << bad.fields;
      EXPECT_NE(read.message.find(bad.message), std::string::npos) << read.message;
    }
  }
}

}  // namespace
}  // namespace causeway
