// The state of a request is where its key is: in waiting_ until its tokens are there, then in
// replies_ until it has ended. The maps belong to the io thread; what the text thread and the
// engine have to say about a request is posted there with its key, and a key that is in no map any
// more means that the request has ended meanwhile and the news is dropped.
#include "server/openai_api.h"

#include <strings.h>
#include <sys/random.h>

#include <ctime>

namespace causeway {
namespace {

// The text thread wakes this often to see that the queue has been closed.
constexpr int64_t kIdleWaitMs = 500;

// 24 hexadecimal digits that no other request has.
std::string RandomName() {
  uint8_t bytes[12] = {};
  CHECK(getrandom(bytes, sizeof(bytes), 0) == sizeof(bytes), "no random numbers");
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

// Takes the same time whatever the texts are (their lengths may show).
bool SameSecret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<uint8_t>(a[i]) ^ static_cast<uint8_t>(i < b.size() ? b[i] : 0);
  }
  return difference == 0;
}

}  // namespace

OpenAiApi::OpenAiApi(RequestSink& engine, const ServedModel& model, OpenAiOptions options)
    : engine_(engine),
      model_(model),
      options_(std::move(options)),
      created_(static_cast<int64_t>(std::time(nullptr))),
      jobs_(options_.max_waiting),
      text_thread_([this] { ParseJobs(); }) {}

OpenAiApi::~OpenAiApi() {
  // The queue first: the thread leaves its loop once the queue is closed. Requests left in it get
  // no answer here; the server that held their connections has ended before.
  jobs_.Close();
  text_thread_.join();
}

HttpResponse OpenAiApi::RenderError(int status, const std::string& message) {
  return ErrorResponse({.http_status = status, .message = message});
}

std::vector<HttpRoute> OpenAiApi::Routes() {
  std::vector<HttpRoute> routes;
  // The key is checked before the handler sees the request, once for all routes that are added
  // here.
  const auto add = [&](const char* method, const char* path, HttpHandler handler) {
    routes.push_back(
        {method, path,
         [this, handler = std::move(handler)](HttpRequest request, HttpResponder responder) {
           if (const std::optional<ApiError> refusal = CheckKey(request)) {
             responder.Send(ErrorResponse(*refusal));
           } else {
             handler(std::move(request), std::move(responder));
           }
         }});
  };
  add("POST", "/v1/completions", [this](HttpRequest request, HttpResponder responder) {
    Answer(Endpoint::kCompletions, std::move(request), std::move(responder));
  });
  add("POST", "/v1/chat/completions", [this](HttpRequest request, HttpResponder responder) {
    Answer(Endpoint::kChat, std::move(request), std::move(responder));
  });
  add("GET", "/v1/models", [this](HttpRequest request, HttpResponder responder) {
    ListModels(request, std::move(responder));
  });
  add("GET", "/v1/models/*", [this](HttpRequest request, HttpResponder responder) {
    DescribeModel(request, std::move(responder));
  });
  // Open to everybody: load balancers have no key.
  routes.push_back({"GET", "/health", [this](HttpRequest, HttpResponder responder) {
                      Health(std::move(responder));
                    }});
  return routes;
}

std::optional<ApiError> OpenAiApi::CheckKey(const HttpRequest& request) const {
  if (options_.api_key.empty()) return std::nullopt;
  const std::string* header = FindHeader(request.headers, "Authorization");
  if (header == nullptr) {
    return ApiError{.http_status = 401,
                    .message = "no API key; expected the header Authorization: Bearer KEY",
                    .code = "invalid_api_key"};
  }
  constexpr std::string_view kScheme = "Bearer ";
  if (strncasecmp(header->c_str(), kScheme.data(), kScheme.size()) != 0 ||
      !SameSecret(options_.api_key, header->substr(kScheme.size()))) {
    return ApiError{.http_status = 401, .message = "wrong API key", .code = "invalid_api_key"};
  }
  return std::nullopt;
}

void OpenAiApi::Health(HttpResponder responder) {
  if (!engine_.healthy()) {
    responder.Send(RenderError(503, "the engine has failed and is shutting down"));
  } else if (draining_.load()) {
    responder.Send(RenderError(503, "the server is shutting down"));
  } else {
    responder.Send({.body = Dump({{"status", "ok"}})});
  }
}

Json OpenAiApi::ModelJson() const {
  return {{"id", model_.name},
          {"object", "model"},
          {"created", created_},
          {"owned_by", "causeway"},
          {"max_model_len", model_.context_length}};
}

void OpenAiApi::ListModels(const HttpRequest&, HttpResponder responder) {
  responder.Send({.body = Dump({{"object", "list"}, {"data", Json::array({ModelJson()})}})});
}

void OpenAiApi::DescribeModel(const HttpRequest& request, HttpResponder responder) {
  if (request.tail == model_.name) {
    responder.Send({.body = Dump(ModelJson())});
    return;
  }
  responder.Send(ErrorResponse({.http_status = 404,
                                .message = Text("there is no model ", Dump(Json(request.tail)),
                                                "; this server has ", Dump(Json(model_.name))),
                                .param = "model",
                                .code = "model_not_found"}));
}

void OpenAiApi::Answer(Endpoint endpoint, HttpRequest request, HttpResponder responder) {
  const uint64_t key = ++last_key_;
  const IoExecutor executor = responder.executor();
  // From here on the request is in one of the two maps, and a client that leaves takes it out.
  responder.OnClose([this, key] { OnClose(key); });
  waiting_.emplace(key, Waiting{endpoint, std::move(responder), OpenAiReply::Clock::now()});
  if (draining_.load()) {
    Refuse(key, {.http_status = 503, .message = "the server is shutting down"});
  } else if (!jobs_.TryPush({key, endpoint, std::move(request.body), executor})) {
    Refuse(key, {.http_status = 503,
                 .message = Text("the queue is full: ", options_.max_waiting,
                                 " requests wait to be read")});
  }
}

