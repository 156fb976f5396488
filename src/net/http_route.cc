// Exact paths are looked at first, then prefixes. The methods of all routes of the path are
// gathered on the way: a 405 has to name them.
#include "net/http_route.h"

namespace causeway {
namespace {

// As in "/v1/models/*".
bool IsPrefix(const HttpRoute& route) { return route.path.ends_with("/*"); }

bool Covers(const HttpRoute& route, std::string_view path) {
  if (!IsPrefix(route)) return route.path == path;
  // Without the '*', which stands for at least one character.
  const std::string_view prefix = std::string_view(route.path).substr(0, route.path.size() - 1);
  return path.size() > prefix.size() && path.starts_with(prefix);
}

}  // namespace

RouteMatch MatchRoute(const std::vector<HttpRoute>& routes, std::string_view method,
                      std::string_view path) {
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  RouteMatch match;
  const auto allow = [&match](std::string_view name) {
    match.allow += match.allow.empty() ? "" : ", ";
    match.allow += name;
  };
  for (const bool prefix : {false, true}) {
    for (const HttpRoute& route : routes) {
      if (IsPrefix(route) != prefix || !Covers(route, path)) continue;
      allow(route.method);
      if (route.method == "GET") allow("HEAD");
      if (match.route == nullptr && route.method == wanted) match.route = &route;
    }
    if (!match.allow.empty()) break;  // an exact path hides the prefixes
  }
  if (match.route != nullptr && IsPrefix(*match.route)) {
    match.tail = path.substr(match.route->path.size() - 1);
  }
  return match;
}

}  // namespace causeway
