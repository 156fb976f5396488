// causeway serve: one server on this host until a signal says stop.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "app/command.h"
#include "app/serve_model.h"
#include "app/text_model.h"
#include "base/log.h"
#include "engine/engine.h"
#include "net/http_server.h"
#include "server/grammar_store.h"
#include "server/native_api.h"
#include "server/openai_api.h"
#include "server/parser_api.h"
#include "server/profile_api.h"
#include "server/request_log.h"
#include "server/tokenize_api.h"

namespace causeway {
namespace {

constexpr int64_t kPollMs = 200;
constexpr int64_t kFlushMs = 3000;  // for the last bytes of answers
constexpr int kStallPolls = 10;  // of kPollMs: how long a stalled step's requests wait for its end
constexpr double kGigabyte = 1 << 30;

// Whether SIGINT or SIGTERM has ever come.
volatile std::sig_atomic_t stop_asked = 0;

// SIGINT and SIGTERM as something to wait for, as long as this lives. One at a time: a signal
// handler can reach nothing but a global.
class SignalWatch {
 public:
  SignalWatch() {
    event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    struct sigaction action {};
    action.sa_handler = [](int) {
      stop_asked = 1;
      const uint64_t one = 1;
      // Nothing can be done here if it fails; then there are 2^64 signals waiting.
      if (write(event_, &one, sizeof(one)) < 0) return;
    };
    sigaction(SIGINT, &action, &old_interrupt_);
    sigaction(SIGTERM, &action, &old_terminate_);
    // A terminal that closes, or a supervisor that means "read your configuration again", must not
    // end the server.
    action.sa_handler = [](int) { hung_up_ = 1; };
    sigaction(SIGHUP, &action, &old_hangup_);
  }
  ~SignalWatch() {
    sigaction(SIGINT, &old_interrupt_, nullptr);
    sigaction(SIGTERM, &old_terminate_, nullptr);
    sigaction(SIGHUP, &old_hangup_, nullptr);
    close(event_);
  }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  // Takes one signal; false if none came in time.
  bool Wait(int64_t ms) {
    pollfd entry{.fd = event_, .events = POLLIN, .revents = 0};
    if (poll(&entry, 1, static_cast<int>(ms)) <= 0) return false;
    uint64_t count = 0;
    return read(event_, &count, sizeof(count)) == sizeof(count);
  }

  // Whether a SIGHUP has come since the last call.
  bool TakeHangup() {
    const bool hung_up = hung_up_ != 0;
    hung_up_ = 0;
    return hung_up;
  }

