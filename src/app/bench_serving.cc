// Prompts are token ids, so that no tokenizer is needed: the server is asked how many there are.
#include "app/bench_serving.h"

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "app/flags.h"
#include "app/serving_answer.h"
#include "app/serving_load.h"
#include "net/http_client.h"
#include "net/http_crowd.h"

namespace causeway {
namespace {

constexpr int64_t kAskMs = 10'000;  // for what the server says about itself
constexpr int64_t kWarmupTokens = 32;

struct ServingFlags {
  ServingLoadFlags load;
  std::string base_url = "http://127.0.0.1:30000";
  std::string backend = "native";
  std::string api_key;
  std::string model;
  std::string request_rate = "inf";
  int64_t max_concurrency = 0;
  int64_t vocab_size = 0;
  int64_t warmup_requests = 1;
  int64_t timeout = 600;
  bool flush_cache = false;
  bool disable_stream = false;
  bool disable_ignore_eos = false;
  std::string output_file;
  bool json = false;
};

struct ServerAddress {
  std::string host;
  int port = 80;
  std::string header;  // what Host says
};

// "http://127.0.0.1:30000", "http://[::1]:80/"
StatusOr<ServerAddress> ParseUrl(const std::string& url) {
  const auto wrong = [&](const char* why) {
    return InvalidArgument(
        Text("--base-url is ", url, ": ", why, "; expected http://HOST or http://HOST:PORT"));
  };
  if (url.starts_with("https://")) return wrong("https is not spoken here");
  if (!url.starts_with("http://")) return wrong("it does not begin with http://");
  ServerAddress out;
  out.header = url.substr(7);
  if (out.header.ends_with('/')) out.header.pop_back();
  if (out.header.find_first_of("/?#@ \r\n") != std::string::npos) {
    return wrong("there is more in it than a host and a port");
  }
  const bool bracket = out.header.starts_with('[');
  const size_t host_end = bracket ? out.header.find(']') : out.header.find(':');
  out.host = bracket ? out.header.substr(1, host_end - 1) : out.header.substr(0, host_end);
  if (out.host.empty() || (bracket && host_end == std::string::npos))
    return wrong("it has no host");
  std::string port = host_end == std::string::npos ? "" : out.header.substr(host_end);
  if (bracket) port.erase(0, 1);
  if (port.empty()) return out;
  const auto parsed = std::from_chars(port.data() + 1, port.data() + port.size(), out.port);
  if (port[0] != ':' || parsed.ec != std::errc() || parsed.ptr != port.data() + port.size() ||
      out.port < 1 || out.port > 65535) {
    return wrong("its port is no number from 1 to 65535");
  }
  return out;
}

StatusOr<double> ParseRate(const std::string& text) {
  if (text == "inf") return 0.0;
  double rate = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), rate);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || !(rate > 0) ||
      std::isinf(rate)) {
    return InvalidArgument(
        Text("--request-rate is ", text, "; expected requests a second, more than 0, or inf"));
  }
  return rate;
}

ServingBackend BackendOf(const std::string& name) {
  return name == "native"        ? ServingBackend::kNative
         : name == "openai-chat" ? ServingBackend::kOpenAiChat
                                 : ServingBackend::kOpenAi;
}

// The server that is measured, as far as short questions go.
class Target {
 public:
  Target(const ServingFlags& flags, ServerAddress address)
      : flags_(flags), address_(std::move(address)) {
    if (!flags.api_key.empty()) {
      headers_.push_back({"Authorization", Text("Bearer ", flags.api_key)});
    }
  }

