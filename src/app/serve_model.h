// A loaded model behind HTTP until a signal says stop.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "app/compat_flags.h"
#include "app/disaggregation.h"
#include "app/flags.h"
#include "app/http_flags.h"
#include "engine/model_host.h"
#include "text/tokenizer.h"

namespace causeway {

// Those of the server beside the model's, with their defaults.
struct ServeFlags {
  ModelFlags model;
  std::string tokenizer_path;
  std::string chat_template = "auto";
  std::string tool_call_parser = "auto";
  std::string reasoning_parser = "auto";
  std::string served_model_name;  // empty: --model-path as given
  HttpFlags http;
  std::string log_level = "info";
  int64_t max_running_requests = 64;
  int64_t max_queued_requests = 512;
  int64_t max_prefill_tokens = 16384;
  int64_t stream_interval = 1;
  std::optional<uint64_t> random_seed;  // nothing: random
  double mem_fraction_static = 0.0;
  bool disable_overlap_schedule = false;
  bool log_requests = false;
  int log_requests_level = 2;
  std::string schedule_policy = "fcfs";
  int64_t decode_gap_ms = 0;
  double schedule_conservativeness = 1.0;
  bool disable_radix_cache = false;
  int64_t drain_seconds = 30;
  bool enable_metrics = false;
  bool enable_cache_report = false;
  std::string config;  // has been read by WithConfigFile
  std::string on_lost_host = "rejoin";
  DisaggregationFlags disaggregation;
  CompatFlags compat;

  void Register(CLI::App& app);
};

// `transfer` is attached to the host's ranks already.
// Serves until SIGINT or SIGTERM, then drains. `announce` gets the port once it listens.
Status ServeModel(ModelHost& host, const Tokenizer& tokenizer, const ServeFlags& flags,
                  Disaggregation& transfer, const std::function<void(int port)>& announce);

}  // namespace causeway
