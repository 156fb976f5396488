#include "router/request_gate.h"

#include <algorithm>

namespace causeway {

RequestGate::RequestGate(const GateOptions& options, Time now)
    : options_(options), filled_at_(now) {
  most_tokens_ = static_cast<double>(std::max(options.tokens_per_second, options.max_concurrent));
  tokens_ = most_tokens_;
}

bool RequestGate::Take(Time now) {
  if (options_.max_concurrent > 0 && running_ >= options_.max_concurrent) return false;
  if (options_.tokens_per_second > 0) {
    const std::chrono::duration<double> passed = now - filled_at_;
    filled_at_ = now;
    tokens_ = std::min(most_tokens_,
                       tokens_ + passed.count() * static_cast<double>(options_.tokens_per_second));
    if (tokens_ < 1) return false;
    tokens_ -= 1;
  }
  ++running_;
  return true;
}

RequestGate::Verdict RequestGate::Enter(uint64_t number, Time now) {
  // Nobody overtakes who waits.
  if (queue_.empty() && Take(now)) return Verdict::kGo;
  if (waiting() >= options_.queue_size) return Verdict::kFull;
  queue_.push_back({.number = number, .since = now});
  return Verdict::kWait;
}

void RequestGate::Leave() { --running_; }

bool RequestGate::GiveUp(uint64_t number) {
  return std::erase_if(queue_, [number](const Waiting& entry) { return entry.number == number; }) >
         0;
}

std::vector<uint64_t> RequestGate::Admit(Time now) {
  std::vector<uint64_t> out;
  while (!queue_.empty() && Take(now)) {
    out.push_back(queue_.front().number);
    queue_.pop_front();
  }
  return out;
}

std::vector<uint64_t> RequestGate::Expire(Time now) {
  std::vector<uint64_t> out;
  const auto timeout = std::chrono::milliseconds(options_.queue_timeout_ms);
  while (!queue_.empty() && now - queue_.front().since >= timeout) {
    out.push_back(queue_.front().number);
    queue_.pop_front();
  }
  return out;
}

}  // namespace causeway