  StatusOr<HttpReply> Ask(const char* method, const char* path) const {
    const Deadline deadline = Deadline::AfterMs(kAskMs);
    StatusOr<HttpClient> client = HttpClient::Connect(address_.host, address_.port, deadline);
    const auto named = [&](const Status& status) {
      return Status(status.code(), Text("no server at ", flags_.base_url, " (--base-url), ", method,
                                        " ", path, ": ", status.message()));
    };
    if (!client.ok()) return named(client.status());
    StatusOr<HttpReply> reply = client->Call(method, path, "", deadline, headers_);
    if (!reply.ok()) return named(reply.status());
    if (reply->status == 401) {
      return InvalidArgument(Text("the server asks for a key, or for another one (--api-key): ",
                                  reply->body.substr(0, 200)));
    }
    return reply;
  }

  StatusOr<int64_t> VocabSize() const {
    if (flags_.vocab_size > 0) return flags_.vocab_size;
    for (const char* path : {"/model_info", "/get_model_info"}) {
      CAUSEWAY_ASSIGN_OR_RETURN(const HttpReply reply, Ask("GET", path));
      const auto info = nlohmann::json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
      if (reply.status == 200 && info.is_object() && info.contains("vocab_size") &&
          info["vocab_size"].is_number_integer()) {
        return info["vocab_size"].get<int64_t>();
      }
    }
    return InvalidArgument(Text("the server at ", flags_.base_url,
                                " does not say how many tokens its vocabulary has: expected "
                                "vocab_size in /model_info; give --vocab-size"));
  }

  StatusOr<std::string> Model() const {
    if (!flags_.model.empty() || flags_.backend == "native") return flags_.model;
    CAUSEWAY_ASSIGN_OR_RETURN(const HttpReply reply, Ask("GET", "/v1/models"));
    const auto models = nlohmann::json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
    if (reply.status == 200 && models.is_object() && models.contains("data") &&
        models["data"].is_array() && !models["data"].empty() && models["data"][0].is_object() &&
        models["data"][0].contains("id") && models["data"][0]["id"].is_string()) {
      return models["data"][0]["id"].get<std::string>();
    }
    return InvalidArgument(Text("the server at ", flags_.base_url,
                                " does not say which model it has: GET /v1/models answers ",
                                reply.status, "; give --model"));
  }

  std::string Request(const ServingPrompt& prompt, const ServingBodyOptions& options) const {
    std::vector<HttpHeader> headers = headers_;
    headers.push_back({"Content-Type", "application/json"});
    headers.push_back({"Connection", "close"});
    return FormatRequest("POST", ServingPath(options.backend), address_.header, headers,
                         ServingBody(prompt, options));
  }

  const ServerAddress& address() const { return address_; }

 private:
  const ServingFlags& flags_;
  const ServerAddress address_;
  std::vector<HttpHeader> headers_;
};

StatusOr<std::vector<ServingAnswer>> Drive(const Target& target, const ServingFlags& flags,
                                           const std::vector<ServingPrompt>& prompts,
                                           const ServingBodyOptions& options) {
  std::vector<CrowdCall> calls;
  for (const ServingPrompt& prompt : prompts) {
    calls.push_back({target.Request(prompt, options), prompt.start_seconds});
  }
  std::vector<ServingAnswer> answers(prompts.size(), ServingAnswer(options.stream));
  const auto begin = std::chrono::steady_clock::now();
  const auto now = [begin] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  CrowdEvents events;
  events.on_start = [&](size_t i) { answers[i].Start(now()); };
  events.on_head = [&](size_t i, int status) { answers[i].Head(status); };
  events.on_data = [&](size_t i, std::string_view piece) {
    answers[i].Data(now(), piece);
    return true;
  };
  events.on_end = [&](size_t i, const Status& status) { answers[i].End(now(), status); };
  CAUSEWAY_RETURN_IF_ERROR(RunCrowd({.host = target.address().host,
                                     .port = target.address().port,
                                     .concurrency = static_cast<size_t>(flags.max_concurrency),
                                     .timeout_ms = flags.timeout * 1000},
                                    calls, events));
  return answers;
}

