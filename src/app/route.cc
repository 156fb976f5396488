// causeway route: the router before several servers, until a signal says stop.
#include "app/blocked_signals.h"
#include "app/command.h"
#include "app/route_flags.h"
#include "base/log.h"
#include "router/router.h"

namespace causeway {
namespace {

constexpr int64_t kPollMs = 100;
constexpr int64_t kFlushMs = 3000;  // for the last bytes of answers

// What the flags came to.
void LogRouting(const RouteFlags& flags, const RouterOptions& options, const std::string& url) {
  LogLine line("routing");
  line.Add("url", url)
      .Add("mode", options.pd_disaggregation ? "pd" : "regular")
      .Add("workers", options.workers.size());
  if (options.pd_disaggregation) {
    line.Add("prefill_policy", flags.prefill_policy.empty() ? flags.policy : flags.prefill_policy)
        .Add("decode_policy", flags.decode_policy.empty() ? flags.policy : flags.decode_policy);
  } else {
    line.Add("policy", flags.policy);
  }
  line.Add("cache_threshold", options.policies.cache_threshold)
      .Add("balance_abs_threshold", options.policies.balance_abs_threshold)
      .Add("balance_rel_threshold", options.policies.balance_rel_threshold)
      .Add("max_tree_size", options.policies.max_tree_size)
      .Add("retry_max_retries", options.retry.max_retries)
      .Add("retry_initial_backoff_ms", options.retry.initial_backoff_ms)
      .Add("retry_max_backoff_ms", options.retry.max_backoff_ms)
      .Add("retry_backoff_multiplier", options.retry.backoff_multiplier)
      .Add("retry_jitter_factor", options.retry.jitter_factor)
      .Add("circuit_breaker", options.breaker.disabled ? "off" : "on")
      .Add("cb_failure_threshold", options.breaker.failure_threshold)
      .Add("cb_success_threshold", options.breaker.success_threshold)
      .Add("cb_timeout_duration_secs", flags.cb_timeout)
      .Add("cb_window_duration_secs", flags.cb_window)
      .Add("health_check", options.health.disabled ? "off" : options.health.endpoint)
      .Add("health_check_interval_secs", flags.health_interval)
      .Add("health_check_timeout_secs", flags.health_timeout)
      .Add("health_failure_threshold", options.health.failure_threshold)
      .Add("health_success_threshold", options.health.success_threshold)
      .Add("worker_startup_timeout_secs", flags.worker_startup_timeout)
      .Add("max_concurrent_requests", options.gate.max_concurrent)
      .Add("queue_size", options.gate.queue_size)
      .Add("queue_timeout_secs", flags.queue_timeout)
      .Add("rate_limit_tokens_per_second", options.gate.tokens_per_second)
      .Add("connect_timeout_secs", flags.connect_timeout)
      .Add("request_timeout_secs", flags.request_timeout)
      .Add("shutdown_grace_period_secs", flags.shutdown_grace)
      .Add("max_payload_size", options.http.max_body_bytes)
      .Add("max_connections", options.http.max_connections)
      .Add("api_key", options.api_key.empty() ? "none" : "set")
      .Add("worker_api_key", options.worker_api_key.empty() ? "none" : "set")
      .Add("prometheus_port", flags.prometheus_port)
      .Add("log_level", flags.log_level);
}

// /metrics on a port of its own; null: there is none.
StatusOr<std::unique_ptr<HttpServer>> ServeMetricsPort(const RouteFlags& flags,
                                                       const Router& router) {
  if (flags.prometheus_port == 0) return std::unique_ptr<HttpServer>();
  HttpServerOptions options;
  options.host = flags.prometheus_host;
  options.port = flags.prometheus_port;
  StatusOr<std::unique_ptr<HttpServer>> server =
      HttpServer::Listen(options, {{"GET", "/metrics", router.MetricsHandler()}});
  if (server.ok()) return server;
  return Unavailable(Text("--prometheus-port: ", server.status().message()));
}

Status RunRoute(const RouteFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const RouterOptions options, flags.ToOptions());
  const BlockedSignals signals;
  // A client may hold a connection to each of two workers.
  HttpFlags files = flags.http;
  files.max_connections *= 3;
  files.RaiseFileLimit();
  CAUSEWAY_ASSIGN_OR_RETURN(const auto router, Router::Start(options));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto metrics, ServeMetricsPort(flags, *router));
  LogRouting(flags, options, router->url());
  for (const std::string& flag : flags.WithoutEffect()) {
    LogLine("flag_without_effect").Add("flag", flag);
  }
  while (!signals.Wait(60'000)) {
  }
  LogLine("draining")
      .Add("requests", router->UnderWay())
      .Add("shutdown_grace_period_secs", flags.shutdown_grace);
  router->StartDraining();
  const Deadline deadline = Deadline::AfterMs(flags.shutdown_grace * 1000);
  bool again = false;
  while (!again && router->UnderWay() > 0 && !deadline.Passed()) again = signals.Wait(kPollMs);
  const int64_t left = router->UnderWay();
  if (metrics) metrics->Stop(Deadline::AfterMs(0));
  router->Stop(Deadline::AfterMs(left == 0 ? kFlushMs : 0));
  LogLine("stopped").Add("requests_cut", left);
  return Status();
}

}  // namespace

void AddRoute(CLI::App& app, Run& run) {
  auto flags = std::make_shared<RouteFlags>();
  CLI::App* command = app.add_subcommand(
      "route", "Spread requests over servers, or over pairs of prefill and decode servers");
  flags->Register(*command);
  command->callback([flags, &run] { run = [flags] { return RunRoute(*flags); }; });
}

}  // namespace causeway
