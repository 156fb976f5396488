// What the router's handlers share on the io thread: workers, policies, limits, counts, and the
// loop that checks deadlines and health.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "net/http_server.h"
#include "router/policy.h"
#include "router/request_gate.h"
#include "router/retry.h"
#include "router/router_metrics.h"
#include "router/worker.h"

namespace causeway {

struct RouterOptions {
  HttpServerOptions http;
  // Requests go to a prefill and a decode worker at once; else to a regular one.
  bool pd_disaggregation = false;
  std::vector<WorkerSpec> workers;
  std::string policy = "cache_aware";
  // Empty: as policy.
  std::string prefill_policy;
  std::string decode_policy;
  PolicyOptions policies;
  RetryOptions retry;
  BreakerOptions breaker;
  HealthOptions health;
  GateOptions gate;
  UpstreamOptions upstream;
  // What clients must send, and what workers get; empty: everybody may ask, and workers get what
  // the client sent.
  std::string api_key;
  // What workers get instead; empty: api_key.
  std::string worker_api_key;
  // Where clients' names for their requests are looked for, in this order.
  std::vector<std::string> request_id_headers = {"x-request-id", "x-correlation-id", "x-trace-id",
                                                 "request-id"};
  bool log_requests = true;  // all; else only those that failed
};

// {"error": {"type": ..., "code": ..., "message": ...}}, as SGLang's router answers.
HttpResponse RouterError(int status, const std::string& code, const std::string& message);

class Exchange;
class RouterCore;

// A client's request and the duty to answer it.
struct ClientCall {
  RouterCore* core = nullptr;
  HttpRequest request;
  HttpResponder responder;
  const char* path = "";  // of the route, for metrics
  std::string id;         // the request's name
  Deadline::Clock::time_point start = Deadline::Clock::now();

  // The whole answer, counted.
  void Send(HttpResponse response);
  // Counts an answer that was streamed.
  void Count(int status, const std::string& error_code = "");
};

class RouterCore {
 public:
  // Makes all workers; fails for one that can't be.
  static StatusOr<std::unique_ptr<RouterCore>> Make(boost::asio::io_context& io,
                                                    const RouterOptions& options);

  // The loop; runs until Stop, and then until the last call has ended.
  void Start();
  void StartDraining() { draining_ = true; }
  // Ends all that is under way.
  void Stop();
  bool draining() const { return draining_; }
  bool stopping() const { return stopping_; }

  const RouterOptions& options() const { return options_; }
  boost::asio::io_context& io() const { return io_; }
  WorkerList& workers() { return workers_; }
  const WorkerList& workers() const { return workers_; }
  RequestGate& gate() { return gate_; }
  RouterMetrics& metrics() { return metrics_; }
  std::mt19937_64& random() { return random_; }

  // The policy's choice among the available workers of the type, if possible none of `tried`; null:
  // none is available. With a null `type`: any worker, by chance.
  Worker* Pick(const WorkerType* type, std::string_view prefix, const std::vector<uint64_t>& tried);
  // Why Pick has found none.
  std::string WhyNone(const WorkerType* type) const;
  // Whether a request could be passed on now.
  bool Ready() const;
  const std::string& PolicyName(WorkerType type) const;

  StatusOr<Worker*> AddWorker(const WorkerSpec& spec);
  void RemoveWorker(Worker* worker);
  std::vector<WorkerSample> Samples() const;

  // What a worker is sent as Authorization; empty: nothing.
  std::string AuthorizationFor(const Worker& worker, const HttpRequest* request) const;
  // The client's name for the request, or a new one that begins with `kind`.
  std::string RequestId(const HttpRequest& request, const char* kind);

  // The requests that are passed on, by numbers that are never used twice.
  uint64_t Register(Exchange* exchange);
  void Unregister(uint64_t number) { exchanges_.erase(number); }
  size_t under_way() const { return exchanges_.size(); }
  Exchange* Find(uint64_t number) const;  // null: it has ended
  // A request that has passed the gate has ended.
  void LeaveGate();

 private:
  RouterCore(boost::asio::io_context& io, const RouterOptions& options);

  boost::asio::awaitable<void> Loop();
  boost::asio::awaitable<void> Check(Worker& worker);
  void StartChecks(WorkerTime now);
  void RunGate(WorkerTime now);
  void LogBreakers(WorkerTime now);
  Policy& PolicyOf(WorkerType type) { return *policies_[static_cast<size_t>(type)]; }

  boost::asio::io_context& io_;
  const RouterOptions options_;
  RouterMetrics metrics_;
  UpstreamSweep sweep_;
  WorkerList workers_;
  std::unique_ptr<Policy> policies_[3];  // by WorkerType
  std::mt19937_64 random_{std::random_device{}()};
  RequestGate gate_;
  boost::asio::steady_timer timer_;
  bool draining_ = false;
  bool stopping_ = false;
  uint64_t last_number_ = 0;
  std::unordered_map<uint64_t, Exchange*> exchanges_;
};

}  // namespace causeway
