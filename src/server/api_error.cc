// The only place where a Status becomes an HTTP status and where OpenAI's error object is put
// together: handlers hand over a Status or an ApiError and never write either by hand.
#include "server/api_error.h"

namespace causeway {

ApiError ToApiError(const Status& status) {
  ApiError error{.message = status.message()};
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
      error.http_status = 400;
      break;
    case StatusCode::kNotFound:
      error.http_status = 404;
      break;
    case StatusCode::kUnavailable:
    case StatusCode::kCancelled:  // by the server: a client that went away gets no answer
      error.http_status = 503;
      break;
    case StatusCode::kDeadlineExceeded:
      error.http_status = 504;
      break;
    case StatusCode::kInternal:
    case StatusCode::kOk:
      error.http_status = 500;
      break;
  }
  return error;
}

Json ErrorJson(const ApiError& error) {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  // OpenAI's clients choose their exception by the HTTP status and show "type": only two types are
  // told apart here, the caller's mistake and ours.
  return {{"error",
           {{"message", error.message},
            {"type", error.http_status < 500 ? "invalid_request_error" : "server_error"},
            {"param", or_null(error.param)},
            {"code", or_null(error.code)}}}};
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response{.status = error.http_status, .body = Dump(ErrorJson(error))};
  // These pass (a full queue, a key's limit, a server that ends): clients that heed the header try
  // again soon.
  if (error.http_status == 503 || error.http_status == 429)
    response.headers.push_back({"Retry-After", "1"});
  if (error.http_status == 401) response.headers.push_back({"WWW-Authenticate", "Bearer"});
  return response;
}

}  // namespace causeway
