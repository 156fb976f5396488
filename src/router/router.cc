#include "router/router.h"

#include <future>
#include <thread>

#include "router/exchange.h"
#include "router/fan_out.h"
#include "router/worker_api.h"

namespace causeway {
namespace {

constexpr Passage kPassages[] = {
    {"/generate", RequestKind::kGenerate, "generate", "gnt-"},
    {"/v1/chat/completions", RequestKind::kChat, "chat", "chatcmpl-"},
    {"/v1/completions", RequestKind::kCompletion, "completions", "cmpl-"},
    {"/v1/tokenize", RequestKind::kOther, "tokenize", "req-"},
    {"/tokenize", RequestKind::kOther, "tokenize", "req-"},
    {"/v1/detokenize", RequestKind::kOther, "detokenize", "req-"},
    {"/detokenize", RequestKind::kOther, "detokenize", "req-"},
    {"/parse_function_call", RequestKind::kOther, "parse_function_call", "req-"},
    {"/separate_reasoning", RequestKind::kOther, "separate_reasoning", "req-"},
};

// Takes the same time whatever the texts are (their lengths may show).
bool SameSecret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<uint8_t>(a[i]) ^ static_cast<uint8_t>(i < b.size() ? b[i] : 0);
  }
  return difference == 0;
}

bool MayAsk(const RouterCore& core, const HttpRequest& request) {
  const std::string& key = core.options().api_key;
  if (key.empty()) return true;
  const std::string* sent = FindHeader(request.headers, "authorization");
  return sent != nullptr && SameSecret("Bearer " + key, *sent);
}

class Routes {
 public:
  explicit Routes(RouterCore& core) : core_(core) {}

  using Handler = std::function<void(ClientCall)>;
  // `open`: whoever asks is answered, with a key or without.
  void Add(const char* method, const char* path, bool open, Handler handler) {
    routes_.push_back({method, path,
                       [core = &core_, path, open, handler = std::move(handler)](
                           HttpRequest request, HttpResponder responder) {
                         ClientCall call{.core = core,
                                         .request = std::move(request),
                                         .responder = std::move(responder),
                                         .path = path,
                                         .id = {}};
                         core->metrics().HttpRequest(call.request.method, path);
                         if (open || MayAsk(*core, call.request)) {
                           handler(std::move(call));
                         } else {
                           call.Send(RouterError(401, "invalid_api_key",
                                                 "the request lacks the router's key: "
                                                 "Authorization: Bearer KEY (--api-key)"));
                         }
                       }});
  }
  // A handler that answers at once.
  void AddPlain(const char* method, const char* path, bool open,
                HttpResponse (*answer)(RouterCore&, const HttpRequest&)) {
    Add(method, path, open, [core = &core_, answer](ClientCall call) {
      call.id = core->RequestId(call.request, "req-");
      call.Send(answer(*core, call.request));
    });
  }
  void AddAsync(const char* method, const char* path, bool open, AsyncHandler handler) {
    Add(method, path, open, [core = &core_, handler](ClientCall call) {
      call.id = core->RequestId(call.request, "req-");
      StartHandler(handler, std::move(call));
    });
  }
  std::vector<HttpRoute> Take() { return std::move(routes_); }

 private:
  RouterCore& core_;
  std::vector<HttpRoute> routes_;
};

HttpResponse AnswerLive(RouterCore&, const HttpRequest&) {
  return {.content_type = "text/plain; charset=utf-8", .body = "OK"};
}

HttpResponse AnswerReady(RouterCore& core, const HttpRequest&) {
  size_t healthy = 0;
  for (const auto& worker : core.workers().all()) healthy += worker->health.up() ? 1 : 0;
  const bool ready = core.Ready();
  return {.status = ready ? 200 : 503,
          .body = Text("{\"status\":\"", ready ? "ready" : "not ready", "\",\"healthy_workers\":",
                       healthy, ",\"total_workers\":", core.workers().all().size(), "}")};
}

HttpResponse AnswerHealth(RouterCore& core, const HttpRequest& request) {
  return core.Ready() ? AnswerLive(core, request) : AnswerReady(core, request);
}

HttpResponse AnswerMetrics(RouterCore& core, const HttpRequest&) {
  return {.content_type = MetricRegistry::kContentType,
          .body = core.metrics().Render(core.Samples())};
}