void OpenAiApi::ParseJobs() {
  while (!jobs_.closed()) {
    std::optional<Job> job = jobs_.Pop(Deadline::AfterMs(kIdleWaitMs));
    if (!job) continue;
    std::optional<ApiError> error;
    // Made here and not on the io thread: tokenising a long prompt takes long enough to delay
    // streams.
    auto request = std::make_shared<OpenAiRequest>();  // shared: tasks are copyable
    try {
      error = ParseOpenAiRequest(job->endpoint, job->body, model_, *request);
    } catch (const std::exception& failure) {  // no memory: this request's problem only
      error = ApiError{.http_status = 500,
                       .message = Text("the request can't be read: ", failure.what())};
    }
    if (error) {
      job->executor.Post([this, key = job->key, error = *error] { Refuse(key, error); });
    } else {
      job->executor.Post([this, key = job->key, request, executor = job->executor] {
        Start(key, std::move(*request), executor);
      });
    }
  }
}

void OpenAiApi::Refuse(uint64_t key, const ApiError& error) {
  const auto found = waiting_.find(key);
  if (found == waiting_.end()) return;  // the client has gone
  Waiting waiting = std::move(found->second);
  waiting_.erase(found);
  waiting.responder.Send(ErrorResponse(error));
  ReportRefused(waiting, error);
}

void OpenAiApi::ReportRefused(const Waiting& waiting, const ApiError& error) const {
  if (!options_.on_report) return;
  const std::chrono::duration<double> seconds = OpenAiReply::Clock::now() - waiting.arrived;
  RequestReport report;
  report.endpoint = PathOf(waiting.endpoint);
  report.http_status = error.http_status;
  report.error = error.message;
  report.seconds = seconds.count();
  options_.on_report(report);
}

void OpenAiApi::Start(uint64_t key, OpenAiRequest request, const IoExecutor& executor) {
  const auto found = waiting_.find(key);
  if (found == waiting_.end()) return;  // the client has gone
  Waiting waiting = std::move(found->second);
  waiting_.erase(found);
  const char* prefix = request.endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-";
  auto owned = std::make_unique<OpenAiReply>(prefix + RandomName(), std::move(request), model_,
                                             std::move(waiting.responder), waiting.arrived);
  OpenAiReply& reply = *owned;
  replies_.emplace(key, std::move(owned));
  // The engine calls back on its own thread. The callbacks hold keys, not pointers, since the reply
  // may be gone when the posted task runs.
  for (size_t i = 0; i < reply.choices(); ++i) {
    auto part = std::make_shared<Request>(reply.EngineRequest(i));
    part->on_token = [this, key, i, executor](const TokenOutput& output) {
      executor.Post([this, key, i, output] { OnToken(key, i, output); });
    };
    part->on_finish = [this, key, i, executor](const RequestResult& result) {
      executor.Post([this, key, i, result] { OnFinish(key, i, result); });
    };
    // One choice that the engine refuses ends them all: EndReply cancels those already submitted.
    if (const Status status = engine_.Submit(std::move(part)); !status.ok()) {
      reply.Fail(ToApiError(status));
      EndReply(key);
      return;
    }
  }
  reply.Begin();
}

void OpenAiApi::OnToken(uint64_t key, size_t choice, const TokenOutput& output) {
  const auto found = replies_.find(key);
  if (found == replies_.end()) return;
  OpenAiReply& reply = *found->second;
  // Tokens that were posted before a cancel took effect still come.
  if (!reply.Runs(choice)) return;
  reply.OnToken(choice, output);
  if (!reply.Runs(choice)) engine_.Cancel(reply.EngineId(choice));  // a stop string
  if (reply.done()) EndReply(key);
}

void OpenAiApi::OnFinish(uint64_t key, size_t choice, const RequestResult& result) {
  const auto found = replies_.find(key);
  if (found == replies_.end()) return;
  OpenAiReply& reply = *found->second;
  reply.OnFinish(choice, result);
  if (reply.done()) EndReply(key);
}

void OpenAiApi::OnClose(uint64_t key) {
  const ApiError gone{.http_status = 499, .message = "the client closed the connection"};
  if (const auto found = waiting_.find(key); found != waiting_.end()) {
    ReportRefused(found->second, gone);
    waiting_.erase(found);
  } else if (const auto reply = replies_.find(key); reply != replies_.end()) {
    reply->second->Abandon(gone);
    EndReply(key);
  }
}

void OpenAiApi::EndReply(uint64_t key) {
  const auto found = replies_.find(key);
  // Taken out of the map before anything is called: on_report sees a request that has ended.
  const std::unique_ptr<OpenAiReply> reply = std::move(found->second);
  replies_.erase(found);
  // Unknown ids are ignored: no harm in naming those that have ended.
  const RequestReport report = reply->Report();
  if (report.http_status != 200) {
    for (size_t i = 0; i < reply->choices(); ++i) engine_.Cancel(reply->EngineId(i));
  }
  if (options_.on_report) options_.on_report(report);
}

void OpenAiApi::CancelAll(const IoExecutor& executor) {
  executor.Post([this] {
    const ApiError error{.http_status = 503, .message = "the server is shutting down"};
    while (!replies_.empty()) {
      const auto& [key, reply] = *replies_.begin();
      // A copy: EndReply erases the entry that `key` refers to.
      const uint64_t copy = key;
      reply->Fail(error);
      EndReply(copy);
    }
    while (!waiting_.empty()) Refuse(waiting_.begin()->first, error);
  });
}

}  // namespace causeway