// Other prompts than those that are measured, or these would be found in the server's cache.
Status WarmUp(const Target& target, const ServingFlags& flags, int64_t vocab_size,
              const ServingBodyOptions& options) {
  ServingLoadFlags load;
  load.num_prompts = flags.warmup_requests;
  load.random_input_len = load.random_output_len = kWarmupTokens;
  load.seed = ~flags.load.seed;
  CAUSEWAY_ASSIGN_OR_RETURN(const auto prompts, MakeServingLoad(load, vocab_size));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto answers, Drive(target, flags, prompts, options));
  for (const ServingAnswer& answer : answers) {
    if (answer.ok()) continue;
    return Unavailable(Text("a request before the measured ones (--warmup-requests) failed: ",
                            answer.error_kind(), ": ", answer.error()));
  }
  return Status();
}

nlohmann::json Describe(const ServingFlags& flags, const std::string& model) {
  const ServingLoadFlags& load = flags.load;
  nlohmann::json out = {
      {"backend", flags.backend},
      {"base_url", flags.base_url},
      {"model", model},
      {"dataset_name", load.dataset_name},
      {"request_rate", flags.request_rate},
      {"max_concurrency",
       flags.max_concurrency > 0 ? nlohmann::json(flags.max_concurrency) : nlohmann::json()},
      {"seed", load.seed},
      {"stream", !flags.disable_stream},
      {"ignore_eos", !flags.disable_ignore_eos}};
  if (load.dataset_name == "random") {
    out["random_input_len"] = load.random_input_len;
    out["random_output_len"] = load.random_output_len;
    out["random_range_ratio"] = load.random_range_ratio;
  } else {
    out["gsp_num_groups"] = load.gsp_num_groups;
    out["gsp_prompts_per_group"] = load.gsp_prompts_per_group;
    out["gsp_system_prompt_len"] = load.gsp_system_prompt_len;
    out["gsp_question_len"] = load.gsp_question_len;
    out["gsp_output_len"] = load.gsp_output_len;
  }
  return out;
}

Status RunServing(ServingFlags flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const ServerAddress address, ParseUrl(flags.base_url));
  CAUSEWAY_ASSIGN_OR_RETURN(flags.load.request_rate, ParseRate(flags.request_rate));
  if (flags.api_key.find_first_of("\r\n") != std::string::npos) {
    return InvalidArgument("--api-key has a line break; expected a key");
  }
  const Target target(flags, address);
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string model, target.Model());
  const ServingBodyOptions options = {.backend = BackendOf(flags.backend),
                                      .model = model,
                                      .stream = !flags.disable_stream,
                                      .ignore_eos = !flags.disable_ignore_eos};
  // The words of chats are in any vocabulary: ids only choose among them.
  int64_t vocab_size = 1000;
  if (options.backend != ServingBackend::kOpenAiChat) {
    CAUSEWAY_ASSIGN_OR_RETURN(vocab_size, target.VocabSize());
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const auto prompts, MakeServingLoad(flags.load, vocab_size));
  CAUSEWAY_RETURN_IF_ERROR(WarmUp(target, flags, vocab_size, options));
  if (flags.flush_cache) {
    CAUSEWAY_ASSIGN_OR_RETURN(const HttpReply reply, target.Ask("POST", "/flush_cache"));
    if (reply.status != 200) {
      return Unavailable(Text("--flush-cache: the server answers ", reply.status, ": ",
                              reply.body.substr(0, 200)));
    }
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const auto answers, Drive(target, flags, prompts, options));
  const ServingReport report = ServingReport::Of(answers);
  nlohmann::json all = Describe(flags, model);
  all.update(report.ToJson());
  if (!flags.output_file.empty()) {
    std::ofstream file(flags.output_file);
    file << all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    if (!file.flush()) return Unavailable(Text("--output-file: can't write ", flags.output_file));
  }
  const std::string text =
      flags.json ? all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                 : report.Table();
  std::fputs(text.c_str(), stdout);
  if (report.completed > 0) return Status();
  const auto& [kind, found] = *report.errors.begin();
  return Unavailable(Text("no request succeeded: ", kind, ": ", found.example));
}

