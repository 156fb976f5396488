// Errors as OpenAI's clients expect them.
#pragma once

#include <string>

#include "base/status.h"
#include "net/http_message.h"
#include "server/json.h"

namespace causeway {

struct ApiError {
  int http_status = 400;
  std::string message;
  std::string param = {};  // the field, "messages[2].role"; empty: null
  std::string code = {};   // "model_not_found"; empty: null
};

// HTTP status by the status' code; messages pass unchanged.
ApiError ToApiError(const Status& status);

// {"error": {"message", "type", "param", "code"}}
Json ErrorJson(const ApiError& error);
// With Retry-After for 429 and 503, and WWW-Authenticate for 401.
HttpResponse ErrorResponse(const ApiError& error);

}  // namespace causeway
