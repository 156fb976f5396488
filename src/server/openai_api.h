// OpenAI's HTTP API in front of an engine.
//
// The way of a request: the io thread takes it off the wire (a handler here), the text thread
// parses it and makes token ids, the io thread submits it to the engine, and the engine's
// callbacks come back to the io thread, which writes the answer. Large prompts thus hold up no
// stream.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/queue.h"
#include "engine/request.h"
#include "net/http_server.h"
#include "server/openai_reply.h"
#include "server/openai_request.h"

namespace causeway {

struct OpenAiOptions {
  std::string api_key;        // empty: everybody may ask
  size_t max_waiting = 1024;  // requests before the text thread; more get 503
  std::function<void(const RequestReport&)> on_report = {};  // on the io thread, once a request
};

// Lives longer than the HttpServer that has its routes, and shorter than the engine.
class OpenAiApi {
 public:
  OpenAiApi(RequestSink& engine, const ServedModel& model, OpenAiOptions options);
  ~OpenAiApi();

  // /v1/completions, /v1/chat/completions, /v1/models, /v1/models/*, /health.
  // Handlers for HttpServer::Listen. They refer to this object and run on the io thread; all but
  // /health ask for the API key where there is one.
  std::vector<HttpRoute> Routes();
  // For HttpServerOptions::render_error.
  static HttpResponse RenderError(int status, const std::string& message);

  // New requests get 503 and /health says so from now on. From any thread.
  void StartDraining() { draining_.store(true); }
  // Ends what is under way with an error. `executor`: the server's. From any thread.
  void CancelAll(const IoExecutor& executor);

 private:
  // A request before the text thread.
  struct Waiting {
    Endpoint endpoint;
    HttpResponder responder;
    OpenAiReply::Clock::time_point arrived;
  };
  struct Job {
    uint64_t key;
    Endpoint endpoint;
    std::string body;
    IoExecutor executor;
  };

  // Null if the client may ask, else the refusal.
  std::optional<ApiError> CheckKey(const HttpRequest& request) const;
  // The handlers of the routes, on the io thread.
  void Answer(Endpoint endpoint, HttpRequest request, HttpResponder responder);
  void ListModels(const HttpRequest& request, HttpResponder responder);
  void DescribeModel(const HttpRequest& request, HttpResponder responder);
  void Health(HttpResponder responder);
  Json ModelJson() const;

  // The text thread.
  // Takes jobs until the queue is closed, and posts each back to the io thread as Start or Refuse.
  void ParseJobs();

  // On the io thread.
  void Refuse(uint64_t key, const ApiError& error);
  void ReportRefused(const Waiting& waiting, const ApiError& error) const;
  // Makes the reply and submits its choices to the engine.
  void Start(uint64_t key, OpenAiRequest request, const IoExecutor& executor);
  // What the engine's callbacks post. Keys whose reply has ended are ignored.
  void OnToken(uint64_t key, size_t choice, const TokenOutput& output);
  void OnFinish(uint64_t key, size_t choice, const RequestResult& result);
  // The client has gone before its answer was complete.
  void OnClose(uint64_t key);
  // Reports the reply and forgets it; what the engine still runs for it is cancelled.
  void EndReply(uint64_t key);

  RequestSink& engine_;
  const ServedModel model_;
  const OpenAiOptions options_;
  const int64_t created_;
  std::atomic<bool> draining_{false};

  // The io thread's.
  uint64_t last_key_ = 0;
  std::unordered_map<uint64_t, Waiting> waiting_;
  std::unordered_map<uint64_t, std::unique_ptr<OpenAiReply>> replies_;

  // From the io thread to the text thread; bounded by max_waiting.
  Queue<Job> jobs_;
  std::thread text_thread_;
};

}  // namespace causeway
