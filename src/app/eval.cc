// causeway eval layouts: does every layout of this model give the bits of a single rank?
// causeway eval case: one of those layouts, for its processes and to look at by hand.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "app/command.h"
#include "app/flags.h"
#include "app/host_processes.h"
#include "app/report.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/temporary_directory.h"
#include "checkpoint/writer.h"
#include "engine/layout_eval.h"

namespace causeway {
namespace {

// Sequences of the matrix are short; their KV pages take little.
constexpr int64_t kContext = 256;
constexpr int64_t kTotalTokens = 1024;

struct EvalFlags {
  ModelFlags model;  // without those of layouts: the cases set them
  // The most ranks that a layout may have.
  int world = 8;
  std::vector<int> processes = {1};
  // In seconds, for one combination over several processes.
  int64_t case_timeout = 120;
  // How many combinations are run; 0: all.
  int64_t sample = 100;
  uint64_t seed = 1;
  bool json = false;
};

// The combinations with one number of processes.
struct Group {
  int processes = 1;
  size_t legal = 0;
  std::vector<LayoutCase> cases;  // those to run
  EvalResult result;
  double seconds = 0;
};

// On a terminal a counter in place; in a log a line for each tenth.
void ShowProgress(int64_t ran, int64_t equal, int64_t total) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  if (!terminal && ran * 10 / total == (ran - 1) * 10 / total) return;
  std::fprintf(stderr, "%s%lld of %lld combinations, %lld equal%s", terminal ? "\r" : "",
               static_cast<long long>(ran), static_cast<long long>(total),
               static_cast<long long>(equal), !terminal || ran == total ? "\n" : "");
}

StatusOr<std::vector<Group>> GroupsOf(const EvalFlags& flags, const ModelConfig& config,
                                      DType mode) {
  std::vector<int> processes = flags.processes;
  std::sort(processes.begin(), processes.end());
  processes.erase(std::unique(processes.begin(), processes.end()), processes.end());
  std::vector<Group> groups;
  std::vector<std::vector<LayoutCase>> cases;
  for (const int count : processes) {
#ifndef CAUSEWAY_GLOO
    if (count > 1) {
      return InvalidArgument(Text("--processes is ", count,
                                  "; this build has no Gloo, so it runs on one host only: "
                                  "install libgloo-dev and build again"));
    }
#endif
    cases.push_back(LayoutCases(config, mode, flags.world, count));
    if (cases.back().empty()) {
      return InvalidArgument(Text("--processes is ", count, "; expected no more than --world, ",
                                  flags.world, ", and as many as a layout of this model allows"));
    }
    Group& group = groups.emplace_back();
    group.processes = count;
    group.legal = cases.back().size();
  }
  if (flags.sample != 0) cases = SampleGroups(std::move(cases), flags.sample, flags.seed);
  for (size_t i = 0; i < groups.size(); ++i) groups[i].cases = std::move(cases[i]);
  return groups;
}

// Computes a case with one process of this binary for each host.
StatusOr<std::vector<float>> LogitsOfProcesses(const EvalFlags& flags, const LayoutCase& one,
                                               size_t logits) {
  const TemporaryDirectory files;
  const std::string output = files.File("logits.safetensors");
  // A host that waits for another names it in time, before it is killed itself.
  const std::string wait = std::to_string(std::max<int64_t>(1, flags.case_timeout / 2));
  std::vector<std::string> arguments = {"eval",
                                        "case",
                                        "--model-path",
                                        flags.model.model_path,
                                        "--dtype",
                                        flags.model.dtype,
                                        "--kv-cache-dtype",
                                        flags.model.kv_cache_dtype,
                                        "--index-cache-dtype",
                                        flags.model.index_cache_dtype,
                                        "--isa",
                                        flags.model.isa,
                                        "--output",
                                        output,
                                        "--dist-timeout",
                                        wait,
                                        "--dist-rendezvous-timeout",
                                        wait};
  // FlagsOf speaks as on a command line: a case that differs can be run by hand.
  std::istringstream words(FlagsOf(one));
  for (std::string word; words >> word;) {
    if (word == "--nnodes") {
      words >> word;  // RunHosts says it
    } else {
      arguments.push_back(word);
    }
  }
  // This very binary, however it was called.
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  CAUSEWAY_RETURN_IF_ERROR(
      RunHosts(self, one.layout.hosts, arguments, files.path(), flags.case_timeout * 1000));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto file, Checkpoint::OpenFile(output));
  CAUSEWAY_ASSIGN_OR_RETURN(const StoredTensor stored,
                            file->Find("logits", {static_cast<int64_t>(logits)}));
  std::vector<float> values(logits);
  CopyToF32(stored, 0, stored.elements(), values.data());
  return values;
}

