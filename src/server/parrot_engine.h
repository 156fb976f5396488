// An engine for tests that says what the prompt's last user or tool message said, so that a client
// writes the answers it gets itself: calls of tools, reasoning, anything.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "base/deadline.h"
#include "base/queue.h"
#include "engine/request.h"
#include "text/tokenizer.h"

namespace causeway {

// Plays from its own thread, one request after another.
class ParrotEngine : public RequestSink {
 public:
  // `tokenizer` must outlive this.
  ParrotEngine(const Tokenizer& tokenizer, int32_t eos)
      : tokenizer_(tokenizer), eos_(eos), queue_(1000), thread_([this] { Run(); }) {}
  ~ParrotEngine() override {
    queue_.Close();
    thread_.join();
  }

  Status Submit(std::shared_ptr<Request> request) override {
    return queue_.TryPush(std::move(request)) ? Status()
                                              : Unavailable("the parrot's queue is full");
  }
  void Cancel(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    cancelled_.insert(id);
  }
  int64_t context_length() const override { return 1 << 20; }
  bool healthy() const override { return true; }
  int64_t cancelled() {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(cancelled_.size());
  }

  // What a prompt makes it say.
  static std::string Echo(const std::string& prompt) {
    constexpr std::string_view kMessages[][2] = {
        {"<｜User｜>", "<｜Assistant｜>"},
        {"<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"},
        {"<result>", "</result>"}};
    size_t begin = 0;
    std::string_view end;
    for (const auto& marks : kMessages) {
      const size_t at = prompt.rfind(marks[0]);
      if (at == std::string::npos || at + marks[0].size() <= begin) continue;
      begin = at + marks[0].size();
      end = marks[1];
    }
    if (end.empty()) return prompt;
    return prompt.substr(begin, prompt.find(end, begin) - begin);
  }

 private:
  void Run() {
    while (!queue_.closed()) {
      if (auto request = queue_.Pop(Deadline::AfterMs(100))) Play(**request);
    }
  }

  bool WasCancelled(const std::string& id) {
    const std::lock_guard lock(mutex_);
    return cancelled_.contains(id);
  }

  void Play(const Request& request) {
    RequestResult result;
    result.prompt_tokens = static_cast<int64_t>(request.prompt.size());
    result.reason = FinishReason::kStop;
    for (const int32_t token : tokenizer_.Encode(Echo(tokenizer_.Decode(request.prompt)))) {
      if (WasCancelled(request.id)) {
        result.reason = FinishReason::kCancelled;
        result.status = Cancelled("the request was cancelled");
        break;
      }
      if (result.completion_tokens == request.sampling.max_new_tokens) {
        result.reason = FinishReason::kLength;
        break;
      }
      TokenOutput output{.token = token, .logprob = -0.5, .top = {}};
      for (int64_t rank = 0; rank < request.sampling.logprobs; ++rank) {
        output.top.push_back(
            {static_cast<int32_t>(token + rank), -0.5 - static_cast<double>(rank)});
      }
      ++result.completion_tokens;
      request.on_token(output);
    }
    if (result.reason == FinishReason::kStop) {
      ++result.completion_tokens;
      result.stop_token = {.token = eos_, .logprob = -0.25, .top = {}};
    }
    request.on_finish(result);
  }

  const Tokenizer& tokenizer_;
  const int32_t eos_;
  std::mutex mutex_;
  std::set<std::string> cancelled_;
  Queue<std::shared_ptr<Request>> queue_;
  std::thread thread_;
};

}  // namespace causeway
