#include "router/retry.h"

#include <algorithm>
#include <cmath>

namespace causeway {

bool IsRetryable(int status) {
  switch (status) {
    case 408:
    case 429:
    case 500:
    case 502:
    case 503:
    case 504:
      return true;
    default:
      return false;
  }
}

bool IsWorkerFailure(int status) { return status >= 500; }

int64_t BackoffMs(const RetryOptions& options, int tried, double chance) {
  const double most = static_cast<double>(options.max_backoff_ms);
  const double pause = std::min(most, static_cast<double>(options.initial_backoff_ms) *
                                          std::pow(options.backoff_multiplier, tried - 1));
  const double jittered = pause * (1 + options.jitter_factor * (2 * chance - 1));
  return static_cast<int64_t>(std::clamp(jittered, 0.0, most));
}

}  // namespace causeway
