#include "app/route_flags.h"

#include <algorithm>
#include <charconv>

namespace causeway {
namespace {

constexpr FlagWithoutEffect kAccepted[] = {
    {"--mini-lb", false, "the router does what the mini load balancer does, and more"},
    {"--eviction-interval-secs", true, "trees are kept within --max-tree-size all the time"},
    {"--worker-startup-check-interval", true, "workers that are not up are checked every second"},
    {"--bucket-adjust-interval-secs", true, "there is no policy of buckets"},
    {"--max-idle-secs", true, "there is no manual policy"},
    {"--assignment-mode", true, "there is no manual policy"},
    {"--backend", true, "workers speak SGLang's HTTP API"},
    {"--history-backend", true, "the router keeps no conversations"},
    {"--model-path", true, "the router needs no tokenizer"},
    {"--tokenizer-path", true, "the router needs no tokenizer"},
    {"--chat-template", true, "the workers apply it"},
    {"--reasoning-parser", true, "the workers parse answers"},
    {"--tool-call-parser", true, "the workers parse answers"},
};

bool IsPort(const std::string& word) {
  return !word.empty() &&
         std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

RouteFlags::RouteFlags() {
  http.host = "0.0.0.0";
  http.max_body_bytes = 512 << 20;
  http.max_connections = 16'384;
}

void RouteFlags::Register(CLI::App& app) {
  RegisterWorkers(app);
  RegisterPolicies(app);
  RegisterFailures(app);
  RegisterLimits(app);
  RegisterServer(app);
  others_.Register(app, kAccepted);
}

void RouteFlags::RegisterWorkers(CLI::App& app) {
  app.add_option("--worker-urls", worker_urls,
                 "Servers that answer requests each alone: http://HOST:PORT ...; default: none");
  app.add_flag("--pd-disaggregation", pd_disaggregation,
               "Each request goes to a prefill and a decode worker at once; default: off");
  app.add_option("--prefill", prefill,
                 "URL [BOOTSTRAP_PORT] of a prefill worker, with a port or none; may be repeated; "
                 "default: none");
  app.add_option("--decode", decode, "URL of a decode worker; may be repeated; default: none");
  app.add_option("--worker-api-key", worker_api_key,
                 "What workers are sent as Authorization: Bearer KEY; default: --api-key, and "
                 "without that what the client sent");
}

void RouteFlags::RegisterPolicies(CLI::App& app) {
  const std::vector<std::string> names = {"random", "round_robin", "power_of_two", "cache_aware"};
  const CLI::IsMember known(names);
  app.add_option("--policy", policy,
                 "Who gets a request: random; round_robin; power_of_two, the less busy of two; "
                 "cache_aware, who has seen most of the prompt, or the least busy while load is "
                 "uneven")
      ->check(known)
      ->capture_default_str();
  app.add_option("--prefill-policy", prefill_policy,
                 "The same for prefill workers; default: --policy")
      ->check(known);
  app.add_option("--decode-policy", decode_policy, "The same for decode workers; default: --policy")
      ->check(known);
  app.add_option("--cache-threshold", policies.cache_threshold,
                 "Part of the prompt that a worker must have seen to be chosen for it")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--balance-abs-threshold", policies.balance_abs_threshold,
                 "Load is uneven if the busiest worker has more requests than the idlest by more "
                 "than this, and the next is true too")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--balance-rel-threshold", policies.balance_rel_threshold,
                 "Load is uneven if the busiest worker has more than this many times the requests "
                 "of the idlest")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--max-tree-size", policies.max_tree_size,
                 "Bytes of prompts that are remembered of each worker, and 64 for each branch; "
                 "the least recently used ones go")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 40))
      ->capture_default_str();
}