nlohmann::json ReportOf(const EvalFlags& flags, const std::vector<Group>& groups) {
  nlohmann::json report = {{"model", flags.model.model_path},
                           {"world", flags.world},
                           {"seed", flags.seed},
                           {"processes", nlohmann::json::array()}};
  size_t legal = 0;
  int64_t ran = 0;
  int64_t equal = 0;
  double seconds = 0;
  for (const Group& group : groups) {
    report["processes"].push_back({{"processes", group.processes},
                                   {"legal", group.legal},
                                   {"ran", group.result.ran},
                                   {"equal", group.result.equal},
                                   {"seconds", group.seconds}});
    legal += group.legal;
    ran += group.result.ran;
    equal += group.result.equal;
    seconds += group.seconds;
    const auto& first = group.result.first;
    if (first.has_value() && !report.contains("first_difference")) {
      report["first_difference"] = {{"flags", FlagsOf(first->one)}, {"prompt", first->prompt},
                                    {"position", first->position},  {"id", first->id},
                                    {"found", first->found},        {"expected", first->expected}};
    }
  }
  report.update({{"legal", legal}, {"ran", ran}, {"equal", equal}, {"seconds", seconds}});
  return report;
}

void PrintText(const EvalFlags& flags, const std::vector<Group>& groups,
               const nlohmann::json& report) {
  std::printf(
      "%s, %s: %lld of %lld legal combinations of up to %d ranks ran in %.1f s (seed %llu)\n",
      flags.model.model_path.c_str(), report["dtype"].get<std::string>().c_str(),
      report["ran"].get<long long>(), report["legal"].get<long long>(), flags.world,
      report["seconds"].get<double>(), static_cast<unsigned long long>(flags.seed));
  for (const Group& group : groups) {
    std::printf("%9d process%s %lld of %zu ran in %.1f s, %lld equal\n", group.processes,
                group.processes == 1 ? ":  " : "es:", static_cast<long long>(group.result.ran),
                group.legal, group.seconds, static_cast<long long>(group.result.equal));
  }
  std::printf("%lld gave the bits of one rank in all %lld logits\n",
              report["equal"].get<long long>(), report["logits"].get<long long>());
}

Status RunLayouts(const EvalFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(HostOptions options, flags.model.ToHostOptions());
  if (options.ranks.layout.hosts > 1) {
    return InvalidArgument(Text("eval layouts was started on ", options.ranks.layout.hosts,
                                " nodes by Slurm; expected one: it starts --processes itself"));
  }
  options.context_length = kContext;
  options.max_total_tokens = kTotalTokens;
  options.ranks.pin_threads = false;  // more ranks than CPUs are no mistake here
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  CAUSEWAY_ASSIGN_OR_RETURN(std::vector<Group> groups,
                            GroupsOf(flags, host->config(), options.dtype));
  const auto prompts = MatrixPrompts(host->config().vocab_size);
  // The default layout is one rank: its logits are what all others are held against.
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<float> expected, MatrixLogits(*host, {}, prompts));

  const CaseRun run = [&](const LayoutCase& one) {
    return one.layout.hosts == 1 ? MatrixLogits(*host, one, prompts)
                                 : LogitsOfProcesses(flags, one, expected.size());
  };
  int64_t total = 0;
  for (const Group& group : groups) total += static_cast<int64_t>(group.cases.size());
  int64_t ran = 0;
  int64_t equal = 0;
  for (Group& group : groups) {
    const int64_t begin_ns = NowNs();
    CAUSEWAY_ASSIGN_OR_RETURN(
        group.result,
        CompareCases(group.cases, prompts, expected, run, [&](const EvalResult& so_far) {
          ShowProgress(ran + so_far.ran, equal + so_far.equal, total);
        }));
    group.seconds = static_cast<double>(NowNs() - begin_ns) * 1e-9;
    ran += group.result.ran;
    equal += group.result.equal;
  }

  nlohmann::json report = ReportOf(flags, groups);
  report["dtype"] = NameOf(options.dtype);
  report["logits"] = expected.size();
  if (flags.json) {
    std::printf("%s\n", report.dump().c_str());
  } else {
    PrintText(flags, groups, report);
  }
  // All have run and are in the report; the exit code tells of the first difference.
  for (const Group& group : groups) {
    if (!group.result.first.has_value()) continue;
    return InternalError(Text(ran - equal, " of ", ran,
                              " combinations differ from one rank, first ",
                              group.result.first->ToString()));
  }
  return Status();
}

