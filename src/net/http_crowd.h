// Many HTTP requests at once from one thread: what a crowd of clients does to a server.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace causeway {

struct CrowdCall {
  std::string bytes;         // the whole request, as FormatRequest makes it
  double start_seconds = 0;  // after RunCrowd began; no earlier than that of the call before
};

struct CrowdOptions {
  std::string host = "127.0.0.1";
  int port = 0;
  size_t concurrency = 0;        // calls under way at once; others wait for their turn. 0: all
  int64_t timeout_ms = 600'000;  // for one call, from its connecting to the end of its answer
};

// What happens to calls, by their index; on the thread of RunCrowd, never two at once.
struct CrowdEvents {
  std::function<void(size_t)> on_start = {};
  std::function<void(size_t, int status)> on_head = {};
  // Some of the body. False: enough of it, the connection is closed.
  std::function<bool(size_t, std::string_view)> on_data = {};
  // Exactly once for each call. ok: the answer is complete, or on_data had enough; kUnavailable:
  // the connection was refused or ended early; kDeadlineExceeded; kInvalidArgument: not HTTP.
  std::function<void(size_t, const Status&)> on_end = {};
};

// Returns when all calls have ended. Each has a connection of its own, so that one which ends early
// disturbs no other. Raises the process' limit of open files as far as it may. Fails without a call
// if the name can't be resolved.
Status RunCrowd(const CrowdOptions& options, const std::vector<CrowdCall>& calls,
                const CrowdEvents& events);

}  // namespace causeway
