// When a request is sent once more, and after which pause.
#pragma once

#include <cstdint>

namespace causeway {

struct RetryOptions {
  int max_retries = 5;  // tries in all, as SGLang's router counts; 1: no retry
  int64_t initial_backoff_ms = 50;
  int64_t max_backoff_ms = 5'000;
  double backoff_multiplier = 2;
  double jitter_factor = 0.1;  // a pause is this part longer or shorter, by chance
};

// Whether another try may fare better than one that was answered with this status.
bool IsRetryable(int status);
// What a worker's answer says about it: whether a circuit breaker counts a failure.
bool IsWorkerFailure(int status);

// The pause after try number `tried`, from 1. `chance`: in [0, 1).
int64_t BackoffMs(const RetryOptions& options, int tried, double chance);

}  // namespace causeway