 private:
  static inline volatile int event_ = -1;
  static inline volatile std::sig_atomic_t hung_up_ = 0;
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
  struct sigaction old_hangup_ {};
};

void LogRequest(const RequestReport& report) {
  LogLine line("request");
  line.Add("id", report.id.empty() ? "-" : report.id)
      .Add("endpoint", report.endpoint)
      .Add("status", report.http_status);
  if (!report.error.empty()) line.Add("error", report.error);
  if (!report.id.empty()) {
    line.Add("finish", report.finish.empty() ? "-" : report.finish)
        .Add("prompt_tokens", report.prompt_tokens)
        .Add("completion_tokens", report.completion_tokens)
        .AddSeconds("ttft_s", report.ttft_seconds)
        .Add("decode_tokens_per_s", report.decode_tokens_per_s);
  }
  line.AddSeconds("seconds", report.seconds);
}

void LogFailedRequest(const RequestReport& report) {
  if (report.http_status >= 500) LogRequest(report);
}

// As --chat-template names them.
const char* NameOf(ChatFormat format) {
  switch (format) {
    case ChatFormat::kV3:
      return "v3";
    case ChatFormat::kV31:
      return "v3.1";
    case ChatFormat::kV32:
      return "v3.2";
  }
  return "unknown";
}

// What /model_info and /server_info say.
NativeOptions DescribeServer(const ModelHost& host, const ServeFlags& flags, const ApiKey& keys) {
  const ModelFlags& model = flags.model;
  NativeOptions out;
  out.api_key = keys;
  out.model_path = model.model_path;
  out.tokenizer_path = flags.tokenizer_path.empty() ? model.model_path : flags.tokenizer_path;
  out.model_type = host.config().model_type;
  out.vocab_size = host.config().vocab_size;
  out.version = CAUSEWAY_VERSION;
  out.weight_gb = static_cast<double>(host.weights().packed_bytes()) / kGigabyte;
  out.kv_cache_gb = static_cast<double>(host.cache().bytes()) / kGigabyte;
  out.enable_metrics = flags.enable_metrics;
  // Those that SGLang has too, by its names.
  out.server_args = {{"dtype", model.dtype},
                     {"kv_cache_dtype", model.kv_cache_dtype},
                     {"tp_size", model.tp > 0 ? model.tp : model.cp_size * model.dp_size},
                     {"attn_cp_size", model.cp_size},
                     {"dp_size", model.dp_size},
                     {"nnodes", model.nnodes},
                     {"page_size", kPage},
                     {"chunked_prefill_size", model.chunked_prefill_size},
                     {"max_running_requests", flags.max_running_requests},
                     {"max_queued_requests", flags.max_queued_requests},
                     {"device", "cpu"},
                     {"disaggregation_mode", flags.disaggregation.mode},
                     {"disaggregation_bootstrap_port", flags.disaggregation.bootstrap_port},
                     {"disaggregation_transfer_backend", flags.disaggregation.transfer_backend},
                     {"schedule_policy", flags.schedule_policy},
                     {"stream_interval", flags.stream_interval},
                     {"disable_radix_cache", flags.disable_radix_cache},
                     {"max_prefill_tokens", flags.max_prefill_tokens},
                     {"mem_fraction_static", flags.mem_fraction_static},
                     {"disable_overlap_schedule", flags.disable_overlap_schedule},
                     {"log_requests", flags.log_requests},
                     {"log_requests_level", flags.log_requests_level},
                     {"watchdog_timeout", model.watchdog_timeout}};
  return out;
}

// What the flags came to, those that were automatic too.
void LogServing(ModelHost& host, const ServeFlags& flags, const ServedModel& model,
                const Disaggregation& transfer, ChatFormat format, const ApiKey& keys,
                const std::string& url) {
  LogLine line("serving");
  line.Add("url", url)
      .Add("model", model.name)
      .Add("layout", host.ranks().layout().ToString())
      .Add("isa", host.ops().name)
      .Add("dtype", host.ranks().mode() == DType::kF32 ? "float32" : "bfloat16")
      .Add("kv_cache_dtype", NameOf(host.cache().shape().latent_type()))
      .Add("kv_cache_bytes", host.cache().bytes())
      .Add("weight_bytes", host.weights().packed_bytes())
      .Add("context_length", model.context_length)
      .Add("max_total_tokens", host.pages().capacity() * kPage)
      .Add("mem_fraction_static",
           flags.mem_fraction_static > 0 ? Text(flags.mem_fraction_static) : "auto");
  if (host.memory().has_value()) {
    line.Add("memory_bytes", host.memory()->limit.bytes)
        .Add("memory_by", host.memory()->limit.source);
  }
  line.Add("chunked_prefill_size", flags.model.chunked_prefill_size)
      .Add("max_prefill_tokens", flags.max_prefill_tokens)
      .Add("max_running_requests", flags.max_running_requests)
      .Add("max_queued_requests", flags.max_queued_requests)
      .Add("decode_gap_ms", flags.decode_gap_ms)
      .Add("stream_interval", flags.stream_interval)
      .Add("random_seed", flags.random_seed ? Text(*flags.random_seed) : "none")
      .Add("schedule_policy", flags.schedule_policy)
      .Add("schedule_conservativeness", flags.schedule_conservativeness)
      .Add("overlap_schedule", flags.disable_overlap_schedule ? "off" : "on")
      .Add("radix_cache", flags.disable_radix_cache ? "off" : "on")
      .Add("watchdog_timeout_s", flags.model.watchdog_timeout)
      .Add("chat_template", NameOf(format))
      .Add("tool_call_parser", NameOf(model.tool_call_format))
      .Add("reasoning_parser", NameOf(model.reasoning_format))
      .Add("api_key", keys.open() ? "none" : "set")
      .Add("metrics", flags.enable_metrics ? "on" : "off")
      .Add("log_requests", flags.log_requests ? Text("level ", flags.log_requests_level) : "off")
      .Add("disaggregation_mode", flags.disaggregation.mode);
  if (transfer.prefill) line.Add("bootstrap_port", transfer.bootstrap_port());
  if (transfer.counters() != nullptr) {
    line.Add("transfer_backend", flags.disaggregation.transfer_backend)
        .Add("decode_radix_cache", flags.disaggregation.decode_radix_cache ? "on" : "off");
  }
  line.AddSeconds("load_s", host.load_seconds());
}

// Errors of the HTTP server itself look like those of the API.
HttpServerOptions ListenOptions(const ServeFlags& flags) {
  HttpServerOptions options = flags.http.ToOptions();
  options.render_error = &OpenAiApi::RenderError;
  return options;
}

// Lets requests end within --drain-seconds, or until the next signal.
void DrainAndStop(Engine& engine, RequestDesk& desk, HttpServer& server, SignalWatch& signals,
                  int64_t drain_seconds) {
  LogLine("draining").Add("drain_seconds", drain_seconds);
  desk.StartDraining();
  // The port stays open, so that load balancers and clients are told 503 until the end.
  server.StartDraining();
  const Deadline deadline = Deadline::After(std::chrono::seconds(drain_seconds));
  bool drained = engine.Drain(Deadline::AfterMs(0));
  // In short waits, so that a second signal is seen between two of them.
  while (!drained && !deadline.Passed() && !signals.Wait(0)) {
    drained = engine.Drain(Deadline::AfterMs(std::min(kPollMs, deadline.RemainingMs() + 1)));
  }
  if (!drained) {
    LogLine("cancelling").Add("why", deadline.Passed() ? "drain-seconds passed" : "second signal");
    desk.CancelAll(server.executor());
  }
  // After CancelAll or the last answer only bytes to clients are left.
  const bool complete = server.Stop(Deadline::AfterMs(kFlushMs));
  LogLine("stopped").Add("drained", drained ? "yes" : "no").Add("answers_cut", complete ? 0 : 1);
}

// From the checkpoint to the end. `met`: set once the hosts of a server of several have met.
// Ports that the system chose are put into the flags.
Status ServeOnce(ServeFlags& flags, bool& met) {
  // Before the weights: a taken port should not cost the minutes that they take to load.
  std::signal(SIGHUP, SIG_IGN);  // while the model loads; then SignalWatch has it
  CAUSEWAY_RETURN_IF_ERROR(flags.compat.Check());
  CAUSEWAY_RETURN_IF_ERROR(flags.http.Keys().status());
  flags.http.RaiseFileLimit();
  CAUSEWAY_ASSIGN_OR_RETURN(HostOptions options, flags.model.ToHostOptions());
  options.mem_fraction_static = flags.mem_fraction_static;
  CAUSEWAY_RETURN_IF_ERROR(flags.disaggregation.Check());
  std::unique_ptr<ModelHost> host;
  Disaggregation transfer;  // ends before the host's cache
  if (flags.disaggregation.mode != "null") {
    if (flags.disaggregation.prefills()) options.kv_memory = KvMemory::kShared;
    options.before_ranks = [&](ModelHost& loaded) {
      return transfer.Make(flags.disaggregation, flags.http.host, options, loaded);
    };
  }
  if (options.ranks.host == 0) {
    CAUSEWAY_RETURN_IF_ERROR(HttpServer::CanListen(ListenOptions(flags)));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(options.model_path));
  CAUSEWAY_RETURN_IF_ERROR(ChooseChatFormat(flags.chat_template, config).status());
  CAUSEWAY_ASSIGN_OR_RETURN(const auto tokenizer,
                            LoadTokenizer(options.model_path, flags.tokenizer_path, config));
  CAUSEWAY_ASSIGN_OR_RETURN(host, ModelHost::Load(options));
  transfer.Attach(host->ranks());
  met = options.ranks.layout.hosts > 1;
  if (transfer.prefill) flags.disaggregation.bootstrap_port = transfer.bootstrap_port();
  if (host->follows()) {
    // Host 0 drains and then ends all; a signal that reaches every host must not end this one
    // first.
    const auto once = [](int number) {
      stop_asked = 1;
      std::signal(number, SIG_DFL);
    };
    std::signal(SIGTERM, once);
    std::signal(SIGINT, once);
    std::fprintf(stderr, "event=following host=%d layout=\"%s\"\n", options.ranks.host,
                 options.ranks.layout.ToString().c_str());
    Status status = host->Follow();
    std::signal(SIGTERM, SIG_DFL);
    std::signal(SIGINT, SIG_DFL);
    return status;
  }
  const Status status =
      ServeModel(*host, *tokenizer, flags, transfer, [&](int port) { flags.http.port = port; });
  const Status trace = WriteTraceFile(flags.model.trace, host->ranks());
  return status.ok() ? trace : status;
}

// Of several hosts, those that are left when one is lost stay: they begin anew, and meet the lost
// one once it is back, so that nothing but it has to be restarted.
Status RunServe(ServeFlags flags) {
  for (;;) {
    bool met = false;
    const Status status = ServeOnce(flags, met);
    if (status.ok() || !met || stop_asked != 0 || flags.on_lost_host == "exit") return status;
    LogLine("rejoining")
        .Add("within_s", flags.model.dist_rendezvous_timeout)
        .Add("why", status.message());
  }
}

}  // namespace

void ServeFlags::Register(CLI::App& app) {
  model.Register(app);
  app.add_option("--config", config,
                 "YAML file with flags of this command (\"cp-size: 2\"); those of the command line "
                 "go before it; default: none");
  app.add_option("--tokenizer-path", tokenizer_path,
                 "tokenizer.json; default: the one in --model-path");
  app.add_option("--chat-template", chat_template,
                 "How messages become a prompt: auto (by model_type), v3, v3.1 or v3.2")
      ->capture_default_str();
  app.add_option("--tool-call-parser", tool_call_parser,
                 "How answers call tools: auto (as the chat template has it), deepseekv3, "
                 "deepseekv31 or deepseekv32")
      ->check(CLI::IsMember({"auto", "deepseekv3", "deepseekv31", "deepseekv32"}))
      ->capture_default_str();
  app.add_option("--reasoning-parser", reasoning_parser,
                 "Which answers reason before </think>: deepseek-r1, all of chats; deepseek-v3, "
                 "those of requests that ask for it; auto: deepseek-v3")
      ->check(CLI::IsMember({"auto", "deepseek-r1", "deepseek-v3"}))
      ->capture_default_str();
  app.add_option("--stream-interval", stream_interval,
                 "Tokens of an answer from one event of its stream to the next; the first has an "
                 "event of its own, and so has every token of an answer that may call tools")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--random-seed", random_seed,
                 "Requests without a seed get those that follow from this number, in the order in "
                 "which they come; default: random ones");
  http.Register(app);
  app.add_option("--served-model-name", served_model_name,
                 "The model's name in the API; default: --model-path as given");
  app.add_option("--log-level", log_level,
                 "debug and info: a line for each request; warning and error: only for those that "
                 "the server failed")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.add_flag("--enable-cache-report", enable_cache_report,
               "Accepted for compatibility, without effect: usage always tells cached tokens; "
               "default: off");
  app.add_flag("--enable-metrics", enable_metrics,
               "Answer /metrics, in Prometheus' text format; default: off");
  app.add_option("--max-running-requests", max_running_requests,
                 "Requests in prefill or decode at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--max-queued-requests", max_queued_requests,
                 "Requests that wait to run, retracted ones too; more get 503")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--max-prefill-tokens", max_prefill_tokens,
                 "Tokens of the prompts that are admitted before one step, at least one prompt; "
                 "-1: no limit")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--mem-fraction-static", mem_fraction_static,
                 "Part of the memory that the process may use (cgroups count) for weights and KV "
                 "cache: without --max-total-tokens the cache gets what the weights leave. 0: "
                 "automatic, one context or what the weights leave of 0.88, whichever is less")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_flag("--disable-overlap-schedule", disable_overlap_schedule,
               "Plan a step and hand on the results of the last only when no step runs; default: "
               "off");
  app.add_flag("--log-requests", log_requests,
               "Log a line when a request comes and one when it ends; default: off");
  app.add_option(
         "--log-requests-level", log_requests_level,
         "With --log-requests: 0 sizes, times and how it ended; 1 also sampling parameters; "
         "2 also the ends of prompt and answer; 3 all of both")
      ->check(CLI::Range(0, 3))
      ->capture_default_str();
  app.add_option("--decode-gap-ms", decode_gap_ms,
                 "While requests decode, prompts get as many tokens of a step as keep it within "
                 "this time, at least 16; 0: up to --chunked-prefill-size")
      ->check(CLI::Range(0, 3'600'000))
      ->capture_default_str();
  app.add_option("--schedule-policy", schedule_policy,
                 "Who runs next: fcfs, first come first served, or lpm, the longest prefix in the "
                 "cache first, which may starve others")
      ->check(CLI::IsMember({"fcfs", "lpm"}))
      ->capture_default_str();
  app.add_option(
         "--schedule-conservativeness", schedule_conservativeness,
         "Pages of 64 tokens that stay free for the answer of each running request when one "
         "more is admitted; more: fewer run, and fewer are retracted")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_flag(
      "--disable-radix-cache", disable_radix_cache,
      "Compute every prompt in whole, whatever other requests have computed; default: off");
  app.add_option("--drain-seconds", drain_seconds,
                 "After SIGINT or SIGTERM: how long requests may go on; a second signal ends them")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
  app.add_option(
         "--on-lost-host", on_lost_host,
         "When one of several hosts is lost, or fails: rejoin, the others load their weights "
         "again and wait --dist-rendezvous-timeout for it; exit, they end with exit code 1")
      ->check(CLI::IsMember({"rejoin", "exit"}))
      ->capture_default_str();
  disaggregation.Register(app);
  compat.Register(app);
}

