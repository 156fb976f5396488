#include "server/api_key.h"

#include <strings.h>

#include <atomic>
#include <charconv>
#include <sstream>

namespace causeway {

struct ApiKey::Key {
  std::string secret;
  int64_t max_requests = 0;  // 0: no limit of its own
  // Of requests under way. Shared, since those may outlive all ApiKeys; atomic, since a request may
  // end on any thread.
  std::shared_ptr<std::atomic<int64_t>> running = std::make_shared<std::atomic<int64_t>>(0);
};

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

ApiKey::ApiKey(const std::string& key) {
  if (!key.empty()) keys_ = std::make_shared<std::vector<Key>>(1, Key{.secret = key});
}

StatusOr<ApiKey> ApiKey::Parse(const std::string& key, const std::string& text,
                               const std::string& source) {
  auto keys = std::make_shared<std::vector<Key>>();
  if (!key.empty()) keys->push_back({.secret = key});
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const auto wrong = [&](const std::string& what) {
      return InvalidArgument(Text(source, ": line ", number, ": ", what));
    };
    std::istringstream words(line);
    Key next;
    std::string limit, more;
    if (!(words >> next.secret) || next.secret.starts_with('#')) continue;
    if (words >> limit) {
      const char* end = limit.data() + limit.size();
      const auto parsed = std::from_chars(limit.data(), end, next.max_requests);
      if (parsed.ec != std::errc() || parsed.ptr != end || next.max_requests < 1) {
        return wrong("after the key stands no number of requests, 1 or more");
      }
    }
    if (words >> more) return wrong("expected a key and perhaps a number, found more");
    for (const Key& other : *keys) {
      if (other.secret == next.secret) return wrong("the key is there already");
    }
    keys->push_back(std::move(next));
  }
  // A file without keys is a mistake that would open the server to everybody.
  if (keys->empty()) return InvalidArgument(Text(source, ": holds no key"));
  ApiKey out;
  out.keys_ = std::move(keys);
  return out;
}

ApiKey::Key* ApiKey::Find(const HttpRequest& request, ApiError& refusal) const {
  refusal = {.http_status = 401, .message = "wrong API key", .code = "invalid_api_key"};
  const std::string* header = FindHeader(request.headers, "Authorization");
  if (header == nullptr) {
    refusal.message = "no API key; expected the header Authorization: Bearer KEY";
    return nullptr;
  }
  constexpr std::string_view kScheme = "Bearer ";
  if (strncasecmp(header->c_str(), kScheme.data(), kScheme.size()) != 0) return nullptr;
  const std::string secret = header->substr(kScheme.size());
  // All of them: where the search ends would tell.
  Key* found = nullptr;
  for (Key& key : *keys_) {
    if (SameSecret(key.secret, secret)) found = &key;
  }
  return found;
}

std::optional<ApiError> ApiKey::Check(const HttpRequest& request) const {
  ApiError refusal;
  if (open() || Find(request, refusal) != nullptr) return std::nullopt;
  return refusal;
}

HttpHandler ApiKey::Guard(HttpHandler handler) const {
  return
      [keys = *this, handler = std::move(handler)](HttpRequest request, HttpResponder responder) {
        if (const std::optional<ApiError> refusal = keys.Check(request)) {
          responder.Send(ErrorResponse(*refusal));
        } else {
          handler(std::move(request), std::move(responder));
        }
      };
}

HttpHandler ApiKey::GuardWork(HttpHandler handler) const {
  if (open()) return handler;
  return [keys = *this, handler = std::move(handler)](HttpRequest request,
                                                      HttpResponder responder) {
    ApiError refusal;
    Key* key = keys.Find(request, refusal);
    if (key != nullptr && key->max_requests > 0) {
      if (key->running->load() < key->max_requests) {
        // Counted until the responder lets go of it.
        key->running->fetch_add(1);
        responder.Hold(std::shared_ptr<void>(
            nullptr, [running = key->running](void*) { running->fetch_sub(1); }));
      } else {
        refusal = {.http_status = 429,
                   .message = Text("this API key has ", key->max_requests,
                                   " requests under way, its limit; try again when one has ended"),
                   .code = "rate_limit_exceeded"};
        key = nullptr;
      }
    }
    if (key == nullptr) {
      responder.Send(ErrorResponse(refusal));
    } else {
      handler(std::move(request), std::move(responder));
    }
  };
}

}  // namespace causeway
