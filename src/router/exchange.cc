#include "router/exchange.h"

#include <strings.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/log.h"
#include "router/json_scan.h"

namespace causeway {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Clock = Deadline::Clock;

constexpr size_t kMaxErrorBytes = 1 << 20;    // of a worker's error that is passed on
constexpr size_t kGatherBytes = 4 << 20;      // of an answer that is no stream: beyond, as it comes
constexpr size_t kMaxMergeBytes = 512 << 20;  // of one into which logprobs go
constexpr size_t kRoomBytes = 256 << 10;      // unread by the client: beyond, its worker waits
constexpr size_t kPrefillStart = 4096;        // of a prefill answer, looked at for an error
constexpr int64_t kPrefillGraceMs = 10'000;   // for its end, after that of the decode answer
constexpr int64_t kForever = int64_t{1} << 40;

auto Into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

double SecondsSince(Clock::time_point time) {
  return std::chrono::duration<double>(Clock::now() - time).count();
}

template <size_t N>
bool IsAmong(const std::string& name, const std::array<const char*, N>& names) {
  return std::any_of(names.begin(), names.end(),
                     [&name](const char* one) { return strcasecmp(name.c_str(), one) == 0; });
}

// Those that belong to one connection, or that the router sets itself (RFC 9110, section 7.6.1).
bool PassesToWorkers(const std::string& name) {
  static constexpr std::array kOwn = {"connection",
                                      "keep-alive",
                                      "proxy-authenticate",
                                      "proxy-authorization",
                                      "proxy-connection",
                                      "te",
                                      "trailer",
                                      "transfer-encoding",
                                      "upgrade",
                                      "host",
                                      "content-length",
                                      "expect",
                                      "accept-encoding",
                                      "authorization",
                                      "x-request-id"};
  return !IsAmong(name, kOwn);
}

bool PassesToClients(const std::string& name) {
  static constexpr std::array kOwn = {
      "connection",        "keep-alive", "proxy-connection", "trailer",      "upgrade",
      "transfer-encoding", "date",       "content-length",   "content-type", "x-request-id"};
  return !IsAmong(name, kOwn);
}

HttpResponse ToClient(const UpstreamHead& head) {
  HttpResponse out{.status = head.status, .content_type = ""};
  for (const HttpHeader& header : head.headers) {
    if (strcasecmp(header.name.c_str(), "content-type") == 0) {
      out.content_type = header.value;
    } else if (PassesToClients(header.name)) {
      out.headers.push_back(header);
    }
  }
  return out;
}

// The whole rest of a body, up to `most` bytes.
asio::awaitable<Status> ReadAll(UpstreamCall& call, size_t most, std::string& out) {
  std::string piece;
  for (;;) {
    Status status = co_await call.ReadSome(piece);
    if (!status.ok() || piece.empty() || out.size() + piece.size() > most) co_return status;
    out += piece;
  }
}

// Events of a piece of a stream that is cut anywhere: the blank lines that end them.
class EventCounter {
 public:
  void Add(std::string_view piece) {
    for (const char c : piece) {
      if (c == '\r') continue;
      if (c == '\n' && last_ == '\n') ++events_;
      last_ = c;
    }
  }
  int64_t events() const { return events_; }

