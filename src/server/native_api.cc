// Where SGLang reports a number for each data-parallel rank, there is one entry here: one scheduler
// serves all of them. Fields that would be guesses are left out.
#include "server/native_api.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <set>

#include "server/field_reader.h"
#include "server/native_reply.h"

namespace causeway {
namespace {

constexpr int64_t kProbeDeadlineMs = 20'000;
// Bodies that are read on the io thread have to be small.
constexpr size_t kMaxControlBytes = 64 << 10;

// One token that nobody reads: the answer says only that it came.
class ProbeReply : public Reply {
 public:
  ProbeReply(int32_t token, HttpResponder responder, Clock::time_point arrived)
      : Reply({.id = Text("health-", RandomName()), .endpoint = "/health_generate", .names = {}},
              std::move(responder), arrived),
        token_(token) {}

  Request EngineRequest(size_t index) override {
    Request out;
    out.id = EngineId(index);
    out.prompt = {token_};
    out.sampling.temperature = 0;
    out.sampling.max_new_tokens = 1;
    return out;
  }

 private:
  void TakeToken(size_t index, const TokenOutput&) override { Finish(index, "length"); }
  void TakeEnd(size_t index, const RequestResult&) override { Finish(index, "length"); }
  void Complete() override { responder().Send({.body = Dump({{"status", "ok"}})}); }
  HttpResponse ErrorAnswer(const ApiError& error) const override {
    return NativeErrorResponse(error);
  }
  void SendErrorEvents(const ApiError&) override {}