struct CaseFlags {
  ModelFlags model;
  std::string output;
  bool json = false;
};

Status RunCase(const CaseFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const HostOptions options, flags.model.ToHostOptions());
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  // Hosts other than the first compute their part and have nothing to write.
  if (host->follows()) return host->Follow();
  const LayoutCase one{host->ranks().layout(), flags.model.chunked_prefill_size};
  const auto prompts = MatrixPrompts(host->config().vocab_size);
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<float> logits, MatrixLogits(*host, one, prompts));
  const auto count = static_cast<int64_t>(logits.size());
  if (!flags.output.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(
        SafetensorsWriter writer,
        SafetensorsWriter::Create(flags.output, {{"logits", StoredType::kF32, {count}}}));
    CAUSEWAY_RETURN_IF_ERROR(writer.Write("logits", logits.data(), count * 4));
    CAUSEWAY_RETURN_IF_ERROR(writer.Finish());
  }
  const std::string hash = LogitsHash(logits);
  if (flags.json) {
    const nlohmann::json report = {
        {"model", flags.model.model_path}, {"flags", FlagsOf(one)}, {"logits_hash", hash}};
    std::printf("%s\n", report.dump().c_str());
  } else {
    std::printf("%s: logits hash %s\n", one.ToString().c_str(), hash.c_str());
  }
  return WriteTraceFile(flags.model.trace, host->ranks());
}

void AddLayouts(CLI::App& eval, Run& run) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* layouts = eval.add_subcommand(
      "layouts", "Compare the logits of many layouts with those of one rank, bit for bit");
  layouts
      ->add_option("--model-path,--model", flags->model.model_path,
                   "Checkpoint directory as on Hugging Face")
      ->required();
  layouts->add_option("--dtype", flags->model.dtype, "Numeric mode: bfloat16 or float32")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}))
      ->capture_default_str();
  flags->model.RegisterCacheDtypes(*layouts);
  layouts->add_option("--isa", flags->model.isa, "Instruction set of the kernels")
      ->capture_default_str();
  layouts->add_option("--world", flags->world, "Most ranks of a layout")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  layouts
      ->add_option("--processes", flags->processes,
                   "Over how many processes, one for each host on loopback, the ranks are spread: "
                   "some of 1,2,4")
      ->delimiter(',')
      ->check(CLI::IsMember({"1", "2", "4"}))
      ->capture_default_str();
  layouts
      ->add_option("--case-timeout", flags->case_timeout,
                   "Seconds after which a combination with several processes fails")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  layouts
      ->add_option("--sample", flags->sample,
                   "Combinations of layout, partition, backend and chunk size to run, drawn at "
                   "random from the legal ones, as many for each of --processes; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  layouts->add_option("--seed", flags->seed, "Which ones are drawn")->capture_default_str();
  RegisterJson(*layouts, flags->json);
  layouts->callback([flags, &run] { run = [flags] { return RunLayouts(*flags); }; });
}

void AddCase(CLI::App& eval, Run& run) {
  auto flags = std::make_shared<CaseFlags>();
  CLI::App* one = eval.add_subcommand(
      "case", "Compute the prompts of eval layouts in one layout, --chunked-prefill-size of each");
  flags->model.chunked_prefill_size = -1;
  flags->model.context_length = kContext;
  flags->model.max_total_tokens = kTotalTokens;
  flags->model.Register(*one);
  one->add_option("--output", flags->output,
                  "safetensors file for `logits`, f32: of all prompts, one after another");
  RegisterJson(*one, flags->json);
  one->callback([flags, &run] { run = [flags] { return RunCase(*flags); }; });
}

}  // namespace

void AddEval(CLI::App& app, Run& run) {
  CLI::App* eval = app.add_subcommand("eval", "Check what this program promises");
  eval->require_subcommand(1);
  AddLayouts(*eval, run);
  AddCase(*eval, run);
}

}  // namespace causeway