void RegisterLoad(CLI::App& app, ServingLoadFlags& load) {
  const CLI::Range length(int64_t{1}, int64_t{1} << 24);
  const CLI::Range count(int64_t{1}, int64_t{1'000'000});
  app.add_option(
         "--dataset-name", load.dataset_name,
         "random: prompts and answers of random lengths; generated-shared-prefix: groups of "
         "prompts that begin alike")
      ->check(CLI::IsMember({"random", "generated-shared-prefix"}))
      ->capture_default_str();
  const auto number = [&](const char* name, int64_t& value, const CLI::Range& range,
                          const char* help) {
    app.add_option(name, value, help)->check(range)->capture_default_str();
  };
  number("--num-prompts", load.num_prompts, count, "random: requests");
  number("--random-input-len", load.random_input_len, length, "random: longest prompt, in tokens");
  number("--random-output-len", load.random_output_len, length,
         "random: longest answer, in tokens");
  app.add_option("--random-range-ratio", load.random_range_ratio,
                 "random: shortest of both, as a part of the longest; 1: all are as long")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  number("--gsp-num-groups", load.gsp_num_groups, count, "shared prefixes: how many");
  number("--gsp-prompts-per-group", load.gsp_prompts_per_group, count,
         "shared prefixes: prompts with each");
  number("--gsp-system-prompt-len", load.gsp_system_prompt_len, length,
         "shared prefixes: their length, in tokens");
  number("--gsp-question-len", load.gsp_question_len, length,
         "shared prefixes: what each prompt has behind it, in tokens");
  number("--gsp-output-len", load.gsp_output_len, length,
         "shared prefixes: length of answers, in tokens");
  app.add_option("--seed", load.seed, "Of lengths, ids, order and arrivals")->capture_default_str();
}

}  // namespace

void AddBenchServing(CLI::App& bench, Run& run) {
  auto flags = std::make_shared<ServingFlags>();
  CLI::App* serving =
      bench.add_subcommand("serving", "Latencies and throughput of a running server under load");
  serving->add_option("--base-url", flags->base_url, "The server")->capture_default_str();
  serving
      ->add_option("--backend", flags->backend,
                   "The API: native (SGLang's /generate), openai (completions) or openai-chat")
      ->check(CLI::IsMember({"native", "openai", "openai-chat"}))
      ->capture_default_str();
  serving->add_option("--api-key", flags->api_key, "Sent with each request; default: none");
  serving->add_option("--model", flags->model,
                      "Its name in OpenAI's API; default: the first that the server lists");
  serving
      ->add_option("--vocab-size", flags->vocab_size,
                   "Prompts have ids below this; 0: what the server's /model_info says")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))
      ->capture_default_str();
  RegisterLoad(*serving, flags->load);
  serving
      ->add_option("--request-rate", flags->request_rate,
                   "Requests a second, at random times (a Poisson process); inf: all at once")
      ->capture_default_str();
  serving
      ->add_option("--max-concurrency", flags->max_concurrency,
                   "Requests under way at once; others wait, and their clocks too. 0: no limit")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  serving
      ->add_option("--warmup-requests", flags->warmup_requests,
                   "Short requests before those that are measured; an error of one ends it all")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  serving->add_option("--timeout", flags->timeout, "Seconds that a request may take")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  serving->add_flag("--flush-cache", flags->flush_cache,
                    "Empty the server's prefix cache before; default: off");
  serving->add_flag("--disable-stream", flags->disable_stream,
                    "Ask for whole answers, whose tokens have no times; default: off");
  serving->add_flag("--disable-ignore-eos", flags->disable_ignore_eos,
                    "Let answers end before their length; default: off");
  serving->add_option("--output-file", flags->output_file,
                      "Write the results as JSON to this file; default: none");
  RegisterJson(*serving, flags->json);
  serving->callback([flags, &run] { run = [flags] { return RunServing(*flags); }; });
}

}  // namespace causeway
