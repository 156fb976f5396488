// The flags of `causeway route`, spelled as SGLang's router spells them.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "app/flags_without_effect.h"
#include "app/http_flags.h"
#include "base/status.h"
#include "router/router_core.h"

namespace causeway {

struct RouteFlags {
  // How each flag is meant: route_flags.cc, in the help text that stands beside its name.
  HttpFlags http;
  bool pd_disaggregation = false;
  std::vector<std::string> worker_urls;
  std::vector<std::string> prefill;  // URLs, each perhaps followed by its bootstrap port
  std::vector<std::string> decode;
  std::string policy = "cache_aware";
  std::string prefill_policy;
  std::string decode_policy;
  PolicyOptions policies;
  RetryOptions retry;
  BreakerOptions breaker;
  HealthOptions health;
  GateOptions gate;
  bool disable_retries = false;
  std::string worker_api_key;
  std::vector<std::string> request_id_headers;
  std::string log_level = "info";
  int prometheus_port = 0;  // 0: none of its own
  std::string prometheus_host = "127.0.0.1";
  // In seconds.
  int64_t cb_timeout = 30;
  int64_t cb_window = 60;
  int64_t health_timeout = 5;
  int64_t health_interval = 60;
  int64_t worker_startup_timeout = 1800;
  int64_t queue_timeout = 60;
  int64_t connect_timeout = 5;
  int64_t request_timeout = 1800;
  int64_t shutdown_grace = 180;

  RouteFlags();
  void Register(CLI::App& app);
  // Errors name the flag.
  StatusOr<RouterOptions> ToOptions() const;
  // Flags without effect that were given, as "--flag: why it changes nothing".
  std::vector<std::string> WithoutEffect() const { return others_.Given(); }

 private:
  void RegisterWorkers(CLI::App& app);
  void RegisterPolicies(CLI::App& app);
  void RegisterFailures(CLI::App& app);
  void RegisterLimits(CLI::App& app);
  void RegisterServer(CLI::App& app);

  FlagsWithoutEffect others_;
};

// The workers that --prefill names: URLs, each perhaps followed by a port or "none".
StatusOr<std::vector<WorkerSpec>> ParsePrefillWorkers(const std::vector<std::string>& words);

}  // namespace causeway
