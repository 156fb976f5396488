// Who may ask: the keys that clients send with each request, and how much each key may ask at once.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/http_server.h"
#include "server/api_error.h"

namespace causeway {

// Copies share the counts of what is under way. Used on the io thread.
class ApiKey {
 public:
  ApiKey() = default;  // everybody may ask
  // Empty: everybody may ask.
  ApiKey(const std::string& key);  // not explicit: one key is the usual case
  // `text` has a key on each line, perhaps followed by the most requests that it may have under
  // way; lines that are empty or start with # say nothing. `key`, if not empty, is one more.
  // Errors name `source` and the line, and never a key.
  static StatusOr<ApiKey> Parse(const std::string& key, const std::string& text,
                                const std::string& source);

  bool open() const { return keys_ == nullptr; }  // everybody may ask
  // Nothing if the client may ask, else the refusal.
  std::optional<ApiError> Check(const HttpRequest& request) const;
  // A handler that answers requests without a key itself.
  HttpHandler Guard(HttpHandler handler) const;
  // The same for requests that are work: those beyond the key's limit get 429.
  HttpHandler GuardWork(HttpHandler handler) const;

 private:
  struct Key;
  // Null, with the reason in `refusal`, if the client may not ask.
  Key* Find(const HttpRequest& request, ApiError& refusal) const;

  std::shared_ptr<std::vector<Key>> keys_;  // shared by the handlers; null: everybody may ask
};

}  // namespace causeway
