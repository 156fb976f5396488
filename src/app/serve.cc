// causeway serve: one server on this host until a signal says stop.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>

#include "app/command.h"
#include "app/serve_model.h"
#include "app/text_model.h"
#include "engine/engine.h"
#include "net/http_server.h"
#include "server/openai_api.h"

namespace causeway {
namespace {

constexpr int64_t kPollMs = 200;
constexpr int64_t kFlushMs = 3000;  // for the last bytes of answers

// SIGINT and SIGTERM as something to wait for, as long as this lives. One at a time: a signal
// handler can reach nothing but a global.
class SignalWatch {
 public:
  SignalWatch() {
    event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    struct sigaction action {};
    action.sa_handler = [](int) {
      const uint64_t one = 1;
      // Nothing can be done here if it fails; then there are 2^64 signals waiting.
      if (write(event_, &one, sizeof(one)) < 0) return;
    };
    sigaction(SIGINT, &action, &old_interrupt_);
    sigaction(SIGTERM, &action, &old_terminate_);
  }
  ~SignalWatch() {
    sigaction(SIGINT, &old_interrupt_, nullptr);
    sigaction(SIGTERM, &old_terminate_, nullptr);
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

 private:
  static inline volatile int event_ = -1;
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
};

// One event as a line of key=value.
class LogLine {
 public:
  explicit LogLine(const char* event) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const int64_t ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
    const std::time_t seconds = ms / 1000;
    std::tm tm{};
    gmtime_r(&seconds, &tm);
    char time[64];
    std::snprintf(time, sizeof(time), "time=%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900,
                  tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                  static_cast<int>(ms % 1000));
    line_ = time;
    Add("event", event);
  }
  ~LogLine() { std::fprintf(stderr, "%s\n", line_.c_str()); }
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;

  template <typename Value>
  LogLine& Add(const char* key, const Value& value) {
    line_ += Text(" ", key, "=");
    const std::string text = Text(value);
    const bool plain = !text.empty() && text.find_first_of(" \"=\\") == std::string::npos &&
                       text.find_first_of("\n\r\t") == std::string::npos;
    // JSON's quoting: what clients wrote can't start a line of its own.
    line_ += plain ? text : Dump(Json(text));
    return *this;
  }
  LogLine& AddSeconds(const char* key, double seconds) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.4f", seconds);
    return Add(key, text);
  }

 private:
  std::string line_;
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

// Errors of the HTTP server itself look like those of the API.
HttpServerOptions ListenOptions(const ServeFlags& flags) {
  HttpServerOptions options;
  options.host = flags.host;
  options.port = flags.port;
  options.render_error = &OpenAiApi::RenderError;
  return options;
}

// Lets requests end within --drain-seconds, or until the next signal.
void DrainAndStop(Engine& engine, OpenAiApi& api, HttpServer& server, SignalWatch& signals,
                  int64_t drain_seconds) {
  LogLine("draining").Add("drain_seconds", drain_seconds);
  api.StartDraining();
  server.StopAccepting();
  const Deadline deadline = Deadline::After(std::chrono::seconds(drain_seconds));
  bool drained = engine.Drain(Deadline::AfterMs(0));
  // In short waits, so that a second signal is seen between two of them.
  while (!drained && !deadline.Passed() && !signals.Wait(0)) {
    drained = engine.Drain(Deadline::AfterMs(std::min(kPollMs, deadline.RemainingMs() + 1)));
  }
  if (!drained) {
    LogLine("cancelling").Add("why", deadline.Passed() ? "drain-seconds passed" : "second signal");
    api.CancelAll(server.executor());
  }
  // After CancelAll or the last answer only bytes to clients are left.
  const bool complete = server.Stop(Deadline::AfterMs(kFlushMs));
  LogLine("stopped").Add("drained", drained ? "yes" : "no").Add("answers_cut", complete ? 0 : 1);
}

Status RunServe(const ServeFlags& flags) {
  // Before the weights: a taken port should not cost the minutes that they take to load.
  CAUSEWAY_ASSIGN_OR_RETURN(const HostOptions options, flags.model.ToHostOptions());
  if (options.ranks.host == 0) {
    // Only tried: the listener is closed again until the model is there.
    CAUSEWAY_RETURN_IF_ERROR(HttpServer::Listen(ListenOptions(flags), {}).status());
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(options.model_path));
  CAUSEWAY_RETURN_IF_ERROR(ChooseChatFormat(flags.chat_template, config).status());
  CAUSEWAY_ASSIGN_OR_RETURN(const auto tokenizer,
                            LoadTokenizer(options.model_path, flags.tokenizer_path, config));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  if (host->follows()) {
    // Host 0 drains and then ends all; a signal that reaches every host must not end this one
    // first.
    const auto once = [](int number) { std::signal(number, SIG_DFL); };
    std::signal(SIGTERM, once);
    std::signal(SIGINT, once);
    std::fprintf(stderr, "event=following host=%d layout=\"%s\"\n", options.ranks.host,
                 options.ranks.layout.ToString().c_str());
    return host->Follow();
  }
  const Status status = ServeModel(*host, *tokenizer, flags, [](const std::string&) {});
  const Status trace = WriteTraceFile(flags.model.trace, host->ranks());
  return status.ok() ? trace : status;
}

}  // namespace

void ServeFlags::Register(CLI::App& app) {
  model.Register(app);
  app.add_option("--tokenizer-path", tokenizer_path,
                 "tokenizer.json; default: the one in --model-path");
  app.add_option("--chat-template", chat_template,
                 "How messages become a prompt: auto (by model_type), v3, v3.1 or v3.2")
      ->capture_default_str();
  app.add_option("--host", host, "Address or name to listen on")->capture_default_str();
  app.add_option("--port", port, "0: any free port")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--served-model-name", served_model_name,
                 "The model's name in the API; default: --model-path as given");
  app.add_option("--api-key", api_key, "Ask clients for this key (Authorization: Bearer KEY)");
  app.add_option("--max-running-requests", max_running_requests,
                 "Requests in prefill or decode at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--max-queued-requests", max_queued_requests,
                 "Requests accepted and not yet answered; more get 503")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--drain-seconds", drain_seconds,
                 "After SIGINT or SIGTERM: how long requests may go on; a second signal ends them")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
}