void RouteFlags::RegisterFailures(CLI::App& app) {
  const CLI::Range seconds(1, 1'000'000);
  const CLI::Range milliseconds(0, 3'600'000);
  const CLI::Range count(1, 1'000'000);
  app.add_option("--retry-max-retries", retry.max_retries,
                 "Tries of a request in all, while nothing of an answer has reached the client: on "
                 "408, 429, 500, 502, 503, 504 and broken connections")
      ->check(count)
      ->capture_default_str();
  app.add_option("--retry-initial-backoff-ms", retry.initial_backoff_ms,
                 "The pause after the first try")
      ->check(milliseconds)
      ->capture_default_str();
  app.add_option("--retry-max-backoff-ms", retry.max_backoff_ms, "The longest pause")
      ->check(milliseconds)
      ->capture_default_str();
  app.add_option("--retry-backoff-multiplier", retry.backoff_multiplier,
                 "How much longer each pause is than the one before")
      ->check(CLI::Range(1.0, 100.0))
      ->capture_default_str();
  app.add_option("--retry-jitter-factor", retry.jitter_factor,
                 "By which part a pause may be longer or shorter")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_flag("--disable-retries", disable_retries, "One try for each request; default: off");
  app.add_option("--cb-failure-threshold", breaker.failure_threshold,
                 "Failures in a row after which a worker gets no requests for a while")
      ->check(count)
      ->capture_default_str();
  app.add_option("--cb-success-threshold", breaker.success_threshold,
                 "Successes in a row, on trial, after which it gets all again")
      ->check(count)
      ->capture_default_str();
  app.add_option("--cb-timeout-duration-secs", cb_timeout, "How long that while is")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--cb-window-duration-secs", cb_window,
                 "Failures longer ago than this do not count")
      ->check(seconds)
      ->capture_default_str();
  app.add_flag("--disable-circuit-breaker", breaker.disabled,
               "Send requests to workers that fail them; default: off");
  app.add_option("--health-check-endpoint", health.endpoint, "What health checks ask for")
      ->capture_default_str();
  app.add_option("--health-check-interval-secs", health_interval,
                 "Between two health checks of a worker that is up; one that is not is checked "
                 "every second")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--health-check-timeout-secs", health_timeout, "For a health check to be answered")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--health-failure-threshold", health.failure_threshold,
                 "Bad checks in a row after which a worker is down")
      ->check(count)
      ->capture_default_str();
  app.add_option("--health-success-threshold", health.success_threshold,
                 "Good checks in a row after which it is up again")
      ->check(count)
      ->capture_default_str();
  app.add_flag("--disable-health-check", health.disabled, "Take every worker for up; default: off");
  app.add_option("--worker-startup-timeout-secs", worker_startup_timeout,
                 "A worker that has not come up by then is reported; it is checked on")
      ->check(seconds)
      ->capture_default_str();
}

void RouteFlags::RegisterLimits(CLI::App& app) {
  const CLI::Range seconds(1, 1'000'000);
  app.add_option("--max-concurrent-requests", gate.max_concurrent,
                 "Requests under way at once; -1: no limit")
      ->check(CLI::Range(-1, 100'000'000))
      ->capture_default_str();
  app.add_option("--queue-size", gate.queue_size,
                 "Requests beyond that, which wait; more get 429. 0: none waits")
      ->check(CLI::Range(0, 100'000'000))
      ->capture_default_str();
  app.add_option("--queue-timeout-secs", queue_timeout, "How long they wait; then 408")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--rate-limit-tokens-per-second", gate.tokens_per_second,
                 "Requests that may begin in a second, in the mean; 0: no limit")
      ->check(CLI::Range(0, 100'000'000))
      ->capture_default_str();
  app.add_option("--request-timeout-secs", request_timeout,
                 "For a worker to take a request, to begin its answer, and for each next piece of "
                 "it")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--connect-timeout-secs", connect_timeout, "For a worker to be connected to")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--max-payload-size,--max-body-bytes", http.max_body_bytes,
                 "Body of a request, in bytes; larger ones get 413")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 32))
      ->capture_default_str();
  app.add_option("--max-connections", http.max_connections,
                 "Clients connected at once; more get 503")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--write-timeout", http.write_timeout,
                 "Seconds in which a client that is sent something must take it (256 KiB of it); "
                 "then its request ends")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  app.add_option("--keep-alive-timeout", http.keep_alive_timeout,
                 "Seconds that a client's connection may be idle between requests")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
}

void RouteFlags::RegisterServer(CLI::App& app) {
  app.add_option("--host", http.host, "Address or name to listen on")->capture_default_str();
  app.add_option("--port", http.port, "0: any free port")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--api-key", http.api_key,
                 "Ask clients for this key (Authorization: Bearer KEY), and send it to workers; "
                 "default: none");
  app.add_option("--ssl-certfile,--tls-cert-path", http.ssl_certfile,
                 "Speak HTTPS with this certificate, followed by those that signed it (PEM); "
                 "default: plain HTTP");
  app.add_option("--ssl-keyfile,--tls-key-path", http.ssl_keyfile,
                 "The private key of the certificate (PEM); default: none");
  app.add_option("--cors-allowed-origins,--cors-allow-origin", http.cors_allow_origin,
                 "Let scripts of this origin (https://host), or of all (*), use the API from "
                 "browsers; default: none");
  app.add_option("--request-id-headers", request_id_headers,
                 "Headers in which clients name their requests, in this order; default: "
                 "x-request-id x-correlation-id x-trace-id request-id");
  app.add_option("--prometheus-port", prometheus_port,
                 "Answer /metrics on this port, too; 0: on --port only")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--prometheus-host", prometheus_host, "Where that port listens")
      ->capture_default_str();
  app.add_option("--log-level", log_level,
                 "debug and info: a line for each request; warn and error: only for those that "
                 "failed")
      ->check(CLI::IsMember({"debug", "info", "warn", "warning", "error"}))
      ->capture_default_str();
  app.add_option("--shutdown-grace-period-secs,--drain-seconds", shutdown_grace,
                 "After SIGINT or SIGTERM: how long requests may go on; a second signal ends them")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
}

