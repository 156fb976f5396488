// causeway logits: token ids in, logits of all positions out.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/flags.h"
#include "app/report.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/writer.h"

namespace causeway {
namespace {

struct LogitsFlags {
  ModelFlags model;
  // Files: token ids in; logits out, and logits to compare with. The last two may be empty.
  std::string tokens;
  std::string output;
  std::string compare;
  bool hidden = false;
  bool json = false;
};

// Largest and mean absolute error, largest error relative to the largest expected value, and the
// share of rows whose best token is the same.
struct Comparison {
  double max_abs = 0;
  double mean_abs = 0;
  double max_relative = 0;
  double top1_agreement = 0;
};

Comparison Compare(const float* found, const float* expected, int64_t rows, int64_t vocab) {
  Comparison out;
  double largest = 0;
  int64_t same = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const float* a = found + row * vocab;
    const float* b = expected + row * vocab;
    for (int64_t i = 0; i < vocab; ++i) {
      const double error = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
      // A NaN must stay and not lose against a number in std::max.
      out.max_abs = std::isnan(error) ? error : std::max(out.max_abs, error);
      out.mean_abs += error;
      largest = std::max(largest, std::fabs(static_cast<double>(b[i])));
    }
    same += std::max_element(a, a + vocab) - a == std::max_element(b, b + vocab) - b;
  }
  out.mean_abs /= static_cast<double>(rows * vocab);
  out.max_relative = out.max_abs / std::max(largest, 1e-30);
  out.top1_agreement = static_cast<double>(same) / static_cast<double>(rows);
  return out;
}

Status WriteOutput(const LogitsFlags& flags, const ModelConfig& config,
                   const std::vector<float>& logits, const Capture& capture, int64_t tokens) {
  std::vector<SafetensorsWriter::Declaration> declarations = {
      {"logits", StoredType::kF32, {tokens, config.vocab_size}}};
  std::vector<std::pair<const void*, int64_t>> data = {
      {logits.data(), static_cast<int64_t>(logits.size()) * 4}};
  const auto add = [&](const std::string& name, StoredType type, int64_t width,
                       const auto& values) {
    // Dense models have no indices, and dense layers no router: nothing is written for them.
    if (values.empty()) return;
    declarations.push_back({name, type, {tokens, width}});
    data.emplace_back(values.data(), static_cast<int64_t>(values.size()) * 4);
  };
  if (flags.hidden) {
    for (size_t n = 0; n < capture.hidden.size(); ++n) {
      add(Text("hidden.", n), StoredType::kF32, config.hidden_size, capture.hidden[n]);
    }
    for (size_t n = 0; n < capture.router_indices.size(); ++n) {
      const int64_t active = config.num_experts_per_tok;
      add(Text("router_indices.", n), StoredType::kI32, active, capture.router_indices[n]);
      add(Text("router_weights.", n), StoredType::kF32, active, capture.router_weights[n]);
      add(Text("topk_indices.", n), StoredType::kI32, config.index_topk, capture.topk_indices[n]);
    }
  }
  CAUSEWAY_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                            SafetensorsWriter::Create(flags.output, declarations));
  for (size_t i = 0; i < declarations.size(); ++i) {
    CAUSEWAY_RETURN_IF_ERROR(writer.Write(declarations[i].name, data[i].first, data[i].second));
  }
  return writer.Finish();
}

Status RunLogits(const LogitsFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                            ReadTokensFile("--tokens", flags.tokens));
  CAUSEWAY_ASSIGN_OR_RETURN(HostOptions options, flags.model.ToHostOptions());
  const auto count = static_cast<int64_t>(tokens.size());
  // No more cache than the tokens need.
  if (options.context_length == 0) options.context_length = count;
  if (flags.hidden && options.ranks.layout.hosts > 1) {
    return InvalidArgument("--hidden needs one host: others' hidden states stay there");
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  if (host->follows()) return host->Follow();
  const ModelConfig& config = host->config();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= config.vocab_size) {
      return InvalidArgument(Text(flags.tokens, ": tokens[", i, "] is ", tokens[i],
                                  "; the model's ids are 0 to ", config.vocab_size - 1));
    }
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const auto run, SequenceRun::Make(*host, count));
  std::vector<float> logits;
  Capture capture(config, flags.hidden ? count : 0);
  // Capture has room for one step's tokens.
  if (flags.hidden && flags.model.chunked_prefill_size > 0 &&
      flags.model.chunked_prefill_size < count) {
    return InvalidArgument(
        Text("--hidden needs the ", count, " tokens in one step: set --chunked-prefill-size -1"));
  }
  CAUSEWAY_RETURN_IF_ERROR(run->Prefill(tokens, flags.model.chunked_prefill_size,
                                        LogitsWanted::kAll, logits,
                                        flags.hidden ? &capture : nullptr));
  nlohmann::json report = {{"model", flags.model.model_path},
                           {"layout", host->ranks().layout().ToString()},
                           {"tokens", count},
                           {"vocab_size", config.vocab_size}};
  const std::string hash = LogitsHash(logits);
  report["logits_hash"] = hash;
  if (!flags.output.empty()) {
    CAUSEWAY_RETURN_IF_ERROR(WriteOutput(flags, config, logits, capture, count));
    report["output"] = flags.output;
  }
  if (!flags.json) {
    std::printf("%lld tokens, layout %s, logits hash %s\n", static_cast<long long>(count),
                host->ranks().layout().ToString().c_str(), hash.c_str());
  }
  if (!flags.compare.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(const auto golden, Checkpoint::OpenFile(flags.compare));
    CAUSEWAY_ASSIGN_OR_RETURN(const StoredTensor expected,
                              golden->Find("logits", {count, config.vocab_size}));
    std::vector<float> values(static_cast<size_t>(expected.elements()));
    CopyToF32(expected, 0, expected.elements(), values.data());
    const Comparison c = Compare(logits.data(), values.data(), count, config.vocab_size);
    report["compare"] = {{"file", flags.compare},
                         {"max_abs_error", c.max_abs},
                         {"mean_abs_error", c.mean_abs},
                         {"max_relative_error", c.max_relative},
                         {"top1_agreement", c.top1_agreement}};
    if (!flags.json) {
      std::printf(
          "against %s: max abs error %.3g, mean abs error %.3g, max relative error %.3g, "
          "top-1 agreement %.4f\n",
          flags.compare.c_str(), c.max_abs, c.mean_abs, c.max_relative, c.top1_agreement);
    }
  }
  if (flags.json) std::printf("%s\n", report.dump().c_str());
  return WriteTraceFile(flags.model.trace, host->ranks());
}

}  // namespace

void AddLogits(CLI::App& app, Run& run) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* command = app.add_subcommand("logits", "Token ids in, logits of all positions out");
  // One chunk unless asked for otherwise, as --hidden needs it.
  flags->model.chunked_prefill_size = -1;
  flags->model.Register(*command);
  command->add_option("--tokens", flags->tokens, "JSON file {\"tokens\": [...]}")->required();
  command->add_option("--output", flags->output, "safetensors file for `logits` [T, V] f32");
  command->add_option("--compare", flags->compare,
                      "safetensors file whose `logits` to compare with");
  command->add_flag("--hidden", flags->hidden,
                    "Also write hidden.N, router_indices.N, router_weights.N, topk_indices.N");
  RegisterJson(*command, flags->json);
  command->callback([flags, &run] { run = [flags] { return RunLogits(*flags); }; });
}

}  // namespace causeway