Status ServeModel(ModelHost& host, const Tokenizer& tokenizer, const ServeFlags& flags,
                  const std::function<void(const std::string& url)>& announce) {
  CAUSEWAY_ASSIGN_OR_RETURN(const ChatFormat format,
                            ChooseChatFormat(flags.chat_template, host.config()));
  const int64_t kv_tokens = host.pages().capacity() * kPage;
  const ServedModel model{
      .name = flags.served_model_name.empty() ? flags.model.model_path : flags.served_model_name,
      .tokenizer = tokenizer,
      .chat_format = format,
      // What a single request may need must fit the cache as well.
      .context_length = std::min(host.context_length(), kv_tokens),
      .vocab_size = host.config().vocab_size,
      .bos_token = static_cast<int32_t>(host.config().bos_token_id),
      .max_choices = flags.max_queued_requests};
  EngineOptions engine_options;
  engine_options.limits.chunked_prefill_size = flags.model.chunked_prefill_size;
  engine_options.limits.max_running_requests = flags.max_running_requests;
  engine_options.max_queued_requests = flags.max_queued_requests;
  // Ids without text, beyond the tokenizer's, are never sampled.
  engine_options.vocab_limit = tokenizer.size();

  // Ended in reverse: no handler without its API, no callback without its engine.
  SignalWatch signals;
  Engine engine(host, engine_options);
  OpenAiApi api(engine, model, {.api_key = flags.api_key, .on_report = &LogRequest});
  CAUSEWAY_ASSIGN_OR_RETURN(const auto server,
                            HttpServer::Listen(ListenOptions(flags), api.Routes()));
  LogLine("serving")
      .Add("url", server->url())
      .Add("model", model.name)
      .Add("layout", host.ranks().layout().ToString())
      .Add("isa", host.ops().name)
      .Add("dtype", host.ranks().mode() == DType::kF32 ? "float32" : "bfloat16")
      .Add("kv_cache_dtype", NameOf(host.cache().shape().latent_type()))
      .Add("kv_cache_bytes", host.cache().bytes())
      .Add("context_length", model.context_length)
      .Add("max_total_tokens", kv_tokens)
      .Add("chunked_prefill_size", flags.model.chunked_prefill_size)
      .Add("max_running_requests", flags.max_running_requests)
      .Add("max_queued_requests", flags.max_queued_requests)
      .Add("chat_template", NameOf(format))
      .Add("api_key", flags.api_key.empty() ? "none" : "set")
      .AddSeconds("load_s", host.load_seconds());
  if (const auto& excluded = host.weights().fp8_excluded(); !excluded.empty()) {
    // Where they are cut, they do not fit whole blocks: two bytes a weight instead of one.
    LogLine("fp8_held_as_bf16").Add("matrices", excluded.size()).Add("first", excluded.front());
  }
  announce(server->url());

  // A failed step, or a host lost between steps, ends the server: the ranks have no way back.
  while (engine.healthy() && host.ranks().failure().ok()) {
    if (!signals.Wait(kPollMs)) continue;
    DrainAndStop(engine, api, *server, signals, flags.drain_seconds);
    return Status();
  }
  // The engine has told every request; the answers still have to reach the clients.
  api.StartDraining();
  server->Stop(Deadline::AfterMs(kFlushMs));
  return InternalError(Text("the ranks can't be used any more; restart. What failed: ",
                            host.ranks().failure().message()));
}

void AddServe(CLI::App& app, Run& run) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve a model over HTTP (OpenAI's API)");
  flags->Register(*command);
  command->callback([flags, &run] { run = [flags] { return RunServe(*flags); }; });
}

}  // namespace causeway
