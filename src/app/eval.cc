// causeway eval layouts: does every layout of this model give the bits of a single rank?
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/flags.h"
#include "engine/layout_eval.h"

namespace causeway {
namespace {

// Sequences of the matrix are short; their KV pages take little.
constexpr int64_t kContext = 256;
constexpr int64_t kTotalTokens = 1024;

struct EvalFlags {
  ModelFlags model;  // without those of layouts: the cases set them
  int world = 8;
  int64_t sample = 100;
  uint64_t seed = 1;
  bool json = false;
};

// On a terminal a counter in place; in a log a line for each tenth.
void ShowProgress(const EvalResult& so_far, int64_t total) {
  if (isatty(STDERR_FILENO) != 0) {
    std::fprintf(stderr, "\r%lld of %lld combinations, %lld equal%s",
                 static_cast<long long>(so_far.ran), static_cast<long long>(total),
                 static_cast<long long>(so_far.equal), so_far.ran == total ? "\n" : "");
  } else if (so_far.ran * 10 / total != (so_far.ran - 1) * 10 / total) {
    std::fprintf(stderr, "%lld of %lld combinations, %lld equal\n",
                 static_cast<long long>(so_far.ran), static_cast<long long>(total),
                 static_cast<long long>(so_far.equal));
  }
}

Status RunLayouts(const EvalFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(HostOptions options, flags.model.ToHostOptions());
  options.context_length = kContext;
  options.max_total_tokens = kTotalTokens;
  options.ranks.pin_threads = false;  // more ranks than CPUs are no mistake here
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  const auto legal = LayoutCases(host->config(), options.dtype, flags.world, /*hosts=*/1);
  const auto cases = flags.sample == 0 ? legal : SampleCases(legal, flags.sample, flags.seed);
  const auto total = static_cast<int64_t>(cases.size());
  const auto prompts = MatrixPrompts(host->config().vocab_size);
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<float> expected, MatrixLogits(*host, {}, prompts));

  const int64_t begin_ns = NowNs();
  // The ranks of one process. Layouts of several hosts need another CaseRun, which starts a process
  // for each host and gathers the logits; CompareCases is the same for both.
  const CaseRun in_this_process = [&](const LayoutCase& one) {
    return MatrixLogits(*host, one, prompts);
  };
  CAUSEWAY_ASSIGN_OR_RETURN(
      const EvalResult result,
      CompareCases(cases, prompts, expected, in_this_process,
                   [&](const EvalResult& so_far) { ShowProgress(so_far, total); }));
  const double seconds = static_cast<double>(NowNs() - begin_ns) * 1e-9;

  if (flags.json) {
    nlohmann::json report = {{"model", flags.model.model_path},
                             {"dtype", NameOf(options.dtype)},
                             {"world", flags.world},
                             {"legal", legal.size()},
                             {"ran", result.ran},
                             {"equal", result.equal},
                             {"seed", flags.seed},
                             {"logits", expected.size()},
                             {"seconds", seconds}};
    if (result.first.has_value()) {
      report["first_difference"] = {
          {"flags", FlagsOf(result.first->one)}, {"prompt", result.first->prompt},
          {"position", result.first->position},  {"id", result.first->id},
          {"found", result.first->found},        {"expected", result.first->expected}};
    }
    std::printf("%s\n", report.dump().c_str());
  } else {
    std::printf(
        "%s, %s: %lld of %zu legal combinations of up to %d ranks ran in %.1f s (seed "
        "%llu)\n%lld gave the bits of one rank in all %zu logits\n",
        flags.model.model_path.c_str(), NameOf(options.dtype), static_cast<long long>(result.ran),
        legal.size(), flags.world, seconds, static_cast<unsigned long long>(flags.seed),
        static_cast<long long>(result.equal), expected.size());
  }
  if (!result.first.has_value()) return Status();
  return InternalError(Text(result.ran - result.equal, " of ", result.ran,
                            " combinations differ from one rank, first ",
                            result.first->ToString()));
}

}  // namespace

void AddEval(CLI::App& app, Run& run) {
  CLI::App* eval = app.add_subcommand("eval", "Check what this program promises");
  eval->require_subcommand(1);
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* layouts = eval->add_subcommand(
      "layouts", "Compare the logits of many layouts with those of one rank, bit for bit");
  layouts
      ->add_option("--model-path,--model", flags->model.model_path,
                   "Checkpoint directory as on Hugging Face")
      ->required();
  layouts->add_option("--dtype", flags->model.dtype, "Numeric mode: bfloat16 or float32")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}))
      ->capture_default_str();
  flags->model.RegisterIndexCacheDtype(*layouts);
  layouts->add_option("--isa", flags->model.isa, "Instruction set of the kernels")
      ->capture_default_str();
  layouts->add_option("--world", flags->world, "Most ranks of a layout")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  layouts
      ->add_option("--sample", flags->sample,
                   "Combinations of layout, partition, backend and chunk size to run, drawn at "
                   "random from the legal ones; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  layouts->add_option("--seed", flags->seed, "Which ones are drawn")->capture_default_str();
  RegisterJson(*layouts, flags->json);
  layouts->callback([flags, &run] { run = [flags] { return RunLayouts(*flags); }; });
}

}  // namespace causeway
