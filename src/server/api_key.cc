#include "server/api_key.h"

#include <strings.h>

namespace causeway {
namespace {

// Takes the same time whatever the texts are (their lengths may show).
bool SameSecret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<uint8_t>(a[i]) ^ static_cast<uint8_t>(i < b.size() ? b[i] : 0);
  }
  return difference == 0;
}

}  // namespace

std::optional<ApiError> ApiKey::Check(const HttpRequest& request) const {
  if (key_.empty()) return std::nullopt;
  const std::string* header = FindHeader(request.headers, "Authorization");
  if (header == nullptr) {
    return ApiError{.http_status = 401,
                    .message = "no API key; expected the header Authorization: Bearer KEY",
                    .code = "invalid_api_key"};
  }
  constexpr std::string_view kScheme = "Bearer ";
  if (strncasecmp(header->c_str(), kScheme.data(), kScheme.size()) != 0 ||
      !SameSecret(key_, header->substr(kScheme.size()))) {
    return ApiError{.http_status = 401, .message = "wrong API key", .code = "invalid_api_key"};
  }
  return std::nullopt;
}

HttpHandler ApiKey::Guard(HttpHandler handler) const {
  return [key = *this, handler = std::move(handler)](HttpRequest request, HttpResponder responder) {
    if (const std::optional<ApiError> refusal = key.Check(request)) {
      responder.Send(ErrorResponse(*refusal));
    } else {
      handler(std::move(request), std::move(responder));
    }
  };
}

}  // namespace causeway