 private:
  char last_ = '\n';
  int64_t events_ = 0;
};

// The data of a stream's first event, which begins with "data:".
std::string EventData(std::string_view stream) {
  return std::string(stream.substr(5, stream.find('\n') - 5));
}

// What a worker says in place of a first event where it fails after it has sent 200; the status
// within, or 0 for what is no error.
int ErrorEventStatus(std::string_view stream) {
  if (!stream.starts_with("data:")) return 0;
  std::string_view data = stream.substr(5, stream.find('\n') - 5);
  int status = 0;
  const JsonProblem problem = ScanObject(data, [&status](const JsonMember& member) {
    if (!IsKey(member.key, "error") || member.value == "null") return;
    status = 500;
    const JsonProblem none = ScanObject(member.value, [&status](const JsonMember& inner) {
      if (!IsKey(inner.key, "code")) return;
      int code = 0;
      std::from_chars(inner.value.data(), inner.value.data() + inner.value.size(), code);
      if (code >= 400 && code < 600) status = code;
    });
    if (none) status = 500;
  });
  return problem ? 0 : status;
}

const char* ErrorName(const Status& status) {
  switch (status.code()) {
    case StatusCode::kDeadlineExceeded:
      return "timeout";
    case StatusCode::kInternal:
      return "invalid_answer";
    default:
      return "connection";
  }
}

HttpResponse ErrorFor(const Status& status, const char* worker_type) {
  const bool late = status.code() == StatusCode::kDeadlineExceeded;
  return RouterError(late ? 504 : 502, Text(worker_type, late ? "_timeout" : "_server_error"),
                     Text("the ", worker_type, " worker failed: ", status.message()));
}

// Method, target and headers for a worker.
std::string HeadFor(const RouterCore& core, const Worker& worker, const ClientCall& call,
                    const char* path, const std::string& common, size_t body_bytes) {
  std::string out = call.request.method + " " + path;
  if (!call.request.query.empty()) out += "?" + call.request.query;
  out += " HTTP/1.1\r\nHost: " + worker.upstream.authority() + "\r\n" + common;
  const std::string authorization = core.AuthorizationFor(worker, &call.request);
  if (!authorization.empty()) out += "Authorization: " + authorization + "\r\n";
  out += "Content-Length: " + std::to_string(body_bytes) + "\r\n\r\n";
  return out;
}

// What the prefill half came to, once its call has ended. `status`: of the call; `answer`: of HTTP,
// with the body in leg.answer.
void JudgePrefill(PrefillLeg& leg, const Status& status, const UpstreamHead& answer) {
  const Worker& worker = leg.lease->worker();
  const char* type = NameOf(worker.spec.type);
  RouterMetrics& metrics = leg.core.metrics();
  if (status.code() == StatusCode::kCancelled) return;  // nobody wants it any more
  if (!status.ok()) {
    leg.failure = ErrorFor(status, type);
    metrics.WorkerError(type, ErrorName(status));
    metrics.BreakerOutcome(worker.spec.url, false);
    leg.lease->Failed();
    return;
  }
  metrics.Answered(leg.labels, answer.status);
  const int event_status = answer.status < 400 ? ErrorEventStatus(leg.answer) : 0;
  const int judged = event_status != 0 ? event_status : answer.status;
  metrics.BreakerOutcome(worker.spec.url, !IsWorkerFailure(judged));
  if (IsWorkerFailure(judged)) {
    leg.lease->Failed();
    metrics.WorkerError(type, "status");
  } else {
    leg.lease->Succeeded();
  }
  if (event_status != 0) {
    leg.failure = HttpResponse{.status = event_status};
    leg.failure->body = EventData(leg.answer);
  } else if (answer.status >= 400) {
    leg.failure = ToClient(answer);
    leg.failure->body = leg.answer;
  }
}

// Reads the answer of the prefill half to its end.
asio::awaitable<void> RunPrefill(std::shared_ptr<PrefillLeg> leg) {
  UpstreamHead answer;
  Status status = co_await leg->call->Send(leg->head, *leg->body);
  if (status.ok()) {
    StatusOr<UpstreamHead> head = co_await leg->call->ReadHead();
    status = head.status();
    if (head.ok()) answer = *std::move(head);
  }
  const size_t most = leg->keep              ? kMaxMergeBytes
                      : answer.status >= 400 ? kMaxErrorBytes
                                             : kPrefillStart;
  std::string piece;
  bool more = status.ok();
  while (more) {
    status = co_await leg->call->ReadSome(piece);
    more = status.ok() && !piece.empty();
    if (leg->answer.size() + piece.size() <= most) leg->answer += piece;
    // An error, which is short, needs no end of the stream to be one.
    if (more && leg->answer.size() <= kPrefillStart && ErrorEventStatus(leg->answer) != 0) {
      more = false;
    }
  }
  JudgePrefill(*leg, status, answer);
  leg->done = true;
  leg->call.reset();
  leg->lease.reset();
  if (leg->owner != nullptr) leg->owner->PrefillEnded();
}

asio::awaitable<void> RunExchange(std::unique_ptr<Exchange> exchange) { co_await exchange->Run(); }

}  // namespace

