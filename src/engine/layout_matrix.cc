#include "engine/layout_matrix.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace causeway {
namespace {
constexpr uint32_t kPromptSeed = 20261125;
}

std::string LayoutCase::ToString() const { return Text(layout.ToString(), ", chunk ", chunk); }

std::vector<LayoutCase> LayoutCases(const ModelConfig& config, DType mode, int most_ranks,
                                    int hosts) {
  std::vector<LayoutCase> cases;
  int threads = 1;
  // A world is spread evenly over the hosts.
  for (int world = hosts; world <= most_ranks; world += hosts) {
    for (int cp = 1; cp <= world; ++cp) {
      for (int dp = 1; cp * dp <= world; ++dp) {
        for (int ep = 1; ep <= world; ++ep) {
          for (MoeA2a backend : {MoeA2a::kAllGather, MoeA2a::kAllToAll}) {
            for (PartitionKind partition :
                 {PartitionKind::kContiguous, PartitionKind::kZigzag, PartitionKind::kBalanced}) {
              const auto layout = Layout::Make({.world = world,
                                                .cp = cp,
                                                .dp = dp,
                                                .ep = ep,
                                                .hosts = hosts,
                                                .threads_per_rank = threads,
                                                .partition = partition,
                                                .moe_a2a = backend});
              // All combinations are tried, and the same checks as at start decide which of them
              // exist.
              if (!layout.ok() || !CheckLayout(config, mode, *layout).ok()) continue;
              // Layouts take turns with 1 and 2 threads a rank.
              threads = 3 - threads;
              for (int64_t chunk : {1, 7, 64, 1000, -1}) cases.push_back({*layout, chunk});
            }
          }
        }
      }
    }
  }
  return cases;
}

std::vector<LayoutCase> SampleCases(std::vector<LayoutCase> cases, int64_t count, uint64_t seed) {
  if (static_cast<int64_t>(cases.size()) <= count) return cases;
  std::mt19937_64 random(seed);
  std::vector<LayoutCase> out;
  std::sample(cases.begin(), cases.end(), std::back_inserter(out), count, random);
  return out;
}

std::vector<std::vector<LayoutCase>> SampleGroups(std::vector<std::vector<LayoutCase>> groups,
                                                  int64_t count, uint64_t seed) {
  std::vector<size_t> by_size(groups.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return groups[a].size() < groups[b].size(); });
  // The smallest group first: what it has not got falls to the larger ones.
  for (size_t done = 0; done < groups.size(); ++done) {
    std::vector<LayoutCase>& group = groups[by_size[done]];
    group = SampleCases(std::move(group), count / static_cast<int64_t>(groups.size() - done), seed);
    count -= static_cast<int64_t>(group.size());
  }
  return groups;
}

std::vector<std::vector<int32_t>> MatrixPrompts(int64_t vocab_size) {
  std::mt19937 random(kPromptSeed);
  std::vector<std::vector<int32_t>> prompts;
  // A single token, more tokens than two pages of 64 hold, and lengths that do not divide evenly.
  for (int64_t length : {1, 131, 2, 37, 70}) {
    auto& prompt = prompts.emplace_back();
    for (int64_t i = 0; i < length; ++i) {
      prompt.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
    }
  }
  return prompts;
}

namespace {

// Decode steps after the prompts: tokens of each sequence, and whether of the longest alone.
struct DecodeStep {
  int64_t tokens;
  bool alone;
};
// Several tokens: as when drafts are verified. The ranks of a TP group work differently on one row,
// on a few and on many.
constexpr DecodeStep kDecodeSteps[] = {{1, false}, {1, true}, {4, false}, {3, true}, {1, false}};
constexpr int64_t kDecodedTokens = 1 + 1 + 4 + 3 + 1;

// A step of the ranks, whose logits go to the sequences that own its extends.
Status MatrixStep(ModelHost& host, const Batch& batch, const std::vector<size_t>& owners,
                  std::vector<std::vector<float>>& logits) {
  StepOutput output(host.config(), host.weights().mode(), batch, nullptr);
  CAUSEWAY_RETURN_IF_ERROR(host.ranks().RunStep(batch, output));
  for (size_t i = 0; i < owners.size(); ++i) {
    const Extend& e = batch.extends[i];
    const float* first = output.logits().row(output.RowOf(batch, static_cast<int32_t>(i), e.begin));
    auto& to = logits[owners[i]];
    to.insert(to.end(), first, first + (e.end() - e.begin) * host.config().vocab_size);
  }
  return Status();
}

}  // namespace

StatusOr<std::vector<float>> MatrixLogits(ModelHost& host, const LayoutCase& one,
                                          const std::vector<std::vector<int32_t>>& prompts) {
  // Weights and cache stay; only the ranks are made anew.
  if (host.ranks().layout() != one.layout) host.SetLayout(one.layout);
  std::vector<std::unique_ptr<SequenceRun>> runs;
  for (size_t i = 0; i < prompts.size(); ++i) {
    CAUSEWAY_ASSIGN_OR_RETURN(
        auto run,
        SequenceRun::Make(host, static_cast<int64_t>(prompts[i].size()) + kDecodedTokens));
    runs.push_back(std::move(run));
  }
  std::vector<std::vector<float>> logits(prompts.size());
  std::vector<int64_t> done(prompts.size(), 0);
  // In turn: which group computes a sequence must not change its logits.
  const auto group = [&](size_t i) {
    return static_cast<int32_t>(i % static_cast<size_t>(one.layout.dp));
  };
  for (;;) {
    Batch batch;
    std::vector<size_t> owners;
    // A step extends every prompt by one chunk, so that steps mix prompts of different lengths.
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto length = static_cast<int64_t>(prompts[i].size());
      const int64_t end = one.chunk <= 0 ? length : std::min(length, done[i] + one.chunk);
      if (end == done[i]) continue;
      batch.extends.push_back({.tokens = {prompts[i].begin() + done[i], prompts[i].begin() + end},
                               .begin = done[i],
                               .decode = false,
                               .pages = runs[i]->pages(),
                               .logits = LogitsWanted::kAll,
                               .dp = group(i)});
      owners.push_back(i);
      done[i] = end;
    }
    if (batch.extends.empty()) break;
    CAUSEWAY_RETURN_IF_ERROR(MatrixStep(host, batch, owners, logits));
  }
  size_t longest = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].size() > prompts[longest].size()) longest = i;
  }
  for (const DecodeStep& step : kDecodeSteps) {
    Batch batch;
    std::vector<size_t> owners;
    for (size_t i = 0; i < prompts.size(); ++i) {
      if (step.alone && i != longest) continue;
      std::vector<int32_t> tokens;
      for (int64_t t = 0; t < step.tokens; ++t) {
        tokens.push_back(static_cast<int32_t>((done[i] + t) * 31 % host.config().vocab_size));
      }
      batch.extends.push_back({.tokens = tokens,
                               .begin = done[i],
                               .decode = true,
                               .pages = runs[i]->pages(),
                               .logits = LogitsWanted::kAll,
                               .dp = group(i)});
      owners.push_back(i);
      done[i] += step.tokens;
    }
    CAUSEWAY_RETURN_IF_ERROR(MatrixStep(host, batch, owners, logits));
  }
  std::vector<float> all;
  for (const auto& one_prompt : logits) all.insert(all.end(), one_prompt.begin(), one_prompt.end());
  return all;
}

}  // namespace causeway
