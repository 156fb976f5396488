// causeway bench: what this machine does with a model.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "app/bench_decode.h"
#include "app/bench_grammar.h"
#include "app/bench_input.h"
#include "app/bench_kernels.h"
#include "app/bench_route.h"
#include "app/bench_serving.h"
#include "app/bench_transfer.h"
#include "app/command.h"
#include "app/expert_load.h"
#include "app/flags.h"
#include "app/peak.h"
#include "app/report.h"
#include "app/volumes.h"
#include "model/cost.h"

namespace causeway {
namespace {

struct BenchFlags {
  ModelFlags model;
  // In tokens.
  int64_t input_len = 8192;
  int repeat = 3;
  // A second layout; empty: none.
  std::string vs;
  bool expert_balance = false;
  // A path; empty: none.
  std::string expert_load_output;
  bool json = false;
};

// One timed prefill.
struct Timing {
  double seconds = 0;
  OperationTimes operations;
  VolumeReport volumes;
  ExpertLoad experts;
};

// Counts cover this one prefill: they are cleared before, and gathered outside the timed part.
StatusOr<Timing> TimePrefill(ModelHost& host, const std::vector<int32_t>& tokens, int64_t chunk) {
  CAUSEWAY_ASSIGN_OR_RETURN(const auto run,
                            SequenceRun::Make(host, static_cast<int64_t>(tokens.size())));
  std::vector<float> logits;
  CAUSEWAY_RETURN_IF_ERROR(host.ranks().ClearTraces());
  const int64_t begin_ns = NowNs();
  CAUSEWAY_RETURN_IF_ERROR(run->Prefill(tokens, chunk, LogitsWanted::kLast, logits));
  const double seconds = static_cast<double>(NowNs() - begin_ns) * 1e-9;
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<HostCounts> counts, host.ranks().Counts());
  const Layout& layout = host.ranks().layout();
  return Timing{seconds, OperationTimes::Of(host.ranks().lanes()),
                VolumeReport(host.weights(), host.cache().shape(), layout, counts,
                             static_cast<int64_t>(tokens.size()), chunk),
                ExpertLoad(host.weights(), layout, counts)};
}

struct Result {
  Layout layout;
  std::vector<double> seconds = {};
  OperationTimes operations = {};  // of the fastest run
  VolumeReport volumes = {};       // the same in every run
  ExpertLoad experts = {};         // the same
};

// A part of the model's work: what it needs and the operations whose time it is.
struct Part {
  const char* name;
  FlopCounts flops;
  std::vector<std::string> operations;
};

std::vector<Part> PartsOf(const FlopCounts& all) {
  // Keys and values are expanded, or queries absorbed, inside of attention.
  return {
      {"projections",
       {.projections = all.projections - all.kv_b},
       {"kv latent", "query projections", "o_proj"}},
      {"attention", {.attention = all.attention + all.kv_b}, {"attention"}},
      {"indexer", {.indexer = all.indexer, .index_scores = all.index_scores}, {"indexer"}},
      {"feed forward",
       {.feed_forward = all.feed_forward},
       {"dense mlp", "router", "expert dispatch", "experts", "expert combine", "shared expert"}}};
}

// Seconds of all threads together in the operations of a part.
double ThreadSecondsOf(const Part& part, const Result& result) {
  double seconds = 0;
  for (size_t i = 0; i < result.operations.operations.size(); ++i) {
    const auto& names = part.operations;
    if (std::find(names.begin(), names.end(), result.operations.operations[i]) == names.end()) {
      continue;
    }
    for (const auto& rank : result.operations.seconds) seconds += rank[i];
  }
  return seconds * result.layout.threads_per_rank;
}

// How peaks are counted: see LeastSeconds.
struct Peaks {
  PeakFlops flops;
  bool int8_weights;
  bool int8_index;
  double Least(const FlopCounts& counts) const {
    return LeastSeconds(counts, flops, int8_weights, int8_index);
  }
};

// Parts with their share of the peak: {"attention": {"flops", "thread_seconds", "share_of_peak"}}.
nlohmann::json PartsJson(const Result& result, const FlopCounts& flops, const Peaks& peaks) {
  nlohmann::json out = nlohmann::json::object();
  for (const Part& part : PartsOf(flops)) {
    const double seconds = ThreadSecondsOf(part, result);
    if (seconds == 0) continue;
    out[part.name] = {{"flops", part.flops.total()},
                      {"thread_seconds", seconds},
                      {"share_of_peak", peaks.Least(part.flops) / seconds}};
  }
  return out;
}

void PrintParts(const Result& result, const FlopCounts& flops, const Peaks& peaks) {
  std::printf("\n%-20s %10s %16s %12s  %s\n", "part", "GFLOP", "thread seconds", "% of peak",
              result.layout.ToString().c_str());
  for (const Part& part : PartsOf(flops)) {
    const double seconds = ThreadSecondsOf(part, result);
    if (seconds == 0) continue;
    std::printf("%-20s %10.1f %16.3f %12.1f\n", part.name, part.flops.total() * 1e-9, seconds,
                100.0 * peaks.Least(part.flops) / seconds);
  }
}

nlohmann::json ResultJson(const Result& result, const BenchFlags& flags, const ModelConfig& config,
                          const FlopCounts& flops, const Peaks& peaks) {
  // The best run stands for a layout: what disturbs a run only makes it slower.
  const double best = *std::min_element(result.seconds.begin(), result.seconds.end());
  const int threads = result.layout.world() * result.layout.threads_per_rank;
  nlohmann::json out = {{"model", flags.model.model_path},
                        {"layout", result.layout.ToString()},
                        {"dtype", flags.model.dtype == "float32" ? "float32" : "bfloat16"},
                        {"model_type", config.model_type},
                        {"tokens", flags.input_len},
                        {"seconds", best},
                        {"ttft_seconds", best},
                        {"median_seconds", Median(result.seconds)},
                        {"tokens_per_s", static_cast<double>(flags.input_len) / best},
                        {"flops", flops.total()},
                        {"flops_by_part",
                         {{"projections", flops.projections},
                          {"attention", flops.attention},
                          {"indexer", flops.indexer},
                          {"feed_forward", flops.feed_forward},
                          {"head", flops.head}}},
                        {"peak_flops_per_thread", peaks.flops.real},
                        {"int8_peak_per_thread", peaks.flops.int8},
                        // Necessary operations against what all threads could do in that time.
                        {"share_of_peak", peaks.Least(flops) / best / threads},
                        {"parts", PartsJson(result, flops, peaks)},
                        {"operations", OperationJson(result.operations)},
                        {"volumes", result.volumes.ToJson()}};
  if (result.layout.hosts > 1) out["host_volumes"] = result.volumes.HostsToJson();
  if (flags.expert_balance) out["expert_balance"] = result.experts.ToJson();
  return out;
}

Status RunPrefill(const BenchFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(HostOptions options, flags.model.ToHostOptions());
  // No more cache than the prompt needs.
  if (options.context_length == 0) options.context_length = flags.input_len;
  std::vector<Result> results = {{.layout = options.ranks.layout}};
  if (!flags.vs.empty() && options.ranks.layout.hosts > 1) {
    return InvalidArgument(
        "--vs compares layouts of one host; with --nnodes run the command twice");
  }
  if (!flags.vs.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(const Layout other, ParseLayout(flags.vs, flags.model));
    results.push_back({.layout = other});
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  if (host->follows()) return host->Follow();
  const ModelConfig& config = host->config();
  const std::vector<int32_t> tokens = BenchTokens(flags.input_len, config.vocab_size);
  const PeakFlops peak = MeasurePeaks(host->ops(), host->weights().mode());
  // Layouts in turn, so that a slow minute of the machine meets both.
  for (int i = 0; i < flags.repeat + 1; ++i) {
    for (Result& result : results) {
      if (results.size() > 1) host->SetLayout(result.layout);
      CAUSEWAY_ASSIGN_OR_RETURN(const Timing timing,
                                TimePrefill(*host, tokens, flags.model.chunked_prefill_size));
      if (i == 0) continue;  // warms caches and memory
      if (result.seconds.empty() ||
          timing.seconds < *std::min_element(result.seconds.begin(), result.seconds.end())) {
        result.operations = timing.operations;
        result.volumes = timing.volumes;
        result.experts = timing.experts;
      }
      result.seconds.push_back(timing.seconds);
    }
  }
  const FlopCounts flops = NecessaryFlops(config, 0, flags.input_len, 1);
  const bool fast = host->weights().mode() == DType::kBf16;
  const Peaks peaks = {peak, fast && config.quant_method == QuantMethod::kInt8,
                       host->cache().shape().int8_index};
  const double least = peaks.Least(flops);
  nlohmann::json report = ResultJson(results[0], flags, config, flops, peaks);
  report["isa"] = host->ops().name;
  report["scratch_bytes_per_rank"] = host->ranks().scratch_bytes();
  report["scratch_bound_per_rank"] = host->ranks().scratch_bound();
  std::vector<double> ratios;
  if (results.size() > 1) {
    // Runs of the same turn are compared with each other, as the machine's pace changes over
    // minutes.
    for (size_t i = 0; i < results[0].seconds.size(); ++i) {
      ratios.push_back(results[1].seconds[i] / results[0].seconds[i]);
    }
    report["vs"] = ResultJson(results[1], flags, config, flops, peaks);
    report["vs_ratio"] = {{"median", Median(ratios)},
                          {"min", *std::min_element(ratios.begin(), ratios.end())},
                          {"max", *std::max_element(ratios.begin(), ratios.end())}};
  }
  if (!flags.expert_load_output.empty()) {
    CAUSEWAY_RETURN_IF_ERROR(results[0].experts.WriteFile(flags.expert_load_output));
  }
  if (flags.json) {
    std::printf("%s\n", report.dump().c_str());
    return WriteTraceFile(flags.model.trace, host->ranks());
  }
  std::printf("%s, %lld tokens, %s, kernels %s, peak %.1f GFLOP/s a thread\n",
              flags.model.model_path.c_str(), static_cast<long long>(flags.input_len),
              flags.model.dtype.c_str(), host->ops().name, peak.real * 1e-9);
  std::vector<NamedTimes> tables;
  for (const Result& result : results) {
    const double best = *std::min_element(result.seconds.begin(), result.seconds.end());
    const int threads = result.layout.world() * result.layout.threads_per_rank;
    std::printf("%-44s %8.3f s %9.1f tokens/s %8.1f GFLOP %5.1f %% of peak\n",
                result.layout.ToString().c_str(), best, static_cast<double>(flags.input_len) / best,
                flops.total() * 1e-9, 100.0 * least / best / threads);
    if (flags.expert_balance) std::printf("%s", result.experts.Table().c_str());
    tables.push_back({Text("cp", result.layout.cp), result.operations, best});
  }
  if (!ratios.empty()) {
    std::printf("first is %.2f times as fast as second (median of %zu pairs, %.2f to %.2f)\n",
                Median(ratios), ratios.size(), *std::min_element(ratios.begin(), ratios.end()),
                *std::max_element(ratios.begin(), ratios.end()));
  }
  std::printf("\n%s", OperationTable(tables).c_str());
  for (const Result& result : results) PrintParts(result, flops, peaks);
  for (const Result& result : results) {
    const std::string table = result.volumes.Table();
    if (table.empty()) continue;  // one rank
    std::printf("\n%s\n%s", result.layout.ToString().c_str(), table.c_str());
    const std::string hosts = result.volumes.HostTable();
    if (!hosts.empty()) std::printf("\n%s", hosts.c_str());
  }
  return WriteTraceFile(flags.model.trace, host->ranks());
}

}  // namespace

void AddBench(CLI::App& app, Run& run) {
  CLI::App* bench = app.add_subcommand("bench", "Measure");
  bench->require_subcommand(1);
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* prefill = bench->add_subcommand("prefill", "Time to first token of one prompt");
  flags->model.Register(*prefill);
  prefill->add_option("--input-len,--tokens", flags->input_len, "Prompt tokens")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  prefill->add_option("--repeat", flags->repeat, "Timed runs; one more warms up")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  prefill->add_option("--vs", flags->vs,
                      "A second layout, measured in turn, e.g. cp-size=1,threads-per-rank=2");
  prefill->add_flag("--expert-balance", flags->expert_balance,
                    "Print how evenly tokens chose experts and their parts");
  prefill->add_option("--expert-load-output", flags->expert_load_output,
                      "Write how many tokens chose each expert, for --init-expert-location");
  RegisterJson(*prefill, flags->json);
  prefill->callback([flags, &run] { run = [flags] { return RunPrefill(*flags); }; });
  AddBenchDecode(*bench, run);
  AddBenchGrammar(*bench, run);
  AddBenchKernels(*bench, run);
  AddBenchServing(*bench, run);
  AddBenchRoute(*bench, run);
  AddBenchTransfer(*bench, run);
}

}  // namespace causeway
