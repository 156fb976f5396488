// The commands of the binary, run as a user runs them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "app/program.h"
#include "base/check.h"
#include "checkpoint/model_config.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/temporary_directory.h"
#include "net/http_client.h"

namespace causeway {
namespace {

constexpr int64_t kDeadlineMs = 120'000;
const char kFixtures[] = CAUSEWAY_SOURCE_DIR "/testdata/golden/";

struct Output {
  int code = 0;
  std::string out;
  std::string err;

  nlohmann::json Json() const {
    const auto json = nlohmann::json::parse(out, nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(json.is_object()) << out << err;
    return json;
  }
};

class Commands : public testing::Test {
 protected:
  Output Run(const std::vector<std::string>& arguments) const {
    Program program(CAUSEWAY_BINARY, files_.path(), arguments);
    Output result;
    result.code = program.Wait(Deadline::AfterMs(kDeadlineMs));
    result.out = program.Stdout();
    result.err = program.Stderr();
    return result;
  }
  // Runs and expects success.
  Output Good(const std::vector<std::string>& arguments) const {
    Output result = Run(arguments);
    EXPECT_EQ(result.code, 0) << arguments[0] << ": " << result.out << result.err;
    return result;
  }
  // Runs and expects a failure whose message holds `text`.
  void Bad(const std::vector<std::string>& arguments, const std::string& text) const {
    const Output result = Run(arguments);
    EXPECT_GT(result.code, 0) << arguments[0];
    EXPECT_LT(result.code, 128) << arguments[0] << " died of a signal";
    EXPECT_NE(result.err.find(text), std::string::npos)
        << "expected \"" << text << "\" in: " << result.err;
  }
  std::string MakeTinyModel(const std::string& format = "bf16") const {
    const std::string path = files_.File("model-" + format);
    Good({"make-model", "--preset", "tiny-v32", "--output", path, "--format", format});
    return path;
  }
  std::string TokensFile(int count) const {
    nlohmann::json tokens;
    for (int i = 0; i < count; ++i) tokens.push_back((i * 7919 + 13) % 2048);
    return files_.Put("tokens.json", nlohmann::json{{"tokens", tokens}}.dump());
  }