void StartExchange(const Passage& passage, ClientCall call) {
  asio::io_context& io = call.core->io();
  asio::co_spawn(io, RunExchange(std::make_unique<Exchange>(passage, std::move(call))),
                 asio::detached);
}

Exchange::Exchange(const Passage& passage, ClientCall call)
    : core_(*call.core),
      passage_(passage),
      call_(std::move(call)),
      number_(core_.Register(this)),
      wake_(core_.io()) {}

Exchange::~Exchange() {
  EndPrefill(false);
  core_.Unregister(number_);
  core_.gate().GiveUp(number_);
  if (in_gate_) core_.LeaveGate();
}

void Exchange::Admitted() {
  admitted_ = true;
  in_gate_ = true;
  wake_.cancel();
}

void Exchange::QueuedTooLong() {
  late_ = true;
  wake_.cancel();
}

void Exchange::Gone() {
  gone_ = true;
  if (upstream_ != nullptr) upstream_->Cancel();
  if (prefill_ && prefill_->call) prefill_->call->Cancel();
  wake_.cancel();
}

void Exchange::PrefillEnded() {
  // Nothing will come of the decode half either; what has been passed on must end by itself.
  if (PrefillFailed() && upstream_ != nullptr && !begun_) upstream_->Cancel();
  wake_.cancel();
}

asio::awaitable<void> Exchange::Sleep(int64_t ms) {
  wake_.expires_after(std::chrono::milliseconds(ms));
  error_code ignored;
  co_await wake_.async_wait(Into(ignored));
}

asio::awaitable<void> Exchange::AwaitPrefill() {
  while (merging() && !prefill_->done && !over()) co_await Sleep(kForever);
}

asio::awaitable<void> Exchange::AwaitRoom() {
  while (!over() && call_.responder.unsent() > 0) {
    call_.responder.OnSent([core = &core_, number = number_] {
      if (Exchange* exchange = core->Find(number)) exchange->Sent();
    });
    co_await Sleep(kForever);
  }
}

asio::awaitable<void> Exchange::Run() {
  labels_.endpoint = passage_.name;
  call_.id = core_.RequestId(call_.request, passage_.id_prefix);
  original_ = std::make_shared<const std::string>(std::move(call_.request.body));
  StatusOr<RequestFacts> facts = ReadFacts(passage_.kind, *original_);
  if (!facts.ok()) {
    Answer(RouterError(400, "invalid_request", facts.status().message()));
  } else {
    facts_ = *std::move(facts);
    labels_.model = facts_.model;
    labels_.stream = facts_.stream;
    for (const HttpHeader& header : call_.request.headers) {
      if (PassesToWorkers(header.name)) {
        common_head_ += header.name + ": " + header.value + "\r\n";
      }
    }
    common_head_ += "X-Request-Id: " + call_.id + "\r\n";
    call_.responder.OnClose([core = &core_, number = number_] {
      if (Exchange* exchange = core->Find(number)) exchange->Gone();
    });
    core_.metrics().Begun(labels_);
    const bool passed = co_await PassGate();
    if (passed) co_await TryAll();
    core_.metrics().Ended(labels_, SecondsSince(call_.start),
                          status_ < 400 && error_.empty() ? ""
                          : error_.empty()                ? Text("http_", status_)
                                                          : error_);
  }
  Log();
}

