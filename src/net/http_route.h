// Which route a request takes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "net/http_server.h"

namespace causeway {

struct RouteMatch {
  const HttpRoute* route = nullptr;  // null: none
  std::string tail;                  // what the '*' stands for
  std::string allow;                 // methods of the path, "GET, HEAD"; empty: unknown path
};

// HEAD takes a GET route.
RouteMatch MatchRoute(const std::vector<HttpRoute>& routes, std::string_view method,
                      std::string_view path);

}  // namespace causeway
