// The answers of a server under load: when their tokens came, and what that comes to.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace causeway {

// One answer as it arrives. Times are seconds since any fixed moment, the same for all answers.
class ServingAnswer {
 public:
  ServingAnswer() = default;
  explicit ServingAnswer(bool stream) : stream_(stream) {}

  void Start(double now) { start_ = now; }
  void Head(int http_status) { http_status_ = http_status; }
  void Data(double now, std::string_view piece);
  // `status`: whether the connection brought the answer to its end.
  void End(double now, const Status& status);

  // What went wrong in a few words that are the same for alike answers ("HTTP 503"); empty:
  // nothing.
  const std::string& error_kind() const { return error_kind_; }
  const std::string& error() const { return error_; }
  bool ok() const { return ended_ && error_kind_.empty(); }

  double start() const { return start_; }
  double end() const { return end_; }
  // From the request to its first token; negative: there was none, or no stream.
  double ttft() const { return first_ < 0 ? -1 : first_ - start_; }
  double latency() const { return end_ - start_; }
  // Mean time of a token after the first; negative: there was no second.
  double tpot() const;
  // From token to token. Of tokens that came together each has an equal share.
  const std::vector<double>& gaps() const { return gaps_; }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t cached_tokens() const { return cached_tokens_; }
  int64_t output_tokens() const { return output_tokens_; }

 private:
  void Fail(std::string kind, std::string message);
  void Event(double now, std::string_view data);
  // Takes the numbers that `json` has.
  void TakeUsage(std::string_view json);

  bool stream_ = true;
  int http_status_ = 0;
  std::string input_;  // an event that is not whole yet; without a stream, the body
  bool done_ = false;  // the stream's end mark has come
  bool ended_ = false;
  std::string error_kind_, error_;
  double start_ = 0, first_ = -1, last_ = 0, end_ = 0;
  std::vector<double> gaps_;
  int64_t prompt_tokens_ = 0, cached_tokens_ = 0, output_tokens_ = 0;
};

// Mean, median and percentiles of a time, in milliseconds.
struct ServingTimes {
  size_t count = 0;
  double mean = 0, median = 0, p90 = 0, p99 = 0;

  // Percentiles lie between values in proportion, as numpy's.
  static ServingTimes Of(std::vector<double> seconds);
};

struct ServingReport {
  size_t requests = 0;
  size_t completed = 0;
  double duration_seconds = 0;
  int64_t input_tokens = 0, cached_tokens = 0, output_tokens = 0;  // of completed requests
  ServingTimes ttft, tpot, itl, e2e;
  size_t most_under_way = 0;
  struct Errors {
    size_t count = 0;
    std::string example;
  };
  std::map<std::string, Errors> errors;

  static ServingReport Of(const std::vector<ServingAnswer>& answers);
  // By SGLang's names where it has them.
  nlohmann::json ToJson() const;
  std::string Table() const;
};

}  // namespace causeway
