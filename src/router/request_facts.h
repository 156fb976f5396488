// What the router must know of a request's body, and the body that a pair of workers gets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace causeway {

// Which body a path takes.
enum class RequestKind { kGenerate, kChat, kCompletion, kOther };

struct RequestFacts {
  bool stream = false;
  bool return_logprob = false;
  std::string model;
  // How many prompts a list has; nothing for a single prompt, however many answers it wants (n).
  std::optional<size_t> batch;
  // What two requests must share at their beginning for one to find the other's keys cached: the
  // prompt's text as it stands in the body, or its token ids, four bytes each. A letter in front
  // says which, so that different kinds share nothing.
  std::string prefix;

  // Where more members go: before the last brace.
  size_t insert_at = 0;
  bool empty = false;  // no members stand before it
  // Members of the client that the router's own take the place of, in order.
  struct Range {
    size_t begin = 0;
    size_t end = 0;
  };
  std::vector<Range> bootstrap;
};

// kInvalidArgument for a body that is no JSON object.
StatusOr<RequestFacts> ReadFacts(RequestKind kind, std::string_view body);

// Where a decode worker finds the prompt's keys.
struct Bootstrap {
  std::string host;         // with brackets around an IPv6 address
  std::optional<int> port;  // nothing: sent as null
};

// The body with bootstrap_host, bootstrap_port and bootstrap_room, which are lists for a batch.
// `rooms`: one for each prompt.
std::string WithBootstrap(std::string_view body, const RequestFacts& facts,
                          const Bootstrap& bootstrap, const std::vector<uint64_t>& rooms);

}  // namespace causeway
