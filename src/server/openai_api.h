// OpenAI's HTTP API: its routes, on a desk that brings requests to an engine.
#pragma once

#include <string>
#include <vector>

#include "net/http_server.h"
#include "server/api_key.h"
#include "server/openai_request.h"
#include "server/request_desk.h"

namespace causeway {

// Lives longer than the desk that has its requests.
class OpenAiApi {
 public:
  OpenAiApi(const ServedModel& model, ApiKey api_key);

  // /v1/completions, /v1/chat/completions, /v1/models, /v1/models/*, /health.
  // Handlers for HttpServer::Listen. They refer to this object and to the desk and run on the io
  // thread; all but /health ask for the API key where there is one.
  std::vector<HttpRoute> Routes(RequestDesk& desk) const;
  // For HttpServerOptions::render_error.
  static HttpResponse RenderError(int status, const std::string& message);

 private:
  RequestDesk::Intake MakeIntake(Endpoint endpoint) const;
  // The handlers of the routes, on the io thread.
  void ListModels(HttpResponder responder) const;
  void DescribeModel(const HttpRequest& request, HttpResponder responder) const;
  static void Health(RequestDesk& desk, HttpResponder responder);
  Json ModelJson() const;

  const ServedModel model_;
  const ApiKey key_;
  const int64_t created_;
  const RequestDesk::Intake completions_;
  const RequestDesk::Intake chat_;
};

}  // namespace causeway