Status ServeModel(ModelHost& host, const Tokenizer& tokenizer, const ServeFlags& flags,
                  Disaggregation& transfer, const std::function<void(int port)>& announce) {
  CAUSEWAY_ASSIGN_OR_RETURN(const ChatFormat format,
                            ChooseChatFormat(flags.chat_template, host.config()));
  ToolCallFormat calls = ToolCallFormatOf(format);
  if (flags.tool_call_parser != "auto") {
    CAUSEWAY_ASSIGN_OR_RETURN(calls, ParseToolCallFormat(flags.tool_call_parser));
  }
  // R1 has V3's config.json: only the operator can tell.
  ReasoningFormat reasoning = ReasoningFormat::kDeepSeekV3;
  if (flags.reasoning_parser != "auto") {
    CAUSEWAY_ASSIGN_OR_RETURN(reasoning, ParseReasoningFormat(flags.reasoning_parser));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const ApiKey keys, flags.http.Keys());
  const int64_t kv_tokens = host.pages().capacity() * kPage;
  GrammarStore grammars(tokenizer);
  const ServedModel model{
      .name = flags.served_model_name.empty() ? flags.model.model_path : flags.served_model_name,
      .tokenizer = tokenizer,
      .chat_format = format,
      // What a single request may need must fit the cache as well.
      .context_length = std::min(host.context_length(), kv_tokens),
      .vocab_size = host.config().vocab_size,
      .bos_token = static_cast<int32_t>(host.config().bos_token_id),
      .max_choices = flags.max_queued_requests,
      .tool_call_format = calls,
      .reasoning_format = reasoning,
      .grammars = &grammars,
      .role = flags.disaggregation.prefills()  ? ServerRole::kPrefill
              : flags.disaggregation.decodes() ? ServerRole::kDecode
                                               : ServerRole::kCombined,
      .stream_interval = flags.stream_interval,
      .next_seed = flags.random_seed ? SeedsFrom(*flags.random_seed) : &RandomSeed};
  EngineOptions engine_options;
  engine_options.limits.chunked_prefill_size = flags.model.chunked_prefill_size;
  engine_options.limits.max_running_requests = flags.max_running_requests;
  engine_options.limits.max_prefill_tokens = flags.max_prefill_tokens;
  engine_options.overlap_schedule = !flags.disable_overlap_schedule;
  engine_options.limits.decode_gap_ns = flags.decode_gap_ms * 1'000'000;
  engine_options.limits.policy =
      flags.schedule_policy == "lpm" ? SchedulePolicy::kLpm : SchedulePolicy::kFcfs;
  engine_options.limits.schedule_conservativeness = flags.schedule_conservativeness;
  engine_options.max_queued_requests = flags.max_queued_requests;
  engine_options.prefix_cache = !flags.disable_radix_cache;
  engine_options.prefill_rooms = transfer.prefill.get();
  engine_options.decode_rooms = transfer.decode.get();
  if (flags.disaggregation.decodes()) {
    engine_options.prefix_cache &= flags.disaggregation.decode_radix_cache;
    engine_options.limits.schedule_conservativeness =
        static_cast<double>(flags.disaggregation.reserved_decode_tokens) / kPage;
  }
  // Ids without text, beyond the tokenizer's, are never sampled.
  engine_options.vocab_limit = tokenizer.size();

  // Ended in reverse: no handler without its API, no callback without its engine.
  SignalWatch signals;
  Engine engine(host, engine_options);
  ServeMetrics metrics({.model_name = model.name,
                        .max_total_tokens = kv_tokens,
                        .context_length = model.context_length,
                        .page_size = kPage,
                        .role = model.role});
  const OpenAiApi openai(model, keys);
  NativeOptions described = DescribeServer(host, flags, keys);
  described.server_args["tool_call_parser"] = NameOf(calls);
  described.server_args["reasoning_parser"] = NameOf(reasoning);
  const NativeApi native(model, std::move(described));
  const TokenizeApi tokens(model, keys);
  // As SGLang's, where a request for a profile names no folder.
  const char* profile_dir = std::getenv("SGLANG_TORCH_PROFILER_DIR");
  const ProfileApi profile(engine, keys, profile_dir == nullptr ? "/tmp" : profile_dir);
  RequestLog log(static_cast<RequestLogLevel>(flags.log_requests_level), tokenizer);
  const bool all_requests = flags.log_level == "debug" || flags.log_level == "info";
  RequestDesk desk(engine, metrics,
                   {.on_report = all_requests ? &LogRequest : &LogFailedRequest,
                    .log = flags.log_requests ? &log : nullptr});
  std::vector<HttpRoute> routes = openai.Routes(desk);
  for (HttpRoute& route : native.Routes(desk)) routes.push_back(std::move(route));
  for (HttpRoute& route : tokens.Routes(desk)) routes.push_back(std::move(route));
  for (HttpRoute& route : profile.Routes()) routes.push_back(std::move(route));
  for (HttpRoute& route : ParserRoutes(model, keys)) {
    routes.push_back(std::move(route));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(
      const auto server,
      HttpServer::Listen(ListenOptions(flags), metrics.Count(std::move(routes))));
  LogServing(host, flags, model, transfer, format, keys, server->url());
  for (const std::string& flag : flags.compat.Given()) {
    LogLine("flag_without_effect").Add("flag", flag);
  }
  if (const auto& excluded = host.weights().fp8_excluded(); !excluded.empty()) {
    // Where they are cut, they do not fit whole blocks: two bytes a weight instead of one.
    LogLine("fp8_held_as_bf16").Add("matrices", excluded.size()).Add("first", excluded.front());
  }
  announce(server->port());

  // A failed step, or a host lost between steps, ends the server: the ranks have no way back. A
  // step that hangs becomes a failed one, or the watchdog ends the process; /health fails before
  // that, and clients do not wait for it.
  int stalled_polls = 0;
  while (!engine.failed() && host.ranks().failure().ok()) {
    if (host.ranks().stalled() && ++stalled_polls == kStallPolls) {
      desk.CancelAll(server->executor());
    }
    const bool stop = signals.Wait(kPollMs);
    if (signals.TakeHangup()) LogLine("hangup_ignored").Add("why", "no configuration is reread");
    if (!stop) continue;
    DrainAndStop(engine, desk, *server, signals, flags.drain_seconds);
    return Status();
  }
  // The engine has told every request; the answers still have to reach the clients.
  desk.StartDraining();
  server->Stop(Deadline::AfterMs(kFlushMs));
  return InternalError(
      Text("the ranks can't be used any more. What failed: ", host.ranks().failure().message()));
}

void AddServe(CLI::App& app, Run& run) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command =
      app.add_subcommand("serve", "Serve a model over HTTP (OpenAI's and SGLang's APIs)");
  flags->Register(*command);
  command->callback([flags, &run] { run = [flags] { return RunServe(*flags); }; });
}

}  // namespace causeway
