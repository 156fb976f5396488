// causeway generate: prompt in, text out, no server; and where the time to first token went.
#include <unistd.h>

#include <cstdio>
#include <future>
#include <iostream>
#include <iterator>

#include "app/command.h"
#include "app/flags.h"
#include "app/report.h"
#include "app/text_model.h"
#include "engine/engine.h"
#include "text/detokenizer.h"

namespace causeway {
namespace {

struct GenerateFlags {
  ModelFlags model;
  // Exactly one of the next three is given.
  std::string prompt;
  std::string prompt_file;
  std::string tokens;
  std::string tokenizer_path;
  // As for serve; used with --chat only.
  std::string chat_template = "auto";
  bool chat = false;
  bool thinking = false;
  SamplingParams sampling;
  bool json = false;
};

StatusOr<std::vector<int32_t>> PromptTokens(const GenerateFlags& flags, const ModelConfig& config,
                                            const Tokenizer& tokenizer) {
  const int given = static_cast<int>(!flags.prompt.empty()) +
                    static_cast<int>(!flags.prompt_file.empty()) +
                    static_cast<int>(!flags.tokens.empty());
  // None, or several of which all but one would be ignored.
  if (given != 1) {
    return InvalidArgument("give exactly one of --prompt, --prompt-file and --tokens");
  }
  if (!flags.tokens.empty()) return ReadTokensFile("--tokens", flags.tokens);
  std::string text = flags.prompt;
  if (flags.prompt_file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else if (!flags.prompt_file.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(text, ReadTextFile("--prompt-file", flags.prompt_file));
  }
  if (flags.chat) {
    CAUSEWAY_ASSIGN_OR_RETURN(const ChatFormat format,
                              ChooseChatFormat(flags.chat_template, config));
    ChatMessage message;
    message.role = "user";
    message.content = text;
    ChatOptions options;
    options.thinking = flags.thinking;
    CAUSEWAY_ASSIGN_OR_RETURN(text, RenderChat(format, {message}, options));
    return tokenizer.Encode(text);
  }
  std::vector<int32_t> ids = tokenizer.Encode(text);
  ids.insert(ids.begin(), static_cast<int32_t>(config.bos_token_id));
  return ids;
}

Status RunGenerate(const GenerateFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const HostOptions options, flags.model.ToHostOptions());
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(options.model_path));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto tokenizer,
                            LoadTokenizer(options.model_path, flags.tokenizer_path, config));
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                            PromptTokens(flags, config, *tokenizer));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  // Other hosts run the steps of the first until it ends.
  if (host->follows()) return host->Follow();

  EngineOptions engine_options;
  engine_options.limits.chunked_prefill_size = flags.model.chunked_prefill_size;
  engine_options.vocab_limit = tokenizer->size();
  std::promise<RequestResult> finished;
  std::vector<int32_t> ids;
  std::string answer;
  OperationTimes prefill;
  std::future<RequestResult> future = finished.get_future();
  RequestResult result;
  // The engine ends inside, before what its callbacks refer to.
  {
    Engine engine(*host, engine_options);
    Detokenizer detokenizer(*tokenizer);
    auto request = std::make_shared<Request>();
    request->id = "generate";
    request->prompt = prompt;
    request->sampling = flags.sampling;
    request->on_token = [&](const TokenOutput& output) {
      // The engine thread calls between steps, when the lanes are still.
      if (ids.empty()) prefill = OperationTimes::Of(host->ranks().lanes());
      ids.push_back(output.token);
      const std::string piece = detokenizer.Push(output.token);
      answer += piece;
      if (!flags.json) {
        std::fputs(piece.c_str(), stdout);
        std::fflush(stdout);
      }
    };
    request->on_finish = [&](const RequestResult& result) {
      // A prompt that fails, or ends at once, has no first token.
      if (ids.empty()) prefill = OperationTimes::Of(host->ranks().lanes());
      finished.set_value(result);
    };
    CAUSEWAY_RETURN_IF_ERROR(engine.Submit(request));
    // Bounded: every step ends within --watchdog-timeout, and the engine answers every request.
    result = future.get();
    answer += detokenizer.Flush();
  }
  CAUSEWAY_RETURN_IF_ERROR(result.status);
  const double ttft = result.timing.queue_seconds + result.timing.prefill_seconds;
  // The first token belongs to the prefill.
  const double decode_rate =
      result.timing.decode_seconds > 0
          ? static_cast<double>(result.completion_tokens - 1) / result.timing.decode_seconds
          : 0.0;
  if (flags.json) {
    const nlohmann::json report = {
        {"model", options.model_path},
        {"layout", host->ranks().layout().ToString()},
        {"prompt_tokens", result.prompt_tokens},
        {"completion_tokens", result.completion_tokens},
        {"text", answer},
        {"tokens", ids},
        {"finish_reason", result.reason == FinishReason::kStop ? "stop" : "length"},
        {"ttft_seconds", ttft},
        {"decode_tokens_per_s", decode_rate},
        {"operations", OperationJson(prefill)}};
    // Text of half a character, cut by the token limit, must not break the JSON.
    std::printf("%s\n",
                report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::printf("\n");
    std::fprintf(stderr,
                 "\n%lld prompt tokens, %lld generated; time to first token %.3f s; decode %.1f "
                 "tokens/s; layout %s\n%s",
                 static_cast<long long>(result.prompt_tokens),
                 static_cast<long long>(result.completion_tokens), ttft, decode_rate,
                 host->ranks().layout().ToString().c_str(),
                 OperationTable({{"", prefill, ttft}}).c_str());
  }
  return WriteTraceFile(flags.model.trace, host->ranks());
}

}  // namespace

void AddGenerate(CLI::App& app, Run& run) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Prompt in, text out, no server");
  flags->model.Register(*command);
  command->add_option("--prompt", flags->prompt, "The prompt's text");
  command->add_option("--prompt-file", flags->prompt_file, "A file with the prompt; - is stdin");
  command->add_option("--tokens", flags->tokens, "JSON file {\"tokens\": [...]} instead of text");
  command->add_option("--tokenizer-path", flags->tokenizer_path,
                      "tokenizer.json; default: the one in --model-path");
  command->add_flag("--chat", flags->chat, "Send the prompt as a user message");
  command->add_flag("--thinking", flags->thinking, "With --chat: thinking mode");
  command->add_option("--chat-template", flags->chat_template, "auto, v3, v3.1 or v3.2")
      ->capture_default_str();
  // For one prompt by hand, the same answer each time is the better default.
  flags->sampling.temperature = 0;
  command->add_option("--max-new-tokens", flags->sampling.max_new_tokens, "Longest answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", flags->sampling.temperature, "0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-p", flags->sampling.top_p, "Nucleus")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--top-k", flags->sampling.top_k, "-1: off")->capture_default_str();
  command->add_option("--seed", flags->sampling.seed, "Of the sampler")->capture_default_str();
  command->add_flag("--ignore-eos", flags->sampling.ignore_eos, "Go on after the eos token");
  RegisterJson(*command, flags->json);
  command->callback([flags, &run] { run = [flags] { return RunGenerate(*flags); }; });
}

}  // namespace causeway
