// Numbers are found in events by their names and not by reading the JSON: SGLang's events repeat
// the whole answer, and reading all of each would measure this program. The names can't be
// mistaken for text of an answer, in which quotes have a backslash before them.
#include "app/serving_answer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace causeway {
namespace {

constexpr size_t kLongestMessage = 300;

// The number behind the last `"name":`; false if there is none.
bool FindNumber(std::string_view json, std::string_view name, int64_t& out) {
  const size_t at = json.rfind(name);
  if (at == std::string_view::npos) return false;
  std::string_view rest = json.substr(at + name.size());
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  return std::from_chars(rest.data(), rest.data() + rest.size(), out).ec == std::errc();
}

// Whether the event of an OpenAI stream has text in it.
bool HasText(std::string_view json) {
  for (const std::string_view name : {"\"text\":", "\"content\":", "\"reasoning_content\":"}) {
    const size_t at = json.find(name);
    if (at == std::string_view::npos) continue;
    std::string_view rest = json.substr(at + name.size());
    while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
    if (rest.size() > 1 && rest[0] == '"' && rest[1] != '"') return true;
  }
  return false;
}

// The message of {"error": {"message"}} and its like, or the text itself.
std::string MessageOf(std::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  std::string out(text);
  if (json.is_object()) {
    const nlohmann::json& error = json.contains("error") ? json["error"] : json;
    if (error.is_string()) out = error.get<std::string>();
    if (error.is_object() && error.contains("message") && error["message"].is_string()) {
      out = error["message"].get<std::string>();
    }
  }
  return out.substr(0, kLongestMessage);
}

double Percentile(const std::vector<double>& sorted, double part) {
  const double at = part * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - static_cast<double>(low));
}

}  // namespace

double ServingAnswer::tpot() const {
  if (first_ < 0 || output_tokens_ < 2) return -1;
  return (last_ - first_) / static_cast<double>(output_tokens_ - 1);
}

void ServingAnswer::Fail(std::string kind, std::string message) {
  if (!error_kind_.empty()) return;  // the first one led to the others
  error_kind_ = std::move(kind);
  error_ = std::move(message);
}

void ServingAnswer::TakeUsage(std::string_view json) {
  FindNumber(json, "\"prompt_tokens\":", prompt_tokens_);
  FindNumber(json, "\"cached_tokens\":", cached_tokens_);
}

