// The state of a request is where its key is: in waiting_ until its tokens are there, then in
// running_ until it has ended. The maps belong to the io thread; what the text thread and the
// engine have to say about a request is posted there with its key, and a key that is in no map any
// more means that the request has ended meanwhile and the news is dropped.
#include "server/request_desk.h"

#include <algorithm>

namespace causeway {
namespace {

// The text thread wakes this often to see that the queue has been closed, or a deadline passed.
constexpr int64_t kIdleWaitMs = 500;

}  // namespace

RequestDesk::RequestDesk(RequestSink& engine, ServeMetrics& metrics, DeskOptions options)
    : engine_(engine),
      metrics_(metrics),
      options_(std::move(options)),
      jobs_(options_.max_waiting),
      text_thread_([this] { ParseJobs(); }) {}

RequestDesk::~RequestDesk() {
  // The queue first: the thread leaves its loop once the queue is closed. Requests left in it get
  // no answer here; the server that held their connections has ended before.
  jobs_.Close();
  text_thread_.join();
}

void RequestDesk::Take(const Intake& intake, HttpRequest request, HttpResponder responder) {
  const uint64_t key = ++last_key_;
  const IoExecutor executor = responder.executor();
  // From here on the request is in one of the two maps, and a client that leaves takes it out.
  responder.OnClose([this, key] { OnClose(key); });
  waiting_.emplace(key, Waiting{&intake, std::move(responder), Reply::Clock::now()});
  if (draining_.load()) {
    Refuse(key, {.http_status = 503, .message = "the server is shutting down"});
  } else if (!jobs_.TryPush({key, &intake, std::move(request.body), executor})) {
    Refuse(key, {.http_status = 503,
                 .message = Text("the queue is full: ", options_.max_waiting,
                                 " requests wait to be read")});
  }
}

void RequestDesk::ParseJobs() {
  while (!jobs_.closed()) {
    if (const std::optional<Job> job = jobs_.Pop(Deadline::AfterMs(kIdleWaitMs))) Parse(*job);
    std::erase_if(watches_, [this](const Watch& watch) {
      if (!watch.deadline.Passed()) return false;
      watch.executor.Post([this, key = watch.key] { OnDeadline(key); });
      return true;
    });
  }
}

std::optional<ApiError> RequestDesk::Read(const Job& job, MakeReply& make, HttpResponse& answer) {
  try {
    if (job.intake->answer) return job.intake->answer(job.body, answer);
    return job.intake->parse(job.body, make);
  } catch (const std::exception& failure) {  // no memory: this request's problem only
    return ApiError{.http_status = 500,
                    .message = Text("the request can't be read: ", failure.what())};
  }
}

void RequestDesk::Parse(const Job& job) {
  MakeReply make;
  HttpResponse answer;
  if (const std::optional<ApiError> error = Read(job, make, answer)) {
    job.executor.Post([this, key = job.key, error = *error] { Refuse(key, error); });
    return;
  }
  if (!make) {
    job.executor.Post([this, key = job.key, answer = std::move(answer)] { Answer(key, answer); });
    return;
  }
  if (const int64_t ms = job.intake->deadline_ms; ms > 0) {
    watches_.push_back({Deadline::AfterMs(ms), job.key, job.executor});
  }
  job.executor.Post([this, key = job.key, make = std::move(make), executor = job.executor] {
    Start(key, make, executor);
  });
}

void RequestDesk::Refuse(uint64_t key, const ApiError& error) {
  const auto found = waiting_.find(key);
  if (found == waiting_.end()) return;  // the client has gone
  Waiting waiting = std::move(found->second);
  waiting_.erase(found);
  waiting.responder.Send(waiting.intake->render_error(error));
  ReportRefused(waiting, error);
}

void RequestDesk::Answer(uint64_t key, HttpResponse response) {
  const auto found = waiting_.find(key);
  if (found == waiting_.end()) return;  // the client has gone
  HttpResponder responder = std::move(found->second.responder);
  waiting_.erase(found);
  responder.Send(std::move(response));
}

void RequestDesk::ReportRefused(const Waiting& waiting, const ApiError& error) const {
  if (!options_.on_report || waiting.intake->probe) return;
  const std::chrono::duration<double> seconds = Reply::Clock::now() - waiting.arrived;
  RequestReport report;
  report.endpoint = waiting.intake->endpoint;
  report.http_status = error.http_status;
  report.error = error.message;
  report.seconds = seconds.count();
  options_.on_report(report);
}

void RequestDesk::Start(uint64_t key, const MakeReply& make, const IoExecutor& executor) {
  const auto found = waiting_.find(key);
  if (found == waiting_.end()) return;  // the client has gone
  Waiting waiting = std::move(found->second);
  waiting_.erase(found);
  const bool probe = waiting.intake->probe;
  std::unique_ptr<Reply> made = make(std::move(waiting.responder), waiting.arrived);
  Reply& reply = *made;
  if (const std::string* used = FindUsedId(reply)) {
    // Not by Fail: nothing of this reply is with the engine, and what has its id there is
    // another's.
    reply.Fail({.message = Text("the id ", DescribeJson(Json(*used)),
                                " is that of a request under way; choose another"),
                .param = "rid"});
    if (options_.on_report) options_.on_report(reply.Report());
    return;
  }
  const ServeMetrics::Meter meter{.arrived = waiting.arrived, .stream = reply.stream()};
  Running& running = running_
                         .emplace(key, Running{.reply = std::move(made),
                                               .probe = probe,
                                               .meters = std::vector(reply.choices(), meter)})
                         .first->second;
  if (probe) probes_.push_back(key);
  // The engine calls back on its own thread. The callbacks hold keys, not pointers, since the reply
  // may be gone when the posted task runs.
  for (size_t i = 0; i < reply.choices(); ++i) {
    auto part = std::make_shared<Request>(reply.EngineRequest(i));
    running.meters[i].prompt_tokens = static_cast<int64_t>(part->prompt.size());
    part->on_token = [this, key, i, executor](const TokenOutput& output) {
      executor.Post([this, key, i, output] { OnToken(key, i, output); });
    };
    part->on_finish = [this, key, i, probe, executor](const RequestResult& result) {
      executor.Post([this, key, i, probe, result] { OnFinish(key, i, probe, result); });
    };
    RequestLog* const log = probe ? nullptr : options_.log;
    if (log != nullptr) log->Received({key, i}, reply.plan().endpoint, reply.stream(), *part);
    const Status status = engine_.Submit(std::move(part));
    if (log != nullptr && !status.ok()) log->Refused({key, i});
    // A probe that finds no place waits for the signs of life of the others.
    if (probe && status.code() == StatusCode::kUnavailable && engine_.healthy()) return;
    // One choice that the engine refuses ends them all: EndReply cancels those already submitted.
    if (!status.ok()) {
      Fail(key, ToApiError(status));
      return;
    }
  }
  reply.Begin();
}

const std::string* RequestDesk::FindUsedId(const Reply& reply) const {
  const auto uses = [](const Reply& other, const std::string& id) {
    const std::vector<std::string>& names = other.plan().names;
    return other.id() == id || std::find(names.begin(), names.end(), id) != names.end();
  };
  for (const auto& entry : running_) {
    const Reply& other = *entry.second.reply;
    if (uses(other, reply.id())) return &reply.id();
    for (const std::string& name : reply.plan().names) {
      if (uses(other, name)) return &name;
    }
  }
  return nullptr;
}

void RequestDesk::OnToken(uint64_t key, size_t choice, const TokenOutput& output) {
  if (!probes_.empty()) AnswerProbes(output);
  if (options_.log != nullptr) options_.log->Token({key, choice}, output);
  const auto found = running_.find(key);
  if (found == running_.end()) return;
  Running& running = found->second;
  Reply& reply = *running.reply;
  // Tokens that were posted before a cancel took effect still come.
  if (!reply.Runs(choice)) return;
  const auto now = Reply::Clock::now();
  ServeMetrics::Meter& meter = running.meters[choice];
  metrics_.OnToken(meter, now);
  reply.OnToken(choice, output);
  if (!reply.Runs(choice)) {  // a stop string
    if (options_.log != nullptr) options_.log->StopString({key, choice});
    metrics_.OnEnd(meter, meter.tokens, now);
    engine_.Cancel(reply.EngineId(choice));
  }
  if (reply.done()) EndReply(key);
}

void RequestDesk::OnFinish(uint64_t key, size_t choice, bool probe, const RequestResult& result) {
  if (!probe) metrics_.OnResult(result);
  if (options_.log != nullptr) options_.log->Finished({key, choice}, result);
  const auto found = running_.find(key);
  if (found == running_.end()) return;
  Reply& reply = *found->second.reply;
  if (!probe && reply.Runs(choice) && result.status.ok()) {
    metrics_.OnEnd(found->second.meters[choice], result.completion_tokens, Reply::Clock::now());
  }
  reply.OnFinish(choice, result);
  if (reply.done()) EndReply(key);
}

void RequestDesk::AnswerProbes(const TokenOutput& output) {
  for (const uint64_t key : std::exchange(probes_, {})) {
    const auto found = running_.find(key);
    if (found == running_.end()) continue;
    found->second.reply->OnToken(0, output);
    engine_.Cancel(found->second.reply->EngineId(0));
    EndReply(key);
  }
}

void RequestDesk::OnClose(uint64_t key) {
  const ApiError gone{.http_status = 499, .message = "the client closed the connection"};
  if (const auto found = waiting_.find(key); found != waiting_.end()) {
    ReportRefused(found->second, gone);
    waiting_.erase(found);
  } else if (const auto running = running_.find(key); running != running_.end()) {
    Reply& reply = *running->second.reply;
    for (size_t i = 0; i < reply.choices(); ++i) {
      if (reply.Runs(i) && !running->second.probe) metrics_.OnAbort();
    }
    reply.Abandon(gone);
    EndReply(key);
  }
}

void RequestDesk::OnDeadline(uint64_t key) {
  if (running_.contains(key)) {
    Fail(key, {.http_status = 503, .message = "the engine gave no sign of life in time"});
  }
}

void RequestDesk::AbortChoice(Running& running, size_t choice) {
  metrics_.OnAbort();
  running.reply->Abort(choice);
  engine_.Cancel(running.reply->EngineId(choice));
}

int64_t RequestDesk::Abort(const std::string& id) {
  int64_t count = 0;
  std::vector<uint64_t> done;
  for (auto& [key, running] : running_) {
    Reply& reply = *running.reply;
    const std::vector<std::string>& names = reply.plan().names;
    if (running.probe) continue;
    for (size_t i = 0; i < reply.choices(); ++i) {
      if (!reply.Runs(i) || (reply.id() != id && (names.empty() || names[i] != id))) continue;
      AbortChoice(running, i);
      ++count;
    }
    if (reply.done()) done.push_back(key);
  }
  for (const uint64_t key : done) EndReply(key);
  return count;
}

int64_t RequestDesk::AbortAll() {
  std::vector<uint64_t> keys;
  for (const auto& [key, waiting] : waiting_) {
    if (!waiting.intake->probe) keys.push_back(key);
  }
  auto count = static_cast<int64_t>(keys.size());
  for (const uint64_t key : keys) {
    metrics_.OnAbort();
    Refuse(key, {.http_status = 503, .message = "the request was aborted"});
  }
  std::vector<std::string> ids;
  for (const auto& [key, running] : running_) {
    if (!running.probe) ids.push_back(running.reply->id());
  }
  for (const std::string& id : ids) count += Abort(id);
  return count;
}

void RequestDesk::Fail(uint64_t key, const ApiError& error) {
  running_.at(key).reply->Fail(error);
  EndReply(key);
}

void RequestDesk::EndReply(uint64_t key) {
  const auto found = running_.find(key);
  // Taken out of the map before anything is called: on_report sees a request that has ended.
  const Running running = std::move(found->second);
  running_.erase(found);
  std::erase(probes_, key);
  // Unknown ids are ignored: no harm in naming those that have ended.
  const RequestReport report = running.reply->Report();
  if (report.http_status != 200) {
    for (size_t i = 0; i < running.reply->choices(); ++i) {
      engine_.Cancel(running.reply->EngineId(i));
    }
  }
  if (options_.on_report && !running.probe) options_.on_report(report);
}

void RequestDesk::CancelAll(const IoExecutor& executor) {
  executor.Post([this] {
    const ApiError error{.http_status = 503, .message = "the server is shutting down"};
    while (!running_.empty()) Fail(running_.begin()->first, error);
    while (!waiting_.empty()) Refuse(waiting_.begin()->first, error);
  });
}

}  // namespace causeway
