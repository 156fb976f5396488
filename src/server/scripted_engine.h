// An engine for tests of the server.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/queue.h"
#include "engine/request.h"

namespace causeway {

// For every wait of a test.
inline Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

// Plays a script from its own thread, one request after another.
class ScriptedEngine : public RequestSink {
 public:
  static constexpr int32_t kEndToken = 1;  // ends each script that no limit ends

  struct Script {
    std::vector<int32_t> tokens = {};
    bool repeat = false;           // the tokens over and over, until the limit or a cancel
    bool wait_for_cancel = false;  // after the tokens
    int64_t fail_after = -1;       // tokens, then a step fails
    Status submit = {};            // the answer to Submit
    std::chrono::milliseconds pace{0};
  };

  explicit ScriptedEngine(Script script)
      : script_(std::move(script)), queue_(1000), thread_([this] { Run(); }) {}
  ~ScriptedEngine() override {
    queue_.Close();
    thread_.join();
  }

  Status Submit(std::shared_ptr<Request> request) override {
    if (!script_.submit.ok()) return script_.submit;
    const std::lock_guard lock(mutex_);
    requests_.push_back(*request);
    return queue_.TryPush(std::move(request)) ? Status() : Unavailable("full");
  }
  void Cancel(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
  }
  int64_t context_length() const override { return 1000; }
  bool healthy() const override { return healthy_.load(); }
  void FlushCache() override { ++flushes_; }
  int flushes() const { return flushes_.load(); }
  void Break() { healthy_.store(false); }
  EngineLoad load() const override {
    return {.running = 2,
            .waiting = 3,
            .used_tokens = 256,
            .max_total_tokens = 1024,
            .max_running_requests = 8};
  }

  std::vector<Request> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  bool WasCancelled(const std::string& id) {
    const std::lock_guard lock(mutex_);
    return std::find(cancelled_.begin(), cancelled_.end(), id) != cancelled_.end();
  }
  // False if that does not happen in time.
  bool WaitForCancel(size_t index) {
    const Deadline deadline = Soon();
    while (!deadline.Passed()) {
      const std::vector<Request> all = requests();
      if (all.size() > index && WasCancelled(all[index].id)) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

 private:
  // Of the prompt's token p, -0.125 p.
  static std::shared_ptr<const std::vector<TokenOutput>> PromptLogprobs(const Request& request) {
    const SamplingParams& sampling = request.sampling;
    if (sampling.prompt_logprobs_from < 0) return nullptr;
    auto out = std::make_shared<std::vector<TokenOutput>>();
    for (auto p = static_cast<size_t>(sampling.prompt_logprobs_from) + 1; p < request.prompt.size();
         ++p) {
      TokenOutput one{.token = request.prompt[p], .logprob = -0.125 * static_cast<double>(p)};
      for (int64_t rank = 0; rank < sampling.logprobs; ++rank) {
        one.top.push_back({static_cast<int32_t>(300 + rank), -1.0});
      }
      for (const int32_t id : sampling.logprob_ids) one.listed.push_back({id, -2.0});
      out->push_back(std::move(one));
    }
    return out;
  }

  void Run() {
    while (!queue_.closed()) {
      if (auto request = queue_.Pop(Deadline::AfterMs(100))) Play(**request);
    }
  }

  void Play(const Request& request) {
    RequestResult result;
    result.prompt_tokens = static_cast<int64_t>(request.prompt.size());
    result.reason = FinishReason::kStop;
    result.cached_tokens = result.prompt_tokens - 1;
    const Deadline deadline = Soon();
    for (size_t i = 0; script_.repeat || i < script_.tokens.size(); ++i) {
      if (WasCancelled(request.id) || deadline.Passed()) break;
      if (result.completion_tokens == script_.fail_after) {
        result.status = InternalError("rank 1 of 2 failed in layer 3");
        result.reason = FinishReason::kError;
        request.on_finish(result);
        return;
      }
      if (result.completion_tokens == request.sampling.max_new_tokens) {
        result.reason = FinishReason::kLength;
        break;
      }
      TokenOutput output;
      output.token = script_.tokens[i % script_.tokens.size()];
      output.logprob = -0.5;
      output.cached_tokens = result.cached_tokens;
      for (int64_t rank = 0; rank < request.sampling.logprobs; ++rank) {
        output.top.push_back(
            {static_cast<int32_t>(output.token + rank), -0.5 - static_cast<double>(rank)});
      }
      if (i == 0) output.prompt = PromptLogprobs(request);
      ++result.completion_tokens;
      request.on_token(output);
      if (script_.pace.count() > 0) std::this_thread::sleep_for(script_.pace);
    }
    while (script_.wait_for_cancel && !WasCancelled(request.id) && !deadline.Passed()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (WasCancelled(request.id)) {
      result.reason = FinishReason::kCancelled;
      result.status = Cancelled("the request was cancelled");
    } else if (result.reason == FinishReason::kStop) {
      ++result.completion_tokens;
      result.stop_token = {.token = kEndToken, .logprob = -0.25, .top = {}};
    }
    request.on_finish(result);
  }

  const Script script_;
  std::mutex mutex_;
  std::vector<Request> requests_;
  std::vector<std::string> cancelled_;
  std::atomic<bool> healthy_{true};
  std::atomic<int> flushes_{0};
  Queue<std::shared_ptr<Request>> queue_;
  std::thread thread_;
};

}  // namespace causeway
