// Who may ask: the key that clients send with each request.
#pragma once

#include <optional>
#include <string>

#include "net/http_server.h"
#include "server/api_error.h"

namespace causeway {

class ApiKey {
 public:
  explicit ApiKey(std::string key) : key_(std::move(key)) {}  // empty: everybody may ask

  // Nothing if the client may ask, else the refusal.
  std::optional<ApiError> Check(const HttpRequest& request) const;
  // A handler that answers requests without the key itself.
  HttpHandler Guard(HttpHandler handler) const;

 private:
  std::string key_;
};

}  // namespace causeway