  const int32_t token_;
};

// The value of a query's parameter; empty if it is not there. Lists may be separated by %2C.
std::string QueryValue(const std::string& query, const std::string& name) {
  size_t at = 0;
  while (at <= query.size()) {
    const size_t end = std::min(query.find('&', at), query.size());
    const std::string part = query.substr(at, end - at);
    if (part.starts_with(Text(name, "="))) {
      const std::optional<HttpTarget> target = ParseTarget(Text("/", part.substr(name.size() + 1)));
      return target ? target->path.substr(1) : "";
    }
    at = end + 1;
  }
  return "";
}

std::vector<std::string> SplitList(const std::string& text) {
  std::vector<std::string> out;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find(',', at), text.size());
    if (end > at) out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

// "2026-03-01T12:00:00+00:00"
std::string Timestamp() {
  const std::time_t now = std::time(nullptr);
  std::tm tm{};
  gmtime_r(&now, &tm);
  char text[64];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S+00:00", &tm);
  return text;
}

double Gigabytes(double value) { return std::round(value * 1000) / 1000; }

}  // namespace

NativeApi::NativeApi(const ServedModel& model, NativeOptions options)
    : model_(model),
      options_(std::move(options)),
      key_(options_.api_key),
      generate_(GenerateIntake()),
      probe_(ProbeIntake()) {}

RequestDesk::Intake NativeApi::GenerateIntake() const {
  RequestDesk::Intake intake;
  intake.endpoint = kGeneratePath;
  intake.render_error = &NativeErrorResponse;
  intake.parse = [this](std::string_view body, RequestDesk::MakeReply& make) {
    auto request = std::make_shared<NativeRequest>();  // shared: functions are copyable
    std::optional<ApiError> error = ParseNativeRequest(body, model_, *request);
    if (error) return error;
    make = [this, request](HttpResponder responder, Reply::Clock::time_point arrived) {
      return std::make_unique<NativeReply>(std::move(*request), model_, std::move(responder),
                                           arrived);
    };
    return error;
  };
  return intake;
}

RequestDesk::Intake NativeApi::ProbeIntake() const {
  RequestDesk::Intake intake;
  intake.endpoint = "/health_generate";
  intake.render_error = &NativeErrorResponse;
  intake.deadline_ms = kProbeDeadlineMs;
  intake.probe = true;
  intake.parse = [this](std::string_view, RequestDesk::MakeReply& make) {
    make = [this](HttpResponder responder, Reply::Clock::time_point arrived) {
      return std::make_unique<ProbeReply>(std::max(model_.bos_token, 0), std::move(responder),
                                          arrived);
    };
    return std::optional<ApiError>();
  };
  return intake;
}

std::vector<HttpRoute> NativeApi::Routes(RequestDesk& desk) const {
  std::vector<HttpRoute> routes;
  const auto add = [&](std::initializer_list<const char*> methods,
                       std::initializer_list<const char*> paths, const HttpHandler& handler) {
    for (const char* method : methods) {
      for (const char* path : paths) routes.push_back({method, path, key_.Guard(handler)});
    }
  };
  for (const char* method : {"POST", "PUT"}) {
    routes.push_back({method, kGeneratePath,
                      key_.GuardWork([this, &desk](HttpRequest request, HttpResponder responder) {
                        desk.Take(generate_, std::move(request), std::move(responder));
                      })});
  }
  add({"POST"}, {"/abort_request"}, [&desk](const HttpRequest& request, HttpResponder responder) {
    Abort(desk, request, std::move(responder));
  });
  add({"GET", "POST"}, {"/flush_cache"}, [&desk](const HttpRequest&, HttpResponder responder) {
    desk.engine().FlushCache();
    responder.Send({.content_type = "text/plain; charset=utf-8",
                    .body = "The prefix cache is flushed before the next step, but for what "
                            "running requests use.\n"});
  });
  add({"GET"}, {"/model_info", "/get_model_info"},
      [this](const HttpRequest&, HttpResponder responder) {
        responder.Send({.body = Dump(ModelInfo())});
      });
  add({"GET"}, {"/server_info", "/get_server_info"},
      [this, &desk](const HttpRequest&, HttpResponder responder) {
        responder.Send({.body = Dump(ServerInfo(desk))});
      });
  add({"GET"}, {"/get_load"}, [&desk](const HttpRequest&, HttpResponder responder) {
    const EngineLoad load = desk.engine().load();
    responder.Send({.body = Dump(Json::array_t{{{"dp_rank", 0},
                                                {"num_reqs", load.running + load.waiting},
                                                {"num_waiting_reqs", load.waiting},
                                                {"num_tokens", load.used_tokens}}})});
  });
  add({"GET"}, {"/v1/loads"}, [this, &desk](const HttpRequest& request, HttpResponder responder) {
    Loads(desk, request, std::move(responder));
  });
  // As in SGLang these are open to everybody: load balancers and Prometheus have no key.
  routes.push_back(
      {"GET", "/health_generate", [this, &desk](HttpRequest request, HttpResponder responder) {
         desk.Take(probe_, std::move(request), std::move(responder));
       }});
  if (options_.enable_metrics) {
    routes.push_back({"GET", "/metrics", [&desk](const HttpRequest&, HttpResponder responder) {
                        responder.Send({.content_type = MetricRegistry::kContentType,
                                        .body = desk.metrics().Render(desk.engine().load(),
                                                                      ServeMetrics::Clock::now())});
                      }});
  }
  return routes;
}

void NativeApi::Abort(RequestDesk& desk, const HttpRequest& request, HttpResponder responder) {
  if (request.body.size() > kMaxControlBytes) {
    responder.Send(
        NativeErrorResponse({.http_status = 413,
                             .message = Text("the body has ", request.body.size(),
                                             " bytes; expected at most ", kMaxControlBytes)}));
    return;
  }
  const StatusOr<Json> json = ParseOrderedJson(request.body, "the request's body");
  if (!json.ok()) {
    responder.Send(NativeErrorResponse(ToApiError(json.status())));
    return;
  }
  FirstError error;
  FieldReader fields(*json, "", error);
  std::string rid;
  bool all = false;
  fields.String("rid", rid);
  fields.Bool("abort_all", all);
  fields.Ignore({"finished_reason", "abort_message"});
  fields.Finish();
  if (rid.empty() && !all) fields.Fail("rid", "rid is missing; send it, or \"abort_all\": true");
  if (!error.ok()) {
    responder.Send(NativeErrorResponse(*error.get()));
    return;
  }
  const int64_t aborted = all ? desk.AbortAll() : desk.Abort(rid);
  // 200 also if there was none: it may have ended meanwhile.
  responder.Send({.body = Dump({{"aborted", aborted}})});
}

Json NativeApi::ModelInfo() const {
  return {{"model_path", options_.model_path},         {"served_model_name", model_.name},
          {"tokenizer_path", options_.tokenizer_path}, {"is_generation", true},
          {"preferred_sampling_params", nullptr},      {"weight_version", "default"},
          {"has_image_understanding", false},          {"has_audio_understanding", false},
          {"model_type", options_.model_type},         {"vocab_size", options_.vocab_size}};
}

Json NativeApi::ServerInfo(RequestDesk& desk) const {
  const EngineLoad load = desk.engine().load();
  Json out = options_.server_args;
  out["model_path"] = options_.model_path;
  out["served_model_name"] = model_.name;
  out["tokenizer_path"] = options_.tokenizer_path;
  out["context_length"] = model_.context_length;
  out["max_total_num_tokens"] = load.max_total_tokens;
  out["max_req_input_len"] = model_.context_length - 1;
  out["enable_metrics"] = options_.enable_metrics;
  out["version"] = options_.version;
  out["internal_states"] = Json::array_t{
      {{"last_gen_throughput", desk.metrics().TokensPerSecond(ServeMetrics::Clock::now())},
       {"effective_max_running_requests_per_dp", load.max_running_requests},
       {"num_running_reqs", load.running},
       {"num_waiting_reqs", load.waiting},
       {"memory_usage",
        {{"weight", Gigabytes(options_.weight_gb)},
         {"kvcache", Gigabytes(options_.kv_cache_gb)},
         {"token_capacity", load.max_total_tokens}}}}};
  return out;
}

Json NativeApi::Load(RequestDesk& desk) const {
  const EngineLoad load = desk.engine().load();
  const double usage = load.max_total_tokens > 0 ? static_cast<double>(load.used_tokens) /
                                                       static_cast<double>(load.max_total_tokens)
                                                 : 0.0;
  return {{"dp_rank", 0},
          {"num_running_reqs", load.running},
          {"num_waiting_reqs", load.waiting},
          {"num_used_tokens", load.used_tokens},
          {"max_total_num_tokens", load.max_total_tokens},
          {"max_running_requests", load.max_running_requests},
          {"token_usage", usage},
          {"gen_throughput", desk.metrics().TokensPerSecond(ServeMetrics::Clock::now())}};
}

void NativeApi::Loads(RequestDesk& desk, const HttpRequest& request,
                      HttpResponder responder) const {
  const auto refuse = [&](const std::string& message, const char* param) {
    responder.Send(NativeErrorResponse({.message = message, .param = param}));
  };
  const std::string format = QueryValue(request.query, "format");
  if (!format.empty() && format != "json") {
    return refuse(Text("format is ", Dump(Json(format)),
                       "; expected json. For Prometheus there is ", "/metrics (--enable-metrics)"),
                  "format");
  }
  const std::string dp_rank = QueryValue(request.query, "dp_rank");
  if (!dp_rank.empty() && dp_rank != "0") {
    return refuse(Text("dp_rank is ", Dump(Json(dp_rank)),
                       "; one scheduler serves all data-parallel ranks: leave it out or send 0"),
                  "dp_rank");
  }
  // No section named: all of them.
  std::set<std::string> sections;
  const std::set<std::string> known = {"core", "memory", "spec", "lora", "disagg", "queues", "all"};
  for (const std::string& name : SplitList(QueryValue(request.query, "include"))) {
    if (!known.contains(name)) {
      return refuse(Text("include names ", Dump(Json(name)),
                         "; expected core, memory, spec, lora, disagg, queues or all"),
                    "include");
    }
    sections.insert(name);
  }
  const auto wanted = [&](const char* name) {
    return sections.empty() || sections.contains("all") || sections.contains(name);
  };
  Json load = Load(desk);
  if (wanted("memory")) {
    load["memory"] = {{"weight_gb", Gigabytes(options_.weight_gb)},
                      {"kv_cache_gb", Gigabytes(options_.kv_cache_gb)},
                      {"token_capacity", load["max_total_num_tokens"]}};
  }
  if (wanted("disagg")) load["disaggregation"] = {{"mode", "null"}};
  if (wanted("queues")) load["queues"] = {{"waiting", load["num_waiting_reqs"]}};
  responder.Send({.body = Dump({{"timestamp", Timestamp()},
                                {"version", options_.version},
                                {"accelerator", nullptr},
                                {"loads", Json::array_t{std::move(load)}}})});
}

}  // namespace causeway
