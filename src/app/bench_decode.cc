// Sequences of several lengths are prefilled once; then all layouts and lengths take turns, so that
// a slow minute of the machine meets them all. A turn decodes the same positions as the turns
// before it, so a length stays what it is.
#include "app/bench_decode.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/bench_input.h"
#include "app/flags.h"
#include "app/report.h"
#include "base/trace.h"
#include "kernels/cpu/bare_peak.h"
#include "model/cost.h"

namespace causeway {
namespace {

constexpr int kTurns = 21;  // and one before, untimed, that warms caches and memory
// Of memory, for each thread: far more than its caches hold, and soon read.
constexpr int64_t kMemoryBlock = int64_t{64} << 20;
constexpr int kMemoryRuns = 3;

struct DecodeFlags {
  ModelFlags model;
  std::vector<int64_t> input_lens = {512};  // tokens before the first decode step
  int64_t output_len = 32;                  // steps of a turn
  int64_t batch_size = 1;
  std::string vs;  // a second layout; empty: none
  bool json = false;
};

// Sequences of one length that decode together.
struct Sequences {
  int64_t length = 0;
  std::vector<std::unique_ptr<SequenceRun>> runs;
};

// What a layout took for one length.
struct Timing {
  std::vector<double> seconds;    // a step, of each turn
  std::vector<double> bandwidth;  // of memory about each turn, bytes a second
  OperationTimes operations;      // of the fastest turn, all its steps
  double best() const { return *std::min_element(seconds.begin(), seconds.end()); }
  double bandwidth_of_best() const {
    const auto fastest = std::min_element(seconds.begin(), seconds.end());
    return bandwidth[static_cast<size_t>(fastest - seconds.begin())];
  }
  // Of the bandwidth that there was in the same turn, the median turn's.
  double ShareOfBandwidth(double bytes) const {
    std::vector<double> shares;
    for (size_t i = 0; i < seconds.size(); ++i) {
      shares.push_back(bytes / seconds[i] / bandwidth[i]);
    }
    return Median(shares);
  }
};

struct Result {
  Layout layout;
  std::vector<Timing> timings;  // of each length
  std::unique_ptr<MemoryReaders> memory;
};

// One step of all sequences, `step` positions after their prompts, as the scheduler would make it.
Status DecodeStep(ModelHost& host, const Sequences& sequences, int64_t step,
                  const std::vector<int32_t>& tokens) {
  const int dp = host.ranks().layout().dp;
  Batch batch;
  for (size_t i = 0; i < sequences.runs.size(); ++i) {
    batch.extends.push_back({.tokens = {tokens[static_cast<size_t>(step) + i]},
                             .begin = sequences.length + step,
                             .decode = true,
                             .pages = sequences.runs[i]->pages(),
                             .logits = LogitsWanted::kLast,
                             .dp = static_cast<int32_t>(i) % dp});
  }
  StepOutput output(host.config(), host.weights().mode(), batch, nullptr);
  return host.ranks().RunStep(batch, output);
}

// One turn: output_len steps. Adds to `timing` unless that is null.
Status Turn(ModelHost& host, const Sequences& sequences, const DecodeFlags& flags, Timing* timing) {
  const std::vector<int32_t> tokens =
      BenchTokens(flags.output_len + flags.batch_size, host.config().vocab_size);
  // New threads, and caches that another layout has filled, need a moment.
  CAUSEWAY_RETURN_IF_ERROR(DecodeStep(host, sequences, 0, tokens));
  CAUSEWAY_RETURN_IF_ERROR(host.ranks().ClearTraces());
  const int64_t begin_ns = NowNs();
  for (int64_t i = 0; i < flags.output_len; ++i) {
    CAUSEWAY_RETURN_IF_ERROR(DecodeStep(host, sequences, i, tokens));
  }
  const double step =
      static_cast<double>(NowNs() - begin_ns) * 1e-9 / static_cast<double>(flags.output_len);
  if (timing == nullptr) return Status();
  if (timing->seconds.empty() || step < timing->best()) {
    timing->operations = OperationTimes::Of(host.ranks().lanes());
  }
  timing->seconds.push_back(step);
  return Status();
}

StatusOr<std::vector<Sequences>> PrefillAll(ModelHost& host, const DecodeFlags& flags) {
  std::vector<Sequences> all;
  for (const int64_t length : flags.input_lens) {
    Sequences& sequences = all.emplace_back();
    sequences.length = length;
    for (int64_t i = 0; i < flags.batch_size; ++i) {
      CAUSEWAY_ASSIGN_OR_RETURN(auto run, SequenceRun::Make(host, length + flags.output_len));
      std::vector<int32_t> tokens = BenchTokens(length + i, host.config().vocab_size);
      tokens.erase(tokens.begin(), tokens.begin() + i);  // no two alike
      std::vector<float> logits;
      CAUSEWAY_RETURN_IF_ERROR(
          run->Prefill(tokens, flags.model.chunked_prefill_size, LogitsWanted::kNone, logits));
      sequences.runs.push_back(std::move(run));
    }
  }
  return all;
}

nlohmann::json ToJson(const Result& result, const std::vector<DecodeBytes>& needed,
                      const DecodeFlags& flags) {
  nlohmann::json out = nlohmann::json::array();
  for (size_t i = 0; i < result.timings.size(); ++i) {
    const Timing& timing = result.timings[i];
    const double best = timing.best();
    out.push_back({{"layout", result.layout.ToString()},
                   {"input_len", flags.input_lens[i]},
                   {"batch_size", flags.batch_size},
                   {"seconds_per_token", best},
                   {"median_seconds_per_token", Median(timing.seconds)},
                   {"tokens_per_s", static_cast<double>(flags.batch_size) / best},
                   {"bytes", {{"weights", needed[i].weights}, {"keys", needed[i].keys}}},
                   {"bytes_per_s", static_cast<double>(needed[i].total()) / best},
                   {"memory_bytes_per_s", timing.bandwidth_of_best()},
                   {"share_of_bandwidth", timing.ShareOfBandwidth(needed[i].total())},
                   {"operations", OperationJson(timing.operations)}});
  }
  return out;
}

void Print(const Result& result, const std::vector<DecodeBytes>& needed, const DecodeFlags& flags) {
  for (size_t i = 0; i < result.timings.size(); ++i) {
    const Timing& timing = result.timings[i];
    const double best = timing.best();
    const auto bytes = static_cast<double>(needed[i].total());
    std::printf(
        "%-36s %8lld %9.3f ms %9.1f tokens/s %8.1f MB %6.1f of %4.1f GB/s %5.1f %%  %5.2f\n",
        result.layout.ToString().c_str(), static_cast<long long>(flags.input_lens[i]), best * 1e3,
        static_cast<double>(flags.batch_size) / best, bytes * 1e-6, bytes / best * 1e-9,
        timing.bandwidth_of_best() * 1e-9, 100.0 * timing.ShareOfBandwidth(bytes),
        best / result.timings[0].best());
  }
}

Status RunDecode(const DecodeFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(HostOptions options, flags.model.ToHostOptions());
  int64_t pages = 0;
  for (const int64_t length : flags.input_lens) {
    pages += flags.batch_size * ((length + flags.output_len + kPage - 1) / kPage);
  }
  const int64_t longest = *std::max_element(flags.input_lens.begin(), flags.input_lens.end());
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(options.model_path));
  if (longest + flags.output_len > config.max_position_embeddings) {
    return InvalidArgument(Text("--input-len ", longest, " and --output-len ", flags.output_len,
                                " are more than max_position_embeddings ",
                                config.max_position_embeddings, " of ", options.model_path,
                                "/config.json"));
  }
  // No more cache than the sequences need.
  if (options.context_length == 0) options.context_length = longest + flags.output_len;
  if (options.max_total_tokens == 0) options.max_total_tokens = pages * kPage;
  std::vector<Result> results;
  results.push_back({.layout = options.ranks.layout, .timings = {}, .memory = nullptr});
  if (!flags.vs.empty()) {
    if (options.ranks.layout.hosts > 1) {
      return InvalidArgument(
          "--vs compares layouts of one host; with --nnodes run the command twice");
    }
    CAUSEWAY_ASSIGN_OR_RETURN(const Layout other, ParseLayout(flags.vs, flags.model));
    results.push_back({.layout = other, .timings = {}, .memory = nullptr});
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  if (host->follows()) return host->Follow();
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<Sequences> all, PrefillAll(*host, flags));