asio::awaitable<bool> Exchange::PassGate() {
  RequestGate::Verdict verdict = RequestGate::Verdict::kFull;
  if (core_.draining()) {
    Answer(RouterError(503, "shutting_down", "the router is shutting down; ask another one"));
    co_return false;
  }
  verdict = core_.gate().Enter(number_, Clock::now());
  if (verdict == RequestGate::Verdict::kGo) in_gate_ = true;
  if (verdict == RequestGate::Verdict::kFull) {
    core_.metrics().RateLimit("rejected");
    Answer(RouterError(429, "rate_limited",
                       "the router has as many requests under way and waiting as it may "
                       "(--max-concurrent-requests, --rate-limit-tokens-per-second, "
                       "--queue-size); try again later"));
    co_return false;
  }
  if (verdict == RequestGate::Verdict::kWait) {
    while (!admitted_ && !late_ && !over()) co_await Sleep(kForever);
  }
  if (late_) {
    core_.metrics().RateLimit("timeout");
    Answer(RouterError(408, "queue_timeout",
                       Text("the request waited for ", core_.options().gate.queue_timeout_ms,
                            " ms and found no place among those under way "
                            "(--queue-timeout-secs)")));
    co_return false;
  }
  if (over()) co_return false;
  core_.metrics().RateLimit("allowed");
  co_return true;
}

asio::awaitable<void> Exchange::TryAll() {
  const RetryOptions& retry = core_.options().retry;
  Outcome outcome;
  for (;;) {
    Outcome next;
    // Where no worker is left for one more try, the last one's answer says more.
    if (!Choose(next)) {
      Answer(tries_ == 0 ? std::move(next.error) : std::move(outcome.error));
      co_return;
    }
    ++tries_;
    if (prefill_worker_ != nullptr) StartPrefill();
    co_await Converse(next);
    outcome = std::move(next);
    EndPrefill(outcome.answered && !over());
    if (outcome.answered || over()) co_return;
    if (!outcome.retryable || tries_ >= retry.max_retries) {
      if (outcome.retryable && tries_ > 1) core_.metrics().RetriesExhausted(labels_);
      Answer(std::move(outcome.error));
      co_return;
    }
    const double chance = static_cast<double>(core_.random()() >> 11) * 0x1p-53;
    const int64_t pause = BackoffMs(retry, tries_, chance);
    core_.metrics().Retried(labels_, tries_, static_cast<double>(pause) / 1000);
    const auto until = Clock::now() + std::chrono::milliseconds(pause);
    while (Clock::now() < until && !over()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
      co_await Sleep(left.count());
    }
    if (over()) co_return;
  }
}

bool Exchange::Choose(Outcome& outcome) {
  static constexpr WorkerType kTypes[] = {WorkerType::kPrefill, WorkerType::kDecode,
                                          WorkerType::kRegular};
  const bool pd = core_.options().pd_disaggregation;
  const bool pair = pd && passage_.kind != RequestKind::kOther;
  // What needs no pair any worker can do.
  const WorkerType* type = pair ? &kTypes[1] : pd ? nullptr : &kTypes[2];
  prefill_worker_ = nullptr;
  const auto none = [&](const WorkerType* missing) {
    outcome.error = RouterError(503, "no_worker_available", core_.WhyNone(missing));
    return false;
  };
  if (pair) {
    prefill_worker_ = core_.Pick(&kTypes[0], facts_.prefix, tried_);
    if (prefill_worker_ == nullptr) return none(&kTypes[0]);
  }
  worker_ = core_.Pick(type, facts_.prefix, tried_);
  if (worker_ == nullptr) return none(type);
  tried_.push_back(worker_->number);
  body_ = original_;
  if (!pair) return true;
  tried_.push_back(prefill_worker_->number);
  // Another room for each try: what is left of the last one must not meet this one.
  std::vector<uint64_t> rooms(facts_.batch.value_or(1));
  for (uint64_t& room : rooms) room = core_.random()() >> 1;
  const std::string& host = prefill_worker_->upstream.address().host;
  const bool v6 = host.find(':') != std::string::npos;
  body_ = std::make_shared<const std::string>(WithBootstrap(
      *original_, facts_,
      {.host = v6 ? "[" + host + "]" : host, .port = prefill_worker_->spec.bootstrap_port}, rooms));
  return true;
}