void ServingAnswer::Data(double now, std::string_view piece) {
  input_ += piece;
  if (!stream_ || http_status_ != 200) return;
  // An event ends with an empty line.
  size_t begin = 0;
  for (size_t end; (end = input_.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
    const std::string_view event = std::string_view(input_).substr(begin, end - begin);
    if (!event.starts_with("data:")) continue;
    std::string_view data = event.substr(5);
    if (data.starts_with(' ')) data.remove_prefix(1);
    Event(now, data);
  }
  input_.erase(0, begin);
}

void ServingAnswer::Event(double now, std::string_view data) {
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  if (data.starts_with("{\"error\"")) {
    Fail("error in the stream", MessageOf(data));
    return;
  }
  TakeUsage(data);
  int64_t tokens = output_tokens_;
  // A server that does not say how many there are: each event with text is a token.
  if (!FindNumber(data, "\"completion_tokens\":", tokens) && HasText(data)) ++tokens;
  if (tokens <= output_tokens_) return;
  const int64_t more = tokens - output_tokens_;
  if (first_ < 0) {
    first_ = now;
  } else {
    // The first of all tokens is no gap, and what came together with it is none either.
    gaps_.insert(gaps_.end(), static_cast<size_t>(more), (now - last_) / static_cast<double>(more));
  }
  last_ = now;
  output_tokens_ = tokens;
}

void ServingAnswer::End(double now, const Status& status) {
  ended_ = true;
  end_ = now;
  if (!status.ok()) {
    Fail(status.code() == StatusCode::kDeadlineExceeded  ? "timed out"
         : status.code() == StatusCode::kInvalidArgument ? "not HTTP"
         : http_status_ == 0                             ? "no connection"
                                                         : "connection lost",
         status.message());
  } else if (http_status_ != 200) {
    Fail(Text("HTTP ", http_status_), MessageOf(input_));
  } else if (stream_) {
    if (!done_) Fail("stream without its end", "the connection ended before data: [DONE]");
  } else {
    TakeUsage(input_);
    FindNumber(input_, "\"completion_tokens\":", output_tokens_);
  }
  if (error_kind_.empty() && output_tokens_ == 0) {
    Fail("no tokens", Text("the answer has no tokens, or does not say how many: ",
                           input_.substr(0, kLongestMessage)));
  }
  input_ = std::string();  // bodies of all answers would add up
}

ServingTimes ServingTimes::Of(std::vector<double> seconds) {
  ServingTimes out{.count = seconds.size()};
  if (seconds.empty()) return out;
  std::sort(seconds.begin(), seconds.end());
  double sum = 0;
  for (const double value : seconds) sum += value;
  out.mean = sum / static_cast<double>(seconds.size()) * 1e3;
  out.median = Percentile(seconds, 0.5) * 1e3;
  out.p90 = Percentile(seconds, 0.9) * 1e3;
  out.p99 = Percentile(seconds, 0.99) * 1e3;
  return out;
}

ServingReport ServingReport::Of(const std::vector<ServingAnswer>& answers) {
  ServingReport out;
  out.requests = answers.size();
  std::vector<double> ttft, tpot, itl, e2e;
  std::vector<std::pair<double, int>> changes;  // of the number under way
  for (const ServingAnswer& answer : answers) {
    changes.insert(changes.end(), {{answer.start(), 1}, {answer.end(), -1}});
    if (!answer.ok()) {
      Errors& errors = out.errors[answer.error_kind()];
      if (errors.count++ == 0) errors.example = answer.error();
      continue;
    }
    ++out.completed;
    out.input_tokens += answer.prompt_tokens();
    out.cached_tokens += answer.cached_tokens();
    out.output_tokens += answer.output_tokens();
    if (answer.ttft() >= 0) ttft.push_back(answer.ttft());
    if (answer.tpot() >= 0) tpot.push_back(answer.tpot());
    itl.insert(itl.end(), answer.gaps().begin(), answer.gaps().end());
    e2e.push_back(answer.latency());
  }
  out.ttft = ServingTimes::Of(std::move(ttft));
  out.tpot = ServingTimes::Of(std::move(tpot));
  out.itl = ServingTimes::Of(std::move(itl));
  out.e2e = ServingTimes::Of(std::move(e2e));
  // Of equal times the end comes first.
  std::sort(changes.begin(), changes.end());
  int64_t under_way = 0;
  for (const auto& [time, change] : changes) {
    under_way += change;
    out.most_under_way =
        std::max(out.most_under_way, static_cast<size_t>(std::max<int64_t>(under_way, 0)));
  }
  // Starts are first in order, ends last.
  if (!changes.empty()) out.duration_seconds = changes.back().first - changes.front().first;
  return out;
}

nlohmann::json ServingReport::ToJson() const {
  const double seconds = std::max(duration_seconds, 1e-9);
  nlohmann::json out = {
      {"requests", requests},
      {"completed", completed},
      {"duration", duration_seconds},
      {"total_input_tokens", input_tokens},
      {"total_cached_tokens", cached_tokens},
      {"total_output_tokens", output_tokens},
      {"request_throughput", static_cast<double>(completed) / seconds},
      {"input_throughput", static_cast<double>(input_tokens) / seconds},
      {"output_throughput", static_cast<double>(output_tokens) / seconds},
      {"total_throughput", static_cast<double>(input_tokens + output_tokens) / seconds},
      {"max_concurrent_requests", most_under_way},
      {"errors", nlohmann::json::object()}};
  for (const auto& [kind, found] : errors) {
    out["errors"][kind] = {{"count", found.count}, {"example", found.example}};
  }
  const auto add = [&](const std::string& name, const ServingTimes& times) {
    const bool none = times.count == 0;
    for (const auto& [kind, value] : {std::pair{"mean", times.mean},
                                      {"median", times.median},
                                      {"p90", times.p90},
                                      {"p99", times.p99}}) {
      out[Text(kind, "_", name, "_ms")] = none ? nlohmann::json() : nlohmann::json(value);
    }
  };
  add("ttft", ttft);
  add("tpot", tpot);
  add("itl", itl);
  add("e2e_latency", e2e);
  return out;
}

std::string ServingReport::Table() const {
  std::string out;
  char line[256];
  const auto add = [&](const char* format, auto... values) {
    std::snprintf(line, sizeof(line), format, values...);
    out += line;
  };
  const double seconds = std::max(duration_seconds, 1e-9);
  add("%zu of %zu requests in %.2f s, at most %zu at once\n", completed, requests, duration_seconds,
      most_under_way);
  add("requests/s %.2f   input tokens/s %.1f   output tokens/s %.1f\n",
      static_cast<double>(completed) / seconds, static_cast<double>(input_tokens) / seconds,
      static_cast<double>(output_tokens) / seconds);
  add("input tokens %lld, of which cached %lld (%.1f %%); output tokens %lld\n",
      static_cast<long long>(input_tokens), static_cast<long long>(cached_tokens),
      input_tokens > 0
          ? 100.0 * static_cast<double>(cached_tokens) / static_cast<double>(input_tokens)
          : 0.0,
      static_cast<long long>(output_tokens));
  add("\n%-34s %10s %10s %10s %10s\n", "milliseconds", "mean", "median", "p90", "p99");
  for (const auto& [name, times] :
       {std::pair<const char*, const ServingTimes&>{"time to first token (TTFT)", ttft},
        {"time per output token (TPOT)", tpot},
        {"between two tokens (ITL)", itl},
        {"whole answer (end to end)", e2e}}) {
    if (times.count == 0) {
      add("%-34s %10s %10s %10s %10s\n", name, "-", "-", "-", "-");
    } else {
      add("%-34s %10.2f %10.2f %10.2f %10.2f\n", name, times.mean, times.median, times.p90,
          times.p99);
    }
  }
  for (const auto& [kind, found] : errors) {
    out += Text("errors: ", found.count, " x ", kind, ", such as: ", found.example, "\n");
  }
  return out;
}

}  // namespace causeway