std::vector<HttpRoute> MakeRoutes(RouterCore& core) {
  Routes routes(core);
  for (const Passage& passage : kPassages) {
    const auto pass = [&passage](ClientCall call) { StartExchange(passage, std::move(call)); };
    routes.Add("POST", passage.path, false, pass);
    if (passage.kind == RequestKind::kGenerate) routes.Add("PUT", passage.path, false, pass);
  }
  routes.AddAsync("GET", "/v1/models", false, &AnswerModels);
  for (const char* path : {"/get_model_info", "/model_info"}) {
    routes.AddAsync("GET", path, false, &AnswerModelInfo);
  }
  for (const char* path : {"/get_server_info", "/server_info"}) {
    routes.AddAsync("GET", path, false, &AnswerServerInfo);
  }
  for (const char* path : {"/get_loads", "/get_load"}) {
    routes.AddAsync("GET", path, false, &AnswerLoads);
  }
  for (const char* method : {"GET", "POST"}) {
    routes.AddAsync(method, "/flush_cache", false, &AnswerFlush);
  }
  routes.AddAsync("POST", "/abort_request", false, &AnswerAbort);
  routes.AddAsync("GET", "/health_generate", true, &AnswerHealthGenerate);
  routes.AddAsync("GET", "/engine_metrics", true, &AnswerEngineMetrics);
  routes.AddPlain("GET", "/health", true, &AnswerHealth);
  routes.AddPlain("GET", "/readiness", true, &AnswerReady);
  routes.AddPlain("GET", "/liveness", true, &AnswerLive);
  routes.AddPlain("GET", "/metrics", true, &AnswerMetrics);
  routes.AddPlain("GET", "/list_workers", false,
                  [](RouterCore& core, const HttpRequest&) { return ListUrls(core); });
  routes.AddPlain("GET", "/workers", false,
                  [](RouterCore& core, const HttpRequest&) { return ListWorkers(core); });
  routes.AddPlain("POST", "/workers", false, [](RouterCore& core, const HttpRequest& request) {
    return AddWorker(core, request.body);
  });
  routes.AddPlain("GET", "/workers/*", false, [](RouterCore& core, const HttpRequest& request) {
    return ShowWorker(core, request.tail);
  });
  routes.AddPlain("DELETE", "/workers/*", false, [](RouterCore& core, const HttpRequest& request) {
    return RemoveWorker(core, request.tail);
  });
  return routes.Take();
}

}  // namespace

StatusOr<std::unique_ptr<Router>> Router::Start(const RouterOptions& options) {
  std::unique_ptr<Router> router(new Router);
  RouterOptions own = options;
  // Streams wait for slow clients before they have this much: nobody is cut for it.
  own.http.max_queued_bytes = size_t{1} << 30;
  own.http.render_error = [](int status, const std::string& message) {
    return RouterError(status, "invalid_request", message);
  };
  Status made;
  CAUSEWAY_ASSIGN_OR_RETURN(
      router->server_, HttpServer::ListenWithIo(own.http, [&](boost::asio::io_context& io) {
        StatusOr<std::unique_ptr<RouterCore>> core = RouterCore::Make(io, own);
        if (!core.ok()) {
          made = core.status();
          return std::vector<HttpRoute>();
        }
        router->core_ = *std::move(core);
        router->core_->Start();
        return MakeRoutes(*router->core_);
      }));
  CAUSEWAY_RETURN_IF_ERROR(made);
  return router;
}

Router::~Router() {
  if (server_) Stop(Deadline::AfterMs(0));
}

HttpHandler Router::MetricsHandler() const {
  return [core = core_.get(), executor = executor()](HttpRequest request, HttpResponder responder) {
    // Shared only since tasks must be copyable.
    auto moved = std::make_shared<HttpResponder>(std::move(responder));
    executor.Post([core, moved, request = std::move(request)] {
      moved->Send(AnswerMetrics(*core, request));
    });
  };
}

void Router::StartDraining() {
  if (core_) executor().Post([core = core_.get()] { core->StartDraining(); });
  server_->StartDraining();
}

int64_t Router::UnderWay() const {
  auto asked = std::make_shared<std::promise<int64_t>>();
  std::future<int64_t> answer = asked->get_future();
  executor().Post(
      [core = core_.get(), asked] { asked->set_value(static_cast<int64_t>(core->under_way())); });
  return answer.get();
}

bool Router::Stop(Deadline deadline) {
  if (std::exchange(stopped_, true)) return true;
  constexpr auto kPoll = std::chrono::milliseconds(20);
  constexpr int64_t kFlushMs = 3'000;  // for the last bytes of answers
  bool all = true;
  if (core_) {
    StartDraining();
    while (UnderWay() > 0 && !deadline.Passed()) std::this_thread::sleep_for(kPoll);
    all = UnderWay() == 0;
    executor().Post([core = core_.get()] { core->Stop(); });
  }
  return server_->Stop(Deadline::AfterMs(all ? kFlushMs : 0)) && all;
}

}  // namespace causeway