void Exchange::StartPrefill() {
  prefill_ = std::make_shared<PrefillLeg>(*prefill_worker_, core_, this);
  prefill_->labels = labels_;
  prefill_->body = body_;
  prefill_->head =
      HeadFor(core_, *prefill_worker_, call_, passage_.path, common_head_, body_->size());
  prefill_->keep = passage_.kind == RequestKind::kGenerate && facts_.return_logprob;
  asio::co_spawn(core_.io(), RunPrefill(prefill_), asio::detached);
}

void Exchange::EndPrefill(bool went_well) {
  if (!prefill_) return;
  prefill_->owner = nullptr;
  if (prefill_->call) {
    if (went_well) {
      prefill_->call->EndWithin(kPrefillGraceMs);
    } else {
      prefill_->call->Cancel();
    }
  }
  prefill_.reset();
}

asio::awaitable<void> Exchange::Converse(Outcome& outcome) {
  WorkerLease lease(*worker_);
  UpstreamCall call(worker_->upstream);
  upstream_ = &call;
  const std::string head =
      HeadFor(core_, *worker_, call_, passage_.path, common_head_, body_->size());
  UpstreamHead answer;
  Status status = co_await call.Send(head, *body_);
  if (status.ok()) {
    StatusOr<UpstreamHead> read = co_await call.ReadHead();
    status = read.status();
    if (read.ok()) answer = *std::move(read);
  }
  if (!status.ok()) {
    outcome = FailedBy(status, lease);
  } else if (answer.status >= 400) {
    core_.metrics().Answered(labels_, answer.status);
    HttpResponse error = ToClient(answer);
    // What can't be read of an error is left out of it.
    [[maybe_unused]] const Status read = co_await ReadAll(call, kMaxErrorBytes, error.body);
    outcome = RefusedWith(std::move(error), lease);
  } else {
    core_.metrics().Answered(labels_, answer.status);
    co_await PassOn(answer, lease, outcome);
  }
  upstream_ = nullptr;
}

Exchange::Outcome Exchange::OutcomeOf(HttpResponse error) const {
  const bool retryable = IsRetryable(error.status);
  return {.answered = false, .error = std::move(error), .retryable = retryable};
}

Exchange::Outcome Exchange::RefusedWith(HttpResponse error, WorkerLease& lease) {
  if (IsWorkerFailure(error.status)) {
    // Its own, or what the failed prefill half has led to.
    Outcome failed = FailedBy(Unavailable(Text("status ", error.status)), lease);
    return failed.answered || PrefillFailed() ? std::move(failed) : OutcomeOf(std::move(error));
  }
  lease.Succeeded();
  core_.metrics().BreakerOutcome(worker_->spec.url, true);
  return OutcomeOf(PrefillFailed() ? *prefill_->failure : std::move(error));
}

Exchange::Outcome Exchange::FailedBy(const Status& status, WorkerLease& lease) {
  if (over()) return {.answered = true};
  if (PrefillFailed()) return OutcomeOf(*prefill_->failure);
  const Worker& worker = lease.worker();
  const char* type = NameOf(worker.spec.type);
  lease.Failed();
  core_.metrics().WorkerError(type, ErrorName(status));
  core_.metrics().BreakerOutcome(worker.spec.url, false);
  return OutcomeOf(ErrorFor(status, type));
}