StatusOr<std::vector<WorkerSpec>> ParsePrefillWorkers(const std::vector<std::string>& words) {
  std::vector<WorkerSpec> out;
  bool may_have_port = false;
  for (const std::string& word : words) {
    const bool none = word == "none" || word == "None";
    if (!none && !IsPort(word)) {
      CAUSEWAY_RETURN_IF_ERROR(ParseWorkerUrl("--prefill", word).status());
      out.push_back({.url = word, .type = WorkerType::kPrefill});
      may_have_port = true;
      continue;
    }
    if (!may_have_port) {
      return InvalidArgument(
          Text("--prefill has '", word, "' where a URL is expected: URL [BOOTSTRAP_PORT]"));
    }
    may_have_port = false;
    if (none) continue;
    int port = 0;
    std::from_chars(word.data(), word.data() + word.size(), port);
    if (port < 1 || port > 65535) {
      return InvalidArgument(
          Text("--prefill has the bootstrap port ", word, "; expected 1 to 65535, or none"));
    }
    out.back().bootstrap_port = port;
  }
  return out;
}

StatusOr<RouterOptions> RouteFlags::ToOptions() const {
  RouterOptions out;
  out.http = http.ToOptions();
  out.pd_disaggregation = pd_disaggregation;
  if (!pd_disaggregation && (!prefill.empty() || !decode.empty())) {
    return InvalidArgument("--prefill and --decode are given without --pd-disaggregation");
  }
  if (pd_disaggregation && !worker_urls.empty()) {
    return InvalidArgument(
        "--worker-urls is given with --pd-disaggregation; expected --prefill and --decode");
  }
  CAUSEWAY_ASSIGN_OR_RETURN(out.workers, ParsePrefillWorkers(prefill));
  for (const std::string& url : decode) {
    CAUSEWAY_RETURN_IF_ERROR(ParseWorkerUrl("--decode", url).status());
    out.workers.push_back({.url = url, .type = WorkerType::kDecode});
  }
  for (const std::string& url : worker_urls) {
    CAUSEWAY_RETURN_IF_ERROR(ParseWorkerUrl("--worker-urls", url).status());
    out.workers.push_back({.url = url, .type = WorkerType::kRegular});
  }
  out.policy = policy;
  out.prefill_policy = prefill_policy;
  out.decode_policy = decode_policy;
  out.policies = policies;
  out.policies.seed = std::random_device{}();
  out.retry = retry;
  if (disable_retries) out.retry.max_retries = 1;
  out.breaker = breaker;
  out.breaker.timeout_ms = cb_timeout * 1000;
  out.breaker.window_ms = cb_window * 1000;
  out.health = health;
  out.health.timeout_ms = health_timeout * 1000;
  out.health.interval_ms = health_interval * 1000;
  out.health.startup_timeout_ms = worker_startup_timeout * 1000;
  if (!health.endpoint.starts_with('/') ||
      health.endpoint.find_first_of(" \r\n") != std::string::npos) {
    return InvalidArgument(Text("--health-check-endpoint is '", health.endpoint,
                                "'; expected a path such as /health"));
  }
  out.gate = gate;
  out.gate.queue_timeout_ms = queue_timeout * 1000;
  out.upstream.connect_timeout_ms = connect_timeout * 1000;
  out.upstream.answer_timeout_ms = request_timeout * 1000;
  out.api_key = http.api_key;
  out.worker_api_key = worker_api_key;
  for (const auto& [flag, value] :
       {std::pair("--api-key", &http.api_key), std::pair("--worker-api-key", &worker_api_key),
        std::pair("--cors-allowed-origins", &http.cors_allow_origin)}) {
    if (value->find_first_of("\r\n") != std::string::npos) {
      return InvalidArgument(Text(flag, " has a line break"));
    }
  }
  if (!request_id_headers.empty()) out.request_id_headers = request_id_headers;
  out.log_requests = log_level == "debug" || log_level == "info";
  return out;
}

}  // namespace causeway