  TemporaryDirectory files_;
};

TEST_F(Commands, MadeModelsOfEveryFormatGiveTheSameBitsWithAnyLayout) {
  const std::string tokens = TokensFile(150);  // more than index_topk of the preset, over two pages
  for (const std::string format : {"bf16", "f32", "fp8", "int8"}) {
    const std::string model = MakeTinyModel(format);
    std::set<std::string> hashes;
    for (const std::vector<std::string>& layout :
         {std::vector<std::string>{"--cp-size", "1"},
          {"--context-parallel-size", "3", "--chunked-prefill-size", "40"},
          {"--cp-size", "2", "--threads-per-rank", "2", "--cp-partition", "zigzag"}}) {
      std::vector<std::string> arguments = {"logits",   "--model-path", model,
                                            "--tokens", tokens,         "--json"};
      arguments.insert(arguments.end(), layout.begin(), layout.end());
      hashes.insert(Good(arguments).Json().at("logits_hash").get<std::string>());
    }
    EXPECT_EQ(hashes.size(), 1u) << format;
  }
}

TEST_F(Commands, LogitsWritesAndComparesWhatTheFixtureHolds) {
  const std::string fixture = kFixtures + std::string("v32-tiny-bf16");
  const auto golden = Checkpoint::OpenFile(fixture + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status().message();
  const auto stored = (*golden)->Find("tokens");
  ASSERT_TRUE(stored.ok());
  std::vector<int32_t> ids(static_cast<size_t>(stored->elements()));
  std::memcpy(ids.data(), stored->data, ids.size() * 4);
  const std::string tokens = files_.Put("tokens.json", nlohmann::json{{"tokens", ids}}.dump());
  const std::string output = files_.File("out.safetensors");
  const auto report =
      Good({"logits", "--model-path", fixture, "--tokens", tokens, "--dtype", "float32", "--hidden",
            "--output", output, "--compare", fixture + "/golden.safetensors", "--json"})
          .Json();
  EXPECT_LT(report.at("compare").at("max_abs_error").get<double>(), 1e-3);
  EXPECT_EQ(report.at("compare").at("top1_agreement").get<double>(), 1.0);

  const auto written = Checkpoint::OpenFile(output);
  ASSERT_TRUE(written.ok()) << written.status().message();
  for (const std::string name : {"logits", "hidden.0", "hidden.3", "topk_indices.1"}) {
    EXPECT_TRUE((*written)->Has(name)) << name;
    const auto found = (*written)->Find(name);
    const auto expected = (*golden)->Find(name);
    ASSERT_TRUE(found.ok() && expected.ok()) << name;
    EXPECT_EQ(found->shape, expected->shape) << name;
  }
  const auto found = (*written)->Find("topk_indices.1");
  const auto expected = (*golden)->Find("topk_indices.1");
  EXPECT_EQ(std::memcmp(found->data, expected->data, static_cast<size_t>(found->bytes)), 0);
}

TEST_F(Commands, GenerateGivesTheSameTokensOnOneRankAndOnThree) {
  const std::string model = MakeTinyModel();
  const std::string text = files_.Put("prompt.txt", std::string(300, 'a') + " caf\xc3\xa9 \n");
  std::vector<std::vector<int>> answers;
  for (const std::string cp : {"1", "3"}) {
    const auto report = Good({"generate", "--model-path", model, "--prompt-file", text,
                              "--max-new-tokens", "12", "--ignore-eos", "--cp-size", cp, "--json"})
                            .Json();
    answers.push_back(report.at("tokens").get<std::vector<int>>());
    EXPECT_EQ(report.at("completion_tokens"), 12);
    EXPECT_GT(report.at("ttft_seconds").get<double>(), 0.0);
    EXPECT_FALSE(report.at("operations").empty());
  }
  EXPECT_EQ(answers[0].size(), 12u);
  EXPECT_EQ(answers[0], answers[1]);
}

TEST_F(Commands, InspectCountsEveryStoredByteOnce) {
  const std::string model = MakeTinyModel("fp8");
  const auto report = Good({"inspect", "--model-path", model, "--cp-size", "2", "--json"}).Json();
  const auto checkpoint = Checkpoint::Open(model);
  ASSERT_TRUE(checkpoint.ok());
  int64_t bytes = 0;
  for (const auto& [name, part] : report.at("parts").items()) {
    bytes += part.at("stored_bytes").get<int64_t>();
  }
  EXPECT_EQ(bytes, (*checkpoint)->bytes());
  EXPECT_EQ(report.at("ranks").size(), 2u);
  EXPECT_GT(report.at("scratch_bound_per_rank").at("total"), 0);
  // Index keys of 32 values in 3 layers: 2 bytes a value, or 1 and a scale of 4.
  const auto int8 =
      Good({"inspect", "--model-path", model, "--index-cache-dtype", "int8", "--json"});
  EXPECT_EQ(
      report.at("kv_bytes_per_token").get<int>() - int8.Json().at("kv_bytes_per_token").get<int>(),
      3 * (64 - 36));
  // Latents of 80 values in 3 layers: 2 bytes a value, or 1 and two scales of 4.
  const auto kv = Good({"inspect", "--model-path", model, "--kv-cache-dtype", "int8", "--json"});
  EXPECT_EQ(
      report.at("kv_bytes_per_token").get<int>() - kv.Json().at("kv_bytes_per_token").get<int>(),
      3 * (160 - 88));
  for (const char* same : {"auto", "bf16", "bfloat16"}) {
    EXPECT_EQ(Good({"inspect", "--model-path", model, "--kv-cache-dtype", same, "--json"})
                  .Json()
                  .at("kv_bytes_per_token"),
              report.at("kv_bytes_per_token"));
  }
  for (const char* found : {"int8", "bf16"}) {
    Bad({"inspect", "--model-path", model, "--dtype", "float32", "--kv-cache-dtype", found},
        Text("--kv-cache-dtype ", found, " needs --dtype bfloat16, found float32"));
  }
  Bad({"inspect", "--model-path", model, "--kv-cache-dtype", "fp8_e4m3"},
      "--kv-cache-dtype: fp8_e4m3 not in {auto,bfloat16,bf16,int8}");
  Bad({"inspect", "--model-path", model, "--dtype", "float32", "--index-cache-dtype", "bfloat16"},
      "--index-cache-dtype bfloat16 needs --dtype bfloat16");
  EXPECT_NE(Good({"inspect", "--model-path", model, "--tensors"}).out.find("F8_E4M3"),
            std::string::npos);
}

TEST_F(Commands, InspectShowsWhereEachRankStandsAndWhatItUses) {
  const std::string model = MakeTinyModel();
  const std::vector<std::string> arguments = {
      "inspect", "--model-path", model, "--tp", "16", "--cp-size", "8", "--ep-size", "4"};
  auto as_json = arguments;
  as_json.push_back("--json");
  const auto report = Good(as_json).Json();
  ASSERT_EQ(report.at("ranks").size(), 16u);
  ASSERT_EQ(report.at("hosts").size(), 1u);
  const auto& last = report.at("ranks")[15];
  EXPECT_EQ(last.at("cp"), 7);
  EXPECT_EQ(last.at("tp"), 1);
  EXPECT_EQ(last.at("ep"), 3);
  int64_t head = 0;
  for (const auto& rank : report.at("ranks")) {
    head += rank.at("used_bytes").at("lm_head").get<int64_t>();
  }
  EXPECT_EQ(head, report.at("hosts")[0].at("packed_bytes").at("lm_head").get<int64_t>());
  const std::string text = Good(arguments).out;
  EXPECT_NE(text.find("cp8 dp1 tp2 ep4"), std::string::npos) << text;
  Bad({"inspect", "--model-path", model, "--tp", "32"}, "attention TP is 32");
}

TEST_F(Commands, EvalLayoutsRunsASampleAndFindsEveryBitEqual) {
  const std::string model = MakeTinyModel();
  const std::vector<std::string> arguments = {
      "eval", "layouts", "--model-path", model, "--world", "4", "--sample", "4", "--seed", "7"};
  const std::string text = Good(arguments).out;
  EXPECT_NE(text.find("4 gave the bits of one rank"), std::string::npos) << text;
  auto as_json = arguments;
  as_json.push_back("--json");
  const auto report = Good(as_json).Json();
  EXPECT_EQ(report.at("ran"), 4);
  EXPECT_EQ(report.at("equal"), 4);
  EXPECT_GT(report.at("legal").get<int>(), 4);
  EXPECT_FALSE(report.contains("first_difference"));
  Bad({"eval", "layouts", "--model-path", model, "--world", "0"}, "--world");
  Bad({"eval", "layouts", "--model-path", "/nowhere"}, "/nowhere");
}

TEST_F(Commands, BenchPrefillNamesWhatItMeasured) {
  const std::string model = MakeTinyModel();
  const std::string trace = files_.File("trace.json");
  const auto report =
      Good({"bench", "prefill", "--model-path", model, "--input-len", "200", "--repeat", "2",
            "--cp-size", "2", "--vs", "cp-size=1", "--json", "--trace", trace})
          .Json();
  for (const char* key : {"model", "layout", "tokens", "seconds", "tokens_per_s", "flops",
                          "share_of_peak", "operations", "vs", "vs_ratio"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  EXPECT_EQ(report.at("tokens"), 200);
  EXPECT_GT(report.at("scratch_bytes_per_rank"), 0);
  EXPECT_LE(report.at("scratch_bytes_per_rank"), report.at("scratch_bound_per_rank"));
  for (const auto& operation : report.at("operations")) {
    EXPECT_TRUE(operation.contains("seconds") && operation.contains("share")) << operation;
  }
  std::ifstream file(trace);
  const auto events = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(events.is_object()) << "the trace is not JSON";
  EXPECT_FALSE(events.at("traceEvents").empty());
}

TEST_F(Commands, BenchDecodeMeasuresEveryLengthWithBothLayouts) {
  const std::string model = MakeTinyModel();
  const auto report =
      Good({"bench", "decode", "--model-path", model, "--input-len", "40,100", "--output-len", "3",
            "--batch-size", "2", "--tp", "2", "--vs", "tp=1", "--json"})
          .Json();
  for (const char* layout : {"results", "vs"}) {
    const auto& results = report.at(layout);
    ASSERT_EQ(results.size(), 2u) << layout;
    for (const auto& result : results) {
      EXPECT_GT(result.at("seconds_per_token"), 0);
      EXPECT_GT(result.at("memory_bytes_per_s"), 0);
      EXPECT_EQ(result.at("batch_size"), 2);
      EXPECT_FALSE(result.at("operations").empty());
    }
    EXPECT_EQ(results[0].at("input_len"), 40);
    EXPECT_GT(results[1].at("bytes").at("keys"), results[0].at("bytes").at("keys"));
  }
  const auto bad = [&](const std::string& lengths, const std::string& said) {
    Bad({"bench", "decode", "--model-path", model, "--input-len", lengths}, said);
  };
  bad("0", "--input-len");
  bad("64,abc", "--input-len");
  bad("1000000000", "--input-len 1000000000");
  Bad({"bench", "decode", "--model-path", model, "--vs", "cp=2"}, "cp=2");
}

TEST_F(Commands, BenchPrefillCountsWhatRanksReadOfEachOther) {
  const std::string model = MakeTinyModel();
  const std::vector<std::string> arguments = {"bench",     "prefill",     "--model-path",
                                              model,       "--input-len", "200",
                                              "--repeat",  "1",           "--tp",
                                              "4",         "--cp-size",   "2",
                                              "--ep-size", "2",           "--chunked-prefill-size",
                                              "90",        "--vs",        "cp-size=1,ep-size=1"};
  std::vector<std::string> json = arguments;
  json.push_back("--json");
  const auto report = Good(json).Json();
  std::set<std::string> operations;
  for (const auto& volume : report.at("volumes")) {
    const auto name = volume.at("operation").get<std::string>();
    operations.insert(name);
    const auto bytes = volume.at("bytes").get<double>();
    const auto predicted = volume.at("predicted_bytes").get<double>();
    EXPECT_GT(bytes, 0) << name;
    // Which experts are chosen is up to the gate; all else follows from the shapes.
    const bool gate = name == "expert_dispatch" || name == "expert_combine";
    EXPECT_NEAR(bytes, predicted, gate ? 0.4 * predicted : 0) << name;
    EXPECT_LE(volume.at("most_bytes_of_a_rank").get<double>(), bytes) << name;
  }
  for (const char* name : {"latent_keys", "index_keys", "o_proj", "dense_mlp", "expert_dispatch",
                           "expert_combine", "moe_rows", "hidden_exchange"}) {
    EXPECT_TRUE(operations.contains(name)) << name;
  }
  EXPECT_TRUE(report.at("vs").at("volumes").empty()) << "one rank reads of nobody";
  EXPECT_NE(Good(arguments).out.find("read of other ranks"), std::string::npos);
}

TEST_F(Commands, ExpertCountsOfABenchmarkSayWhichExpertsGetCopiesAndNoBitChanges) {
  const std::string model = MakeTinyModel();
  const std::string counts = files_.File("counts.json");
  const std::vector<std::string> bench = {"bench",       "prefill", "--model-path", model,
                                          "--input-len", "300",     "--repeat",     "1",
                                          "--cp-size",   "4",       "--ep-size",    "4"};
  const auto with = [](std::vector<std::string> arguments, const std::vector<std::string>& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const auto balance =
      Good(with(bench, {"--expert-balance", "--expert-load-output", counts, "--json"}))
          .Json()
          .at("expert_balance");
  // Every token of every MoE layer chose as many experts as the model says.
  const auto config = ModelConfig::Load(model);
  ASSERT_TRUE(config.ok()) << config.status().message();
  for (int64_t layer = 0; layer < config->num_hidden_layers; ++layer) {
    const auto of_layer =
        balance.at("counts").at(static_cast<size_t>(layer)).get<std::vector<int64_t>>();
    const int64_t sum = std::accumulate(of_layer.begin(), of_layer.end(), int64_t{0});
    EXPECT_EQ(sum, config->IsMoe(layer) ? 300 * config->num_experts_per_tok : 0) << layer;
  }
  const double before = balance.at("parts_most_over_mean").get<double>();
  EXPECT_GE(before, 1.0);
  EXPECT_GE(balance.at("experts_most_over_mean").get<double>(), 1.0);

  const std::vector<std::string> copies = {"--ep-num-redundant-experts", "8",
                                           "--init-expert-location", counts};
  const auto copied =
      Good(with(with(bench, copies), {"--expert-balance", "--json"})).Json().at("expert_balance");
  EXPECT_EQ(copied.at("counts"), balance.at("counts")) << "copies must not change a choice";
  EXPECT_NE(copied.at("parts"), balance.at("parts"));
  EXPECT_NE(Good(with(bench, {"--expert-balance"})).out.find("expert balance"), std::string::npos);

  const std::vector<std::string> logits = {"logits",   "--model-path",  model,
                                           "--tokens", TokensFile(150), "--json"};
  EXPECT_EQ(Good(with(with(logits, {"--cp-size", "4", "--ep-size", "4"}), copies))
                .Json()
                .at("logits_hash"),
            Good(logits).Json().at("logits_hash"));

  Bad(with(bench, {"--ep-num-redundant-experts", "1000"}), "--ep-num-redundant-experts is 1000");
  Bad(with(logits, copies), "--ep-size above 1");
  Bad(with(bench, {"--init-expert-location", files_.Put("a.json", R"({"counts":[[1,-2]]})")}),
      "counts[0][1] is -2");
  Bad(with(bench, {"--init-expert-location", files_.Put("a.json", R"({"counts":[[1]]})")}),
      "--init-expert-location has 1 layers");
}

TEST_F(Commands, MistakesGetAnErrorThatNamesThem) {
  const std::string model = MakeTinyModel();
  const std::string tokens = TokensFile(10);
  Bad({"logits", "--model-path", "/nowhere", "--tokens", tokens}, "/nowhere");
  Bad({"logits", "--model-path", model, "--tokens", files_.Put("bad.json", "{}")}, "bad.json");
  Bad({"logits", "--model-path", model, "--tokens", files_.Put("big.json", R"({"tokens":[4000]})")},
      "tokens[0] is 4000");
  Bad({"logits", "--model-path", model, "--tokens", tokens, "--dtype", "int4"}, "--dtype");
  Bad({"logits", "--model-path", model, "--tokens", tokens, "--isa", "mmx"}, "--isa is 'mmx'");
  Bad({"logits", "--model-path", model, "--tokens", tokens, "--cp-size", "0"}, "--cp-size is 0");
  Bad({"logits", "--model-path", model, "--tokens", tokens, "--tp", "3", "--cp-size", "2"}, "--tp");
  Bad({"generate", "--model-path", model}, "--prompt");
  Bad({"make-model", "--preset", "tiny-v33", "--output", files_.File("x")}, "tiny-v33");
  Bad({"bench", "prefill", "--model-path", model, "--vs", "cp=2"}, "cp=2");
  Bad({"bench", "kernels", "--shapes", "v4"}, "--shapes is 'v4'");
  Bad({"logits", "--model-path", model, "--tokens", "/nowhere"}, "--tokens: can't read /nowhere");
  Bad({"dance"}, "dance");

  std::filesystem::resize_file(model + "/model.safetensors", 100'000);
  Bad({"logits", "--model-path", model, "--tokens", tokens}, "model.safetensors");
}

TEST_F(Commands, ServeAnswersAndEndsCleanlyOnSigterm) {
  const std::string model = MakeTinyModel();
  Program server(CAUSEWAY_BINARY, files_.path(),
                 {"serve", "--model-path", model, "--port", "0", "--cp-size", "2",
                  "--served-model-name", "tiny", "--enable-metrics"});
  // The start-up line names the URL.
  const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
  int port = 0;
  while (port == 0 && !deadline.Passed()) {
    const std::string log = server.Stderr() + server.Stdout();
    const size_t at = log.find("http://127.0.0.1:");
    if (at != std::string::npos) port = std::atoi(log.c_str() + at + 17);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ASSERT_GT(port, 0) << server.Stderr();
  auto client = HttpClient::Connect("127.0.0.1", port, deadline);
  ASSERT_TRUE(client.ok()) << client.status().message();
  const auto health = client->Call("GET", "/health", "", deadline);
  ASSERT_TRUE(health.ok()) << health.status().message();
  EXPECT_EQ(health->status, 200);
  const auto reply = client->Call("POST", "/v1/completions",
                                  R"({"model":"tiny","prompt":"two and two","max_tokens":5,)"
                                  R"("ignore_eos":true,"temperature":0})",
                                  deadline, {{"Content-Type", "application/json"}});
  ASSERT_TRUE(reply.ok()) << reply.status().message();
  EXPECT_EQ(reply->status, 200) << reply->body;
  const auto json = nlohmann::json::parse(reply->body, nullptr, false);
  ASSERT_TRUE(json.is_object()) << reply->body;
  EXPECT_EQ(json.at("usage").at("completion_tokens"), 5);
  EXPECT_EQ(json.at("choices").at(0).at("finish_reason"), "length");

  // The native API gives the same text, and the metrics have counted both.
  const auto native = client->Call("POST", "/generate",
                                   R"({"text":"two and two","sampling_params":)"
                                   R"({"max_new_tokens":5,"ignore_eos":true,"temperature":0}})",
                                   deadline);
  ASSERT_TRUE(native.ok()) << native.status().message();
  const auto answer = nlohmann::json::parse(native->body, nullptr, false);
  ASSERT_TRUE(answer.is_object()) << native->body;
  EXPECT_EQ(answer.at("text"), json.at("choices").at(0).at("text"));
  EXPECT_EQ(answer.at("output_ids").size(), 5u);
  const auto metrics = client->Call("GET", "/metrics", "", deadline);
  ASSERT_TRUE(metrics.ok()) << metrics.status().message();
  for (const char* line :
       {"sglang:generation_tokens_total{model_name=\"tiny\",is_streaming=\"false\"} 10.0\n",
        "sglang:num_requests_total{model_name=\"tiny\",is_streaming=\"false\"} 2.0\n"}) {
    EXPECT_NE(metrics->body.find(line), std::string::npos) << line << metrics->body;
  }
  const auto info = client->Call("GET", "/server_info", "", deadline);
  ASSERT_TRUE(info.ok()) << info.status().message();
  const auto state = nlohmann::json::parse(info->body, nullptr, false).at("internal_states").at(0);
  EXPECT_GT(state.at("memory_usage").at("token_capacity"), 0);
  EXPECT_EQ(state.at("num_running_reqs"), 0);
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(deadline), 0) << server.Stderr();
}

TEST_F(Commands, ServeSaysWhatItsFlagsCameToAndLogsAndProfilesRequests) {
  const std::string model = MakeTinyModel();
  Program server(CAUSEWAY_BINARY, files_.path(),
                 {"serve", "--model-path", model, "--port", "0", "--served-model-name", "tiny",
                  "--mem-fraction-static", "0.01", "--context-length", "4096", "--log-requests",
                  "--disable-overlap-schedule", "--max-prefill-tokens", "100"});
  const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
  int port = 0;
  while (port == 0 && !deadline.Passed()) {
    const std::string log = server.Stderr();
    const size_t at = log.find("http://127.0.0.1:");
    if (at != std::string::npos && log.find('\n', at) != std::string::npos) {
      port = std::atoi(log.c_str() + at + 17);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ASSERT_GT(port, 0) << server.Stderr();
  auto client = HttpClient::Connect("127.0.0.1", port, deadline);
  ASSERT_TRUE(client.ok()) << client.status().message();
  const auto call = [&](const char* path, const std::string& body) {
    const auto reply = client->Call("POST", path, body, deadline);
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return reply.ok() ? *reply : HttpReply();
  };
  const std::string profiles = files_.File("profiles");
  const HttpReply started = call("/start_profile", Text(R"({"output_dir": ")", profiles, "\"}"));
  EXPECT_EQ(started.status, 200) << started.body;
  EXPECT_EQ(call("/generate", R"({"text": "two and two", "rid": "mine", "sampling_params":)"
                              R"({"max_new_tokens": 5, "ignore_eos": true}})")
                .status,
            200);
  const HttpReply stopped = call("/stop_profile", "");
  EXPECT_EQ(stopped.status, 200) << stopped.body;
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(profiles)) {
    EXPECT_NE(stopped.body.find(entry.path().string()), std::string::npos) << stopped.body;
    EXPECT_GT(entry.file_size(), 1000u);
    ++files;
  }
  EXPECT_EQ(files, 1u);
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(deadline), 0) << server.Stderr();
  const std::string log = server.Stderr();
  for (const char* part :
       {" mem_fraction_static=0.01 memory_bytes=", " max_prefill_tokens=100 ",
        " overlap_schedule=off ", " log_requests=\"level 2\" ",
        "event=request_received id=mine-0 endpoint=/generate stream=no prompt_tokens=12 ",
        " prompt=\"<s>two and two\"\n", "event=request_finished id=mine-0 finish=length ",
        " completion_tokens=5 ", "event=profile_written path="}) {
    EXPECT_NE(log.find(part), std::string::npos) << part << "\n" << log;
  }
  // A fraction of any machine is more than the context, which is the default.
  const size_t at = log.find(" max_total_tokens=");
  ASSERT_NE(at, std::string::npos) << log;
  EXPECT_GT(std::atoll(log.c_str() + at + 18), 4096);
}

// The fixture's experts do not fit whole fp8 blocks where gate and up share panels.
TEST_F(Commands, ServeTakesFlagsFromAFileAndSaysWhichWeightsItHoldsAsBf16) {
  const std::string config = files_.File("serve.yaml");
  std::ofstream(config) << "model-path: " << CAUSEWAY_SOURCE_DIR
                        << "/testdata/golden/v32-tiny-fp8\n"
                        << "context_length: 512\nserved-model-name: from the file\nport: 1\n"
                        << "random-seed: 7\n";
  Program server(CAUSEWAY_BINARY, files_.path(),
                 {"serve", "--config", config, "--port", "0", "--stream-interval", "3"});
  const Deadline deadline = Deadline::AfterMs(kDeadlineMs);
  while (server.Stderr().find("event=fp8_held_as_bf16") == std::string::npos &&
         server.Wait(Deadline::AfterMs(20)) < 0 && !deadline.Passed()) {
  }
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(deadline), 0) << server.Stderr();
  const std::string log = server.Stderr();
  for (const char* part : {" model=\"from the file\" ", " context_length=512 ", " random_seed=7 ",
                           " stream_interval=3 ", " mem_fraction_static=auto ",
                           "event=fp8_held_as_bf16 matrices=", ".mlp.experts."}) {
    EXPECT_NE(log.find(part), std::string::npos) << part << "\n" << log;
  }
}

}  // namespace
}  // namespace causeway