asio::awaitable<void> Exchange::PassOn(const UpstreamHead& head, WorkerLease& lease,
                                       Outcome& outcome) {
  HttpResponse response = ToClient(head);
  const bool events = response.content_type.starts_with("text/event-stream");
  std::string body;
  Status status = co_await upstream_->ReadSome(body);
  // Nothing of a stream is passed on before its first event: until then another pair may do better.
  if (status.ok() && events && !body.empty()) {
    if (const int error_status = ErrorEventStatus(body)) {
      HttpResponse error{.status = error_status, .headers = std::move(response.headers)};
      error.body = EventData(body);
      outcome = RefusedWith(std::move(error), lease);
      co_return;
    }
    co_await AwaitPrefill();
    if (over() || PrefillFailed()) {
      outcome = FailedBy(status, lease);
      co_return;
    }
    outcome.answered = true;
    co_await PassStream(std::move(response), std::move(body), true, lease);
    co_return;
  }
  const size_t most = merging() ? kMaxMergeBytes : kGatherBytes;
  std::string piece = body;
  while (status.ok() && !piece.empty() && body.size() < most) {
    status = co_await upstream_->ReadSome(piece);
    body += piece;
  }
  co_await AwaitPrefill();
  if (!status.ok() || over() || PrefillFailed()) {
    outcome = FailedBy(status, lease);
    co_return;
  }
  outcome.answered = true;
  if (!piece.empty()) {
    co_await PassStream(std::move(response), std::move(body), false, lease);
    co_return;
  }
  lease.Succeeded();
  core_.metrics().BreakerOutcome(worker_->spec.url, true);
  response.body = std::move(body);
  if (merging()) {
    response.body = MergeAnswer(std::move(response.body),
                                ReadPromptLogprobs(prefill_->answer, /*stream=*/false));
  }
  Answer(std::move(response));
}

asio::awaitable<void> Exchange::PassStream(HttpResponse head, std::string piece, bool events,
                                           WorkerLease& lease) {
  begun_ = true;
  status_ = head.status;
  const auto first = Clock::now();
  if (facts_.stream) core_.metrics().FirstByte(labels_, SecondsSince(call_.start));
  // Whole events only: what is left of one that breaks off can't be read, and an error follows it.
  std::optional<EventMerger> merger;
  if (events) {
    merger.emplace(merging() ? ReadPromptLogprobs(prefill_->answer, /*stream=*/true)
                             : PromptLogprobs{});
  }
  head.headers.push_back({"X-Request-Id", call_.id});
  call_.responder.Begin(std::move(head));
  EventCounter counter;
  while (!piece.empty()) {
    if (events) counter.Add(piece);
    std::string ready = merger ? merger->Add(piece) : std::move(piece);
    if (!ready.empty()) call_.responder.Write(std::move(ready));
    // A client that reads slowly slows its own worker only, not the memory's end.
    if (call_.responder.unsent() > kRoomBytes) co_await AwaitRoom();
    if (over()) co_return;
    Status status = co_await upstream_->ReadSome(piece);
    if (over()) co_return;
    if (status.ok() && merger && merger->too_long()) {
      status = InternalError("an event of the stream has no end");
    }
    if (!status.ok()) {
      const Outcome failed = FailedBy(status, lease);
      BreakOff(status, events);
      co_return;
    }
  }
  if (std::string rest = merger ? merger->Rest() : ""; !rest.empty()) {
    call_.responder.Write(std::move(rest));
  }
  call_.responder.End();
  lease.Succeeded();
  core_.metrics().BreakerOutcome(worker_->spec.url, true);
  if (facts_.stream) {
    core_.metrics().Generated(labels_, SecondsSince(first), counter.events());
  }
  call_.Count(status_);
}

void Exchange::BreakOff(const Status& status, bool events) {
  error_ = "stream_broken";
  call_.Count(status_, error_);
  if (!events) {
    // Nothing can be said within it: the connection is cut, so that the part is not taken for the
    // whole.
    const HttpResponder dropped = std::move(call_.responder);
    return;
  }
  const HttpResponse error = ErrorFor(status, NameOf(worker_->spec.type));
  call_.responder.Write(Text("data: ", error.body, "\n\n"));
  call_.responder.EndAndClose();
}

void Exchange::Answer(HttpResponse response) {
  status_ = response.status;
  if (const std::string* code = FindHeader(response.headers, "x-smg-error-code")) error_ = *code;
  call_.Send(std::move(response));
}

void Exchange::Log() const {
  if (!core_.options().log_requests && status_ < 500 && error_.empty()) return;
  LogLine line("request");
  line.Add("id", call_.id).Add("path", passage_.path).Add("status", status_);
  if (!error_.empty()) line.Add("error", error_);
  if (gone_ && !begun_) line.Add("client", "gone");
  line.Add("tries", tries_).AddSeconds("seconds", SecondsSince(call_.start));
}

}  // namespace causeway