  for (Result& result : results) {
    result.timings.resize(all.size());
    result.memory = std::make_unique<MemoryReaders>(
        kMemoryBlock, result.layout.ranks_per_host() * result.layout.threads_per_rank);
  }
  for (int turn = 0; turn <= kTurns; ++turn) {
    for (Result& result : results) {
      if (results.size() > 1) host->SetLayout(result.layout);
      for (size_t i = 0; i < all.size(); ++i) {
        Timing* timing = turn == 0 ? nullptr : &result.timings[i];
        const double before = result.memory->Measure(kMemoryRuns);
        CAUSEWAY_RETURN_IF_ERROR(Turn(*host, all[i], flags, timing));
        if (timing == nullptr) continue;
        timing->bandwidth.push_back((before + result.memory->Measure(kMemoryRuns)) / 2);
      }
    }
  }

  std::vector<DecodeBytes> needed;
  for (const int64_t length : flags.input_lens) {
    needed.push_back(NecessaryDecodeBytes(host->weights(), host->cache().shape(),
                                          length + flags.output_len / 2, flags.batch_size));
  }
  if (flags.json) {
    nlohmann::json report = {{"model", flags.model.model_path},
                             {"isa", host->ops().name},
                             {"results", ToJson(results[0], needed, flags)}};
    if (results.size() > 1) report["vs"] = ToJson(results[1], needed, flags);
    std::printf("%s\n", report.dump().c_str());
    return WriteTraceFile(flags.model.trace, host->ranks());
  }
  std::printf(
      "%s, batch %lld, kernels %s; of %d turns, the best but for the share, the median\n"
      "%-36s %8s %12s %18s %11s %19s %7s  %s\n",
      flags.model.model_path.c_str(), static_cast<long long>(flags.batch_size), host->ops().name,
      kTurns, "layout", "context", "a step", "", "must read", "of what memory gives", "share",
      "over first");
  std::vector<NamedTimes> tables;
  for (size_t r = 0; r < results.size(); ++r) {
    Print(results[r], needed, flags);
    for (size_t i = 0; i < all.size(); ++i) {
      const Timing& timing = results[r].timings[i];
      tables.push_back({Text(results.size() > 1 ? Text(r == 0 ? "1st " : "2nd ") : "", "at ",
                             flags.input_lens[i]),
                        timing.operations, timing.best() * static_cast<double>(flags.output_len)});
    }
  }
  std::printf("\n%lld steps\n%s", static_cast<long long>(flags.output_len),
              OperationTable(tables).c_str());
  return WriteTraceFile(flags.model.trace, host->ranks());
}

}  // namespace

void AddBenchDecode(CLI::App& bench, Run& run) {
  auto flags = std::make_shared<DecodeFlags>();
  CLI::App* decode =
      bench.add_subcommand("decode", "Seconds a token after prompts of given lengths");
  flags->model.Register(*decode);
  decode
      ->add_option("--input-len", flags->input_lens,
                   "Tokens before the first decode step; several lengths with commas between")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  decode
      ->add_option("--output-len", flags->output_len,
                   "Decode steps of a turn, of which the best counts")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  decode->add_option("--batch-size", flags->batch_size, "Sequences that decode together")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  decode->add_option("--vs", flags->vs,
                     "A second layout, measured in turn, e.g. cp-size=1,threads-per-rank=2");
  RegisterJson(*decode, flags->json);
  decode->callback([flags, &run] { run = [flags] { return RunDecode(*flags); }; });
}

}  // namespace causeway
