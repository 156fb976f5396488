#include "server/openai_api.h"

#include <ctime>

#include "server/openai_reply.h"

namespace causeway {

OpenAiApi::OpenAiApi(const ServedModel& model, ApiKey api_key)
    : model_(model),
      key_(std::move(api_key)),
      created_(static_cast<int64_t>(std::time(nullptr))),
      completions_(MakeIntake(Endpoint::kCompletions)),
      chat_(MakeIntake(Endpoint::kChat)) {}

RequestDesk::Intake OpenAiApi::MakeIntake(Endpoint endpoint) const {
  RequestDesk::Intake intake;
  intake.endpoint = PathOf(endpoint);
  intake.parse = [this, endpoint](std::string_view body, RequestDesk::MakeReply& make) {
    auto request = std::make_shared<OpenAiRequest>();  // shared: functions are copyable
    std::optional<ApiError> error = ParseOpenAiRequest(endpoint, body, model_, *request);
    if (error) return error;
    make = [this, request](HttpResponder responder, Reply::Clock::time_point arrived) {
      const char* prefix = request->endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-";
      return std::make_unique<OpenAiReply>(prefix + RandomName(), std::move(*request), model_,
                                           std::move(responder), arrived);
    };
    return error;
  };
  return intake;
}

HttpResponse OpenAiApi::RenderError(int status, const std::string& message) {
  return ErrorResponse({.http_status = status, .message = message});
}

std::vector<HttpRoute> OpenAiApi::Routes(RequestDesk& desk) const {
  std::vector<HttpRoute> routes;
  // The key is checked before the handler sees the request.
  const auto add = [&](const char* method, const char* path, HttpHandler handler) {
    routes.push_back({method, path, key_.Guard(std::move(handler))});
  };
  const auto add_work = [&](const char* path, HttpHandler handler) {
    routes.push_back({"POST", path, key_.GuardWork(std::move(handler))});
  };
  add_work("/v1/completions", [this, &desk](HttpRequest request, HttpResponder responder) {
    desk.Take(completions_, std::move(request), std::move(responder));
  });
  add_work("/v1/chat/completions", [this, &desk](HttpRequest request, HttpResponder responder) {
    desk.Take(chat_, std::move(request), std::move(responder));
  });
  add("GET", "/v1/models",
      [this](HttpRequest, HttpResponder responder) { ListModels(std::move(responder)); });
  add("GET", "/v1/models/*", [this](HttpRequest request, HttpResponder responder) {
    DescribeModel(request, std::move(responder));
  });
  // Open to everybody: load balancers have no key.
  routes.push_back({"GET", "/health", [&desk](HttpRequest, HttpResponder responder) {
                      Health(desk, std::move(responder));
                    }});
  return routes;
}

void OpenAiApi::Health(RequestDesk& desk, HttpResponder responder) {
  if (!desk.engine().healthy()) {
    responder.Send(RenderError(503, "the engine has failed and is shutting down"));
  } else if (desk.draining()) {
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

void OpenAiApi::ListModels(HttpResponder responder) const {
  responder.Send({.body = Dump({{"object", "list"}, {"data", Json::array({ModelJson()})}})});
}

void OpenAiApi::DescribeModel(const HttpRequest& request, HttpResponder responder) const {
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

}  // namespace causeway
