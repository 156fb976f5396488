#include "router/fan_out.h"

#include <nlohmann/json.hpp>
#include <set>

#include "router/engine_metrics.h"

namespace causeway {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Json = nlohmann::ordered_json;

constexpr int64_t kTimeoutMs = 10'000;
constexpr int64_t kGenerateTimeoutMs = 30'000;
constexpr size_t kMaxBodyBytes = 64 << 20;

struct WorkerAnswer {
  std::string url;
  WorkerType type = WorkerType::kRegular;
  Status error = {};  // of the call
  int status = 0;
  std::string body = {};

  bool good() const { return error.ok() && status / 100 == 2; }
  std::string Why() const { return error.ok() ? Text("status ", status) : error.message(); }
};

// The questions under way. Shared by the coroutines that ask and the one that waits.
struct Round {
  explicit Round(asio::io_context& io) : ended(io, asio::steady_timer::time_point::max()) {}
  std::vector<WorkerAnswer> answers;
  size_t left = 0;
  asio::steady_timer ended;  // cancelled when none is left
  std::string body;
};

asio::awaitable<void> AskOne(std::shared_ptr<Round> round, size_t place, Worker* worker,
                             std::string head, int64_t timeout_ms) {
  WorkerAnswer& out = round->answers[place];
  {
    const WorkerUse use(*worker);
    UpstreamCall call(worker->upstream, timeout_ms);
    call.EndWithin(timeout_ms);
    out.error = co_await call.Send(head, round->body);
    if (out.error.ok()) {
      StatusOr<UpstreamHead> answer = co_await call.ReadHead();
      out.error = answer.status();
      if (answer.ok()) out.status = answer->status;
    }
    std::string piece;
    bool more = out.error.ok();
    while (more) {
      out.error = co_await call.ReadSome(piece);
      out.body += piece;
      more = out.error.ok() && !piece.empty() && out.body.size() < kMaxBodyBytes;
    }
  }
  if (--round->left == 0) round->ended.cancel();
}

struct Question {
  const char* method = "GET";
  std::string target;
  std::string body = {};
  int64_t timeout_ms = kTimeoutMs;
  bool healthy_only = true;
};

asio::awaitable<std::vector<WorkerAnswer>> AskAll(RouterCore& core, const HttpRequest& request,
                                                  Question question) {
  auto round = std::make_shared<Round>(core.io());
  round->body = question.body;
  std::vector<Worker*> workers;
  for (const auto& worker : core.workers().all()) {
    if (!question.healthy_only || worker->health.up()) workers.push_back(worker.get());
  }
  round->left = workers.size();
  for (const Worker* worker : workers) {
    round->answers.push_back({.url = worker->spec.url, .type = worker->spec.type});
  }
  for (size_t i = 0; i < workers.size(); ++i) {
    std::string head = Text(question.method, " ", question.target,
                            " HTTP/1.1\r\nHost: ", workers[i]->upstream.authority(), "\r\n");
    const std::string authorization = core.AuthorizationFor(*workers[i], &request);
    if (!authorization.empty()) head += Text("Authorization: ", authorization, "\r\n");
    if (!question.body.empty()) head += "Content-Type: application/json\r\n";
    if (std::string_view(question.method) == "POST") {
      head += Text("Content-Length: ", question.body.size(), "\r\n");
    }
    head += "\r\n";
    asio::co_spawn(core.io(), AskOne(round, i, workers[i], std::move(head), question.timeout_ms),
                   asio::detached);
  }
  while (round->left > 0) {
    error_code ignored;
    co_await round->ended.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  co_return std::move(round->answers);
}

Json Parse(const std::string& text) { return Json::parse(text, nullptr, false); }

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

HttpResponse NoneAnswered(const RouterCore& core, const std::vector<WorkerAnswer>& answers) {
  if (answers.empty()) return RouterError(503, "no_worker_available", core.WhyNone(nullptr));
  return RouterError(502, "workers_failed",
                     Text("no worker answered; ", answers[0].url, ": ", answers[0].Why()));
}

// Of what all workers were told to do.
HttpResponse Summary(const std::vector<WorkerAnswer>& answers, const char* done) {
  Json failed = Json::array();
  for (const WorkerAnswer& answer : answers) {
    if (!answer.good()) failed.push_back({{"worker", answer.url}, {"error", answer.Why()}});
  }
  const size_t good = answers.size() - failed.size();
  Json out = {{"status", failed.empty() ? "success" : "failure"},
              {"message", Text(done, " ", good, " of ", answers.size(), " workers")},
              {"workers_reached", good},
              {"total_workers", answers.size()}};
  if (!failed.empty()) out["failed"] = failed;
  return {.status = failed.empty() ? 200 : 502, .body = Dump(out)};
}

asio::awaitable<void> RunHandler(AsyncHandler handler, ClientCall call) {
  HttpResponse response = co_await handler(*call.core, call.request);
  call.Send(std::move(response));
}

}  // namespace

void StartHandler(AsyncHandler handler, ClientCall call) {
  asio::io_context& io = call.core->io();
  asio::co_spawn(io, RunHandler(handler, std::move(call)), asio::detached);
}

asio::awaitable<HttpResponse> AnswerModels(RouterCore& core, const HttpRequest& request) {
  Question question{.target = "/v1/models"};
  const std::vector<WorkerAnswer> answers = co_await AskAll(core, request, std::move(question));
  Json models = Json::array();
  std::set<std::string> seen;
  bool any = false;
  for (const WorkerAnswer& answer : answers) {
    const Json json = Parse(answer.body);
    if (!answer.good() || !json.is_object() || !json.contains("data")) continue;
    any = true;
    for (const Json& model : json["data"]) {
      if (model.is_object() && seen.insert(Dump(model.value("id", Json()))).second) {
        models.push_back(model);
      }
    }
  }
  if (!any) co_return NoneAnswered(core, answers);
  const Json out = {{"object", "list"}, {"data", models}};
  co_return HttpResponse{.body = Dump(out)};
}

asio::awaitable<HttpResponse> AnswerModelInfo(RouterCore& core, const HttpRequest& request) {
  Question question{.target = "/get_model_info"};
  const std::vector<WorkerAnswer> answers = co_await AskAll(core, request, std::move(question));
  for (const WorkerAnswer& answer : answers) {
    if (answer.good()) co_return HttpResponse{.body = answer.body};
  }
  co_return NoneAnswered(core, answers);
}

asio::awaitable<HttpResponse> AnswerServerInfo(RouterCore& core, const HttpRequest& request) {
  Question question{.target = "/get_server_info"};
  const std::vector<WorkerAnswer> answers = co_await AskAll(core, request, std::move(question));
  Json out = {{"internal_states", Json::array()}};
  for (const char* type : {"prefill", "decode", "regular"}) out[type] = Json::array();
  bool any = false;
  for (const WorkerAnswer& answer : answers) {
    const Json json = Parse(answer.body);
    if (!answer.good() || !json.is_object()) continue;
    any = true;
    out[NameOf(answer.type)].push_back(json);
    // What benchmarks read: the states of those that decode.
    if (answer.type == WorkerType::kPrefill || !json.contains("internal_states")) continue;
    for (const Json& state : json["internal_states"]) out["internal_states"].push_back(state);
  }
  if (!any) co_return NoneAnswered(core, answers);
  co_return HttpResponse{.body = Dump(out)};
}

asio::awaitable<HttpResponse> AnswerLoads(RouterCore& core, const HttpRequest& request) {
  Question question{.target = "/get_load"};
  const std::vector<WorkerAnswer> answers = co_await AskAll(core, request, std::move(question));
  Json list = Json::array();
  for (const WorkerAnswer& answer : answers) {
    Json json = Parse(answer.body);
    Json entry = {{"worker", answer.url}, {"worker_type", NameOf(answer.type)}, {"load", -1}};
    if (answer.good() && (json.is_array() || json.is_object())) {
      if (json.is_object()) json = Json::array({json});
      int64_t tokens = 0;
      int64_t requests = 0;
      for (const Json& rank : json) {
        if (!rank.is_object()) continue;
        const auto number = [&rank](const char* name) {
          const auto found = rank.find(name);
          return found != rank.end() && found->is_number() ? found->get<int64_t>() : 0;
        };
        tokens += number("num_tokens");
        requests += number("num_reqs");
      }
      entry["load"] = tokens;
      entry["num_reqs"] = requests;
      entry["detail"] = json;
    } else {
      entry["error"] = answer.Why();
    }
    list.push_back(std::move(entry));
  }
  const Json out = {{"workers", list}};
  co_return HttpResponse{.body = Dump(out)};
}

asio::awaitable<HttpResponse> AnswerFlush(RouterCore& core, const HttpRequest& request) {
  Question question{.method = "POST", .target = "/flush_cache", .healthy_only = false};
  const std::vector<WorkerAnswer> answers = co_await AskAll(core, request, std::move(question));
  co_return Summary(answers, "flushed the cache of");
}

asio::awaitable<HttpResponse> AnswerAbort(RouterCore& core, const HttpRequest& request) {
  Question question{
      .method = "POST", .target = "/abort_request", .body = request.body, .healthy_only = false};
  const std::vector<WorkerAnswer> answers = co_await AskAll(core, request, std::move(question));
  co_return Summary(answers, "told");
}

asio::awaitable<HttpResponse> AnswerHealthGenerate(RouterCore& core, const HttpRequest& request) {
  Question question{.target = "/health_generate", .timeout_ms = kGenerateTimeoutMs};
  const std::vector<WorkerAnswer> answers = co_await AskAll(core, request, std::move(question));
  if (answers.empty() || !core.Ready()) {
    co_return RouterError(503, "no_worker_available", core.WhyNone(nullptr));
  }
  HttpResponse out = Summary(answers, "tokens came from");
  if (out.status != 200) out.status = 503;
  co_return out;
}

asio::awaitable<HttpResponse> AnswerEngineMetrics(RouterCore& core, const HttpRequest& request) {
  Question question{.target = "/metrics"};
  const std::vector<WorkerAnswer> answers = co_await AskAll(core, request, std::move(question));
  std::vector<std::pair<std::string, std::string>> texts;
  for (const WorkerAnswer& answer : answers) {
    if (answer.good()) texts.push_back({answer.url, answer.body});
  }
  if (texts.empty()) co_return NoneAnswered(core, answers);
  co_return HttpResponse{.content_type = MetricRegistry::kContentType, .body = MergeMetrics(texts)};
}

}  // namespace causeway
