#include "router/router_core.h"

#include <strings.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "router/exchange.h"

namespace causeway {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Clock = Deadline::Clock;

constexpr auto kTick = std::chrono::milliseconds(50);
constexpr size_t kMaxIdBytes = 256;

auto Into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

double SecondsSince(Clock::time_point time) {
  return std::chrono::duration<double>(Clock::now() - time).count();
}

bool IsUsableId(const std::string& id) {
  return !id.empty() && id.size() <= kMaxIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

}  // namespace

HttpResponse RouterError(int status, const std::string& code, const std::string& message) {
  HttpResponse out{.status = status};
  out.headers.push_back({"X-SMG-Error-Code", code});
  if (status == 429 || status == 503) out.headers.push_back({"Retry-After", "1"});
  const nlohmann::ordered_json json = {
      {"error", {{"type", StatusText(status)}, {"code", code}, {"message", message}}}};
  // A message may repeat what a client sent, which need not be UTF-8.
  out.body = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return out;
}

void ClientCall::Send(HttpResponse response) {
  const std::string* code = FindHeader(response.headers, "x-smg-error-code");
  Count(response.status, code != nullptr ? *code : "");
  if (!id.empty()) response.headers.push_back({"X-Request-Id", id});
  responder.Send(std::move(response));
}

void ClientCall::Count(int status, const std::string& error_code) {
  core->metrics().HttpResponse(request.method, path, status, error_code, SecondsSince(start));
}

RouterCore::RouterCore(asio::io_context& io, const RouterOptions& options)
    : io_(io),
      options_(options),
      metrics_(options.pd_disaggregation ? "pd" : "regular"),
      sweep_(io),
      workers_(sweep_, options.upstream, options.breaker, options.health),
      gate_(options.gate, Clock::now()),
      timer_(io) {}

StatusOr<std::unique_ptr<RouterCore>> RouterCore::Make(asio::io_context& io,
                                                       const RouterOptions& options) {
  std::unique_ptr<RouterCore> core(new RouterCore(io, options));
  for (const WorkerType type : {WorkerType::kRegular, WorkerType::kPrefill, WorkerType::kDecode}) {
    // Each has trees of its own: prefill workers alone know prompts in whole.
    CAUSEWAY_ASSIGN_OR_RETURN(core->policies_[static_cast<size_t>(type)],
                              MakePolicy("--policy", core->PolicyName(type), options.policies));
  }
  for (const WorkerSpec& spec : options.workers) {
    CAUSEWAY_RETURN_IF_ERROR(core->AddWorker(spec).status());
  }
  return core;
}

const std::string& RouterCore::PolicyName(WorkerType type) const {
  const std::string& own = type == WorkerType::kPrefill  ? options_.prefill_policy
                           : type == WorkerType::kDecode ? options_.decode_policy
                                                         : options_.policy;
  return own.empty() ? options_.policy : own;
}

void RouterCore::Start() { asio::co_spawn(io_, Loop(), asio::detached); }

void RouterCore::Stop() {
  draining_ = true;
  stopping_ = true;
  timer_.cancel();
}

asio::awaitable<void> RouterCore::Loop() {
  while (!(stopping_ && sweep_.calls() == 0 && exchanges_.empty())) {
    const WorkerTime now = Clock::now();
    if (stopping_) {
      sweep_.CancelAll();
      // Wakes them only: they end, and leave the map, later.
      for (const auto& [number, exchange] : exchanges_) exchange->Gone();
    } else {
      StartChecks(now);
    }
    sweep_.Sweep(now);
    RunGate(now);
    LogBreakers(now);
    workers_.Reap();
    error_code ignored;
    timer_.expires_after(kTick);
    co_await timer_.async_wait(Into(ignored));
  }
  for (const auto& worker : workers_.all()) worker->upstream.KeepNone();
}

void RouterCore::RunGate(WorkerTime now) {
  for (const uint64_t number : gate_.Expire(now)) {
    if (Exchange* exchange = Find(number)) exchange->QueuedTooLong();
  }
  for (const uint64_t number : gate_.Admit(now)) {
    if (Exchange* exchange = Find(number)) {
      exchange->Admitted();
    } else {
      gate_.Leave();
    }
  }
}

void RouterCore::LeaveGate() {
  gate_.Leave();
  RunGate(Clock::now());
}

void RouterCore::LogBreakers(WorkerTime now) {
  for (const auto& worker : workers_.all()) {
    const CircuitBreaker::State state = worker->breaker.state(now);
    if (state == worker->logged_state) continue;
    metrics_.BreakerTransition(worker->spec.url, NameOf(worker->logged_state), NameOf(state));
    LogLine("circuit_breaker")
        .Add("worker", worker->spec.url)
        .Add("from", NameOf(worker->logged_state))
        .Add("to", NameOf(state));
    worker->logged_state = state;
  }
}

void RouterCore::StartChecks(WorkerTime now) {
  if (options_.health.disabled) return;
  for (const auto& worker : workers_.all()) {
    if (worker->checking || now < worker->next_check) continue;
    worker->checking = true;
    asio::co_spawn(io_, Check(*worker), asio::detached);
  }
}

asio::awaitable<void> RouterCore::Check(Worker& worker) {
  const WorkerUse use(worker);
  const HealthOptions& health = options_.health;
  const std::string authorization = AuthorizationFor(worker, nullptr);
  std::string head =
      Text("GET ", health.endpoint, " HTTP/1.1\r\nHost: ", worker.upstream.authority(), "\r\n");
  if (!authorization.empty()) head += Text("Authorization: ", authorization, "\r\n");
  head += "\r\n";
  std::string why;
  {
    UpstreamCall call(worker.upstream, health.timeout_ms);
    call.EndWithin(health.timeout_ms);
    Status status = co_await call.Send(head, "");
    if (status.ok()) {
      const StatusOr<UpstreamHead> answer = co_await call.ReadHead();
      status = answer.status();
      if (answer.ok() && answer->status / 100 != 2) {
        why = Text(health.endpoint, " answered ", answer->status);
      }
      // For the connection to be kept; a body that fails says nothing more.
      std::string body;
      bool more = status.ok() && !call.complete();
      while (more) {
        const Status read = co_await call.ReadSome(body);
        more = read.ok() && !body.empty();
      }
    }
    if (!status.ok()) why = status.message();
  }
  worker.checking = false;
  if (stopping_) co_return;
  const bool good = why.empty();
  const WorkerHealth::State before = worker.health.state();
  const bool changed = worker.health.Report(good);
  metrics_.HealthCheck(worker.spec.url, good);
  const int64_t pause = worker.health.up() ? health.interval_ms
                                           : std::min(health.interval_ms, health.retry_interval_ms);
  worker.next_check = Clock::now() + std::chrono::milliseconds(pause);
  if (changed) {
    LogLine(worker.health.up() ? "worker_up" : "worker_down")
        .Add("worker", worker.spec.url)
        .Add("type", NameOf(worker.spec.type))
        .Add("why", good ? "its health checks are good" : why);
  } else if (before == WorkerHealth::State::kStarting && !worker.late &&
             SecondsSince(worker.added_at) * 1000 >=
                 static_cast<double>(health.startup_timeout_ms)) {
    worker.late = true;
    LogLine("worker_late")
        .Add("worker", worker.spec.url)
        .Add("worker_startup_timeout_secs", health.startup_timeout_ms / 1000)
        .Add("why", why);
  }
}

Worker* RouterCore::Pick(const WorkerType* type, std::string_view prefix,
                         const std::vector<uint64_t>& tried) {
  const WorkerTime now = Clock::now();
  std::vector<Worker*> workers;
  std::vector<Candidate> candidates;
  // First without those that were tried; where none is left, with them.
  for (const bool again : {false, true}) {
    for (const auto& worker : workers_.all()) {
      if (type != nullptr && worker->spec.type != *type) continue;
      if (!worker->Available(now)) continue;
      const bool was_tried = std::find(tried.begin(), tried.end(), worker->number) != tried.end();
      if (was_tried != again) continue;
      workers.push_back(worker.get());
      candidates.push_back({.worker = worker->number, .requests = worker->requests});
    }
    if (!workers.empty()) break;
  }
  if (workers.empty()) return nullptr;
  if (type == nullptr) return workers[random_() % workers.size()];
  metrics_.Selected(NameOf(*type), PolicyName(*type));
  return workers[PolicyOf(*type).Pick(candidates, prefix)];
}

std::string RouterCore::WhyNone(const WorkerType* type) const {
  const WorkerTime now = Clock::now();
  int known = 0;
  int unhealthy = 0;
  int open = 0;
  for (const auto& worker : workers_.all()) {
    if (type != nullptr && worker->spec.type != *type) continue;
    ++known;
    if (!worker->health.up()) {
      ++unhealthy;
    } else if (!worker->breaker.Allows(now)) {
      ++open;
    }
  }
  return Text("no ", type != nullptr ? Text(NameOf(*type), " ") : "",
              "worker can take the request: ", known, " known, ", unhealthy, " not healthy, ", open,
              " behind an open circuit breaker; see /workers");
}

bool RouterCore::Ready() const {
  const WorkerTime now = Clock::now();
  bool have[3] = {false, false, false};
  for (const auto& worker : workers_.all()) {
    if (worker->Available(now)) have[static_cast<size_t>(worker->spec.type)] = true;
  }
  if (draining_) return false;
  return options_.pd_disaggregation ? have[1] && have[2] : have[0];
}

StatusOr<Worker*> RouterCore::AddWorker(const WorkerSpec& spec) {
  const bool fits = options_.pd_disaggregation == (spec.type != WorkerType::kRegular);
  if (!fits) {
    return InvalidArgument(
        options_.pd_disaggregation
            ? "worker_type is regular; this router has --pd-disaggregation: expected prefill or "
              "decode"
            : Text("worker_type is ", NameOf(spec.type),
                   "; expected regular, as this router runs without --pd-disaggregation"));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(Worker * worker, workers_.Add(spec));
  LogLine line("worker_added");
  line.Add("worker", worker->spec.url).Add("id", worker->id).Add("type", NameOf(spec.type));
  if (spec.type == WorkerType::kPrefill) {
    line.Add("bootstrap_port", spec.bootstrap_port ? Text(*spec.bootstrap_port) : "none");
  }
  return worker;
}

void RouterCore::RemoveWorker(Worker* worker) {
  LogLine("worker_removed").Add("worker", worker->spec.url).Add("requests", worker->requests);
  PolicyOf(worker->spec.type).Forget(worker->number);
  workers_.Remove(worker);
}

std::vector<WorkerSample> RouterCore::Samples() const {
  const WorkerTime now = Clock::now();
  std::vector<WorkerSample> out;
  for (const auto& worker : workers_.all()) {
    out.push_back({.url = worker->spec.url,
                   .type = NameOf(worker->spec.type),
                   .up = worker->health.up(),
                   .breaker_state = static_cast<int>(worker->breaker.state(now)),
                   .failures = worker->breaker.failures(),
                   .successes = worker->breaker.successes(),
                   .requests = worker->requests});
  }
  return out;
}

std::string RouterCore::AuthorizationFor(const Worker& worker, const HttpRequest* request) const {
  for (const std::string* key :
       {&worker.spec.api_key, &options_.worker_api_key, &options_.api_key}) {
    if (!key->empty()) return "Bearer " + *key;
  }
  const std::string* own =
      request == nullptr ? nullptr : FindHeader(request->headers, "authorization");
  return own != nullptr ? *own : "";
}

std::string RouterCore::RequestId(const HttpRequest& request, const char* kind) {
  for (const std::string& name : options_.request_id_headers) {
    const std::string* id = FindHeader(request.headers, name);
    if (id != nullptr && IsUsableId(*id)) return *id;
  }
  constexpr std::string_view kLetters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  std::string out = kind;
  for (int i = 0; i < 24; ++i) out += kLetters[random_() % kLetters.size()];
  return out;
}

uint64_t RouterCore::Register(Exchange* exchange) {
  exchanges_[++last_number_] = exchange;
  return last_number_;
}

Exchange* RouterCore::Find(uint64_t number) const {
  const auto found = exchanges_.find(number);
  return found == exchanges_.end() ? nullptr : found->second;
}

}  // namespace causeway
