// For tests of the engine: a tiny real model, and a client that keeps what it gets.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "parallel/fault_communicator.h"

namespace causeway {

inline constexpr int64_t kWaitMs = 120'000;  // for what must come; far beyond any real duration
inline constexpr uint32_t kSeed = 20261125;

struct HostSetup {
  int cp = 1;
  int dp = 1;
  int tp = 1;
  int ep = 1;
  int threads_per_rank = 1;
  int64_t total_tokens = 2048;  // KV cache
  int fault_rank = -1;
  Fault fault = {};
  int64_t collective_timeout_ms = kWaitMs;
  int64_t watchdog_timeout_ms = kWaitMs;
  KvMemory kv_memory = KvMemory::kPrivate;
  bool int8_cache = false;  // latents and index keys
};

inline std::unique_ptr<ModelHost> LoadModel(const std::string& path, const HostSetup& setup) {
  HostOptions options;
  options.model_path = path;
  options.context_length = 256;
  options.max_total_tokens = setup.total_tokens;
  options.kv_memory = setup.kv_memory;
  options.int8_kv = setup.int8_cache;
  options.int8_index = setup.int8_cache;
  Layout& layout = options.ranks.layout;
  layout.cp = setup.cp;
  layout.dp = setup.dp;
  layout.tp = setup.tp;
  layout.ep = setup.ep;
  layout.threads_per_rank = setup.threads_per_rank;
  options.ranks.collective_timeout_ms = setup.collective_timeout_ms;
  options.ranks.watchdog_timeout_ms = setup.watchdog_timeout_ms;
  if (setup.fault_rank >= 0) {
    options.ranks.wrap_communicator = [setup](std::unique_ptr<Communicator> comm) {
      if (comm->rank() != setup.fault_rank) return comm;
      return std::unique_ptr<Communicator>(
          std::make_unique<FaultCommunicator>(std::move(comm), setup.fault));
    };
  }
  auto host = ModelHost::Load(options);
  EXPECT_TRUE(host.ok()) << host.status().message();
  return std::move(host).value();
}

// A client: what a request sent back. Outlives its request.
class Client {
 public:
  explicit Client(std::string id, std::vector<int32_t> prompt, SamplingParams sampling) {
    request_ = std::make_shared<Request>();
    request_->id = std::move(id);
    request_->prompt = std::move(prompt);
    request_->sampling = std::move(sampling);
    request_->on_token = [this](const TokenOutput& out) {
      std::unique_lock lock(mutex_);
      EXPECT_EQ(finishes_, 0) << "a token after the end";
      tokens_.push_back(out.token);
      outputs_.push_back(out);
      changed_.notify_all();
      // Holds the engine thread, as no real client may, for tests that need a step not to end.
      changed_.wait_for(lock, std::chrono::milliseconds(kWaitMs), [this] { return !held_; });
    };
    request_->on_finish = [this](const RequestResult& result) {
      const std::lock_guard lock(mutex_);
      result_ = result;
      ++finishes_;
      changed_.notify_all();
    };
  }

  const std::shared_ptr<Request>& request() const { return request_; }

  void Hold() { SetHeld(true); }
  void Release() { SetHeld(false); }

  // False if there are not so many tokens, or no result, in time.
  bool WaitForTokens(size_t count) {
    return WaitUntil([&] { return tokens_.size() >= count; });
  }
  bool WaitForFinish() {
    return WaitUntil([&] { return finishes_ > 0; });
  }

  std::vector<int32_t> tokens() const {
    const std::lock_guard lock(mutex_);
    return tokens_;
  }
  std::vector<TokenOutput> outputs() const {
    const std::lock_guard lock(mutex_);
    return outputs_;
  }
  RequestResult result() const {
    const std::lock_guard lock(mutex_);
    return result_;
  }
  int finishes() const {
    const std::lock_guard lock(mutex_);
    return finishes_;
  }

 private:
  void SetHeld(bool held) {
    const std::lock_guard lock(mutex_);
    held_ = held;
    changed_.notify_all();
  }
  template <typename Condition>
  bool WaitUntil(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(kWaitMs), condition);
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<Request> request_;
  std::vector<int32_t> tokens_;
  std::vector<TokenOutput> outputs_;
  RequestResult result_;
  int finishes_ = 0;
  bool held_ = false;
};

inline std::vector<int32_t> Prompt(int64_t length, uint32_t salt) {
  std::mt19937 random(kSeed + salt);
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < length; ++i) prompt.push_back(static_cast<int32_t>(random() % 256));
  return prompt;
}

inline SamplingParams Greedy(int64_t tokens) {
  SamplingParams sampling;
  sampling.temperature = 0.0;
  sampling.max_new_tokens = tokens;
  sampling.ignore_eos = true;
  return sampling;
}

}  // namespace causeway
