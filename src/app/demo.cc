// causeway demo: the main job on what the binary carries. A random-weight model of realistic shape
// prefills a real text with one rank and with two context-parallel ranks, and shows that the bits
// are the same and where the time went.
#include <cstdio>
#include <cstring>

#include "app/command.h"
#include "app/demo_data.h"
#include "app/demo_model.h"
#include "app/flags.h"
#include "app/report.h"
#include "app/text_model.h"
#include "text/detokenizer.h"

namespace causeway {
namespace {

constexpr int64_t kPromptTokens = 8192;
constexpr int kAnswerTokens = 24;

struct DemoFlags {
  ModelFlags model;
  std::string directory = kDemoDirectory;
  bool no_serve = false;
};

// What one layout made of the prompt.
struct Outcome {
  NamedTimes times;
  std::vector<float> logits;    // after the prompt
  std::vector<int32_t> answer;  // greedy
  uint64_t kv_hash = 0;         // of every latent and index key of the prompt
};

// FNV's multiplier over words of 8 bytes instead of bytes: fast enough for a whole cache.
uint64_t Fnv(const void* data, int64_t bytes, uint64_t hash) {
  const auto* at = static_cast<const uint64_t*>(data);
  for (int64_t i = 0; i < bytes / 8; ++i) hash = (hash ^ at[i]) * 0x100000001b3u;
  return hash;
}

StatusOr<Outcome> Answer(ModelHost& host, const std::vector<int32_t>& prompt, int64_t chunk,
                         const std::string& name) {
  CAUSEWAY_ASSIGN_OR_RETURN(
      const auto run, SequenceRun::Make(host, static_cast<int64_t>(prompt.size()) + kAnswerTokens));
  Outcome out;
  CAUSEWAY_RETURN_IF_ERROR(host.ranks().ClearTraces());
  const int64_t begin_ns = NowNs();
  CAUSEWAY_RETURN_IF_ERROR(run->Prefill(prompt, chunk, LogitsWanted::kLast, out.logits));
  const double seconds = static_cast<double>(NowNs() - begin_ns) * 1e-9;
  out.times = {name, OperationTimes::Of(host.ranks().lanes()), seconds};
  // What the cache holds is hashed and not only what was computed from it: every key must agree.
  const KvShape& shape = host.cache().shape();
  out.kv_hash = 0xcbf29ce484222325u;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (int64_t p = 0; p * kPage < run->length(); ++p) {
      const int32_t page = run->pages()[static_cast<size_t>(p)];
      const KvCache& cache = host.cache();
      out.kv_hash = Fnv(cache.LatentPage(layer, page), kPage * shape.latent_bytes(), out.kv_hash);
      out.kv_hash = Fnv(cache.IndexPage(layer, page), kPage * shape.index_bytes(), out.kv_hash);
    }
  }
  // Greedy decoding, so that the answers can be compared token by token.
  std::vector<float> logits = out.logits;
  for (int i = 0; i < kAnswerTokens; ++i) {
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    out.answer.push_back(static_cast<int32_t>(best));
    CAUSEWAY_RETURN_IF_ERROR(run->Decode(out.answer.back(), logits));
  }
  return out;
}

std::string Quoted(const std::string& text) {
  // Line breaks would tear the table apart.
  std::string out;
  for (char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

Status RunDemo(DemoFlags& flags) {
  CAUSEWAY_RETURN_IF_ERROR(MakeDemoModel(flags.directory).status());
  ModelFlags& model = flags.model;
  model.model_path = flags.directory;
  CAUSEWAY_ASSIGN_OR_RETURN(HostOptions options, model.ToHostOptions());
  CAUSEWAY_ASSIGN_OR_RETURN(const auto host, ModelHost::Load(options));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto tokenizer,
                            LoadTokenizer(flags.directory, "", host->config()));
  std::vector<int32_t> prompt = tokenizer->Encode(DemoText());
  prompt.insert(prompt.begin(), static_cast<int32_t>(host->config().bos_token_id));
  CHECK(static_cast<int64_t>(prompt.size()) >= kPromptTokens, prompt.size());
  prompt.resize(kPromptTokens);

  std::vector<Outcome> outcomes;
  Layout layout = host->ranks().layout();
  // The same weights and cache under both layouts: only the ranks are made anew.
  for (int cp : {1, 2}) {
    layout.cp = cp;
    host->SetLayout(layout);
    // A short prefill first, so that neither layout pays for cold memory.
    std::vector<float> ignored;
    CAUSEWAY_ASSIGN_OR_RETURN(auto warm, SequenceRun::Make(*host, kPromptTokens));
    CAUSEWAY_RETURN_IF_ERROR(
        warm->Prefill({prompt.begin(), prompt.begin() + 1024}, -1, LogitsWanted::kNone, ignored));
    warm.reset();
    CAUSEWAY_ASSIGN_OR_RETURN(Outcome outcome,
                              Answer(*host, prompt, model.chunked_prefill_size, Text("cp", cp)));
    outcomes.push_back(std::move(outcome));
  }

  Detokenizer detokenizer(*tokenizer);
  std::string answer;
  for (int32_t id : outcomes[0].answer) answer += detokenizer.Push(id);
  answer += detokenizer.Flush();
  const std::string tail = tokenizer->Decode({prompt.end() - 24, prompt.end()});
  std::printf(
      "\nprompt: %lld tokens of GSM8K, ending \"...%s\"\n"
      "continuation (random weights, so it means nothing): \"%s\"\n\n",
      static_cast<long long>(kPromptTokens), Quoted(tail).c_str(), Quoted(answer).c_str());
  std::printf("time to first token by operation and rank (kernels: %s)\n%s\n", host->ops().name,
              OperationTable({outcomes[0].times, outcomes[1].times}).c_str());
  std::printf("time to first token: cp 1 %.3f s, cp 2 %.3f s: %.2f times as fast\n",
              outcomes[0].times.wall_seconds, outcomes[1].times.wall_seconds,
              outcomes[0].times.wall_seconds / outcomes[1].times.wall_seconds);
  const bool same_logits = std::memcmp(outcomes[0].logits.data(), outcomes[1].logits.data(),
                                       outcomes[0].logits.size() * sizeof(float)) == 0;
  const bool same = same_logits && outcomes[0].kv_hash == outcomes[1].kv_hash &&
                    outcomes[0].answer == outcomes[1].answer;
  std::printf("bits: KV cache hash %016llx and %016llx, logits %s, continuation %s: %s\n",
              static_cast<unsigned long long>(outcomes[0].kv_hash),
              static_cast<unsigned long long>(outcomes[1].kv_hash),
              same_logits ? "equal" : "DIFFERENT",
              outcomes[0].answer == outcomes[1].answer ? "equal" : "DIFFERENT",
              same ? "cp 1 and cp 2 gave the same bits" : "the layouts DISAGREE");
  std::fflush(stdout);
  // A difference is a bug, and the exit code says so.
  if (!same) return InternalError("cp 1 and cp 2 gave different bits");
  return WriteTraceFile(model.trace, host->ranks());
}

}  // namespace

void AddDemo(CLI::App& app, Run& run) {
  auto flags = std::make_shared<DemoFlags>();
  CLI::App* command =
      app.add_subcommand("demo", "Prefill an embedded real text with cp 1 and cp 2, and compare");
  command->add_option("--demo-dir", flags->directory, "Where the demo checkpoint lies or is made")
      ->capture_default_str();
  command->add_flag("--no-serve", flags->no_serve,
                    "Accepted, without effect: `causeway up` serves the model");
  command->add_option("--isa", flags->model.isa, "Instruction set")->capture_default_str();
  command->add_option("--trace", flags->model.trace, "Chrome/Perfetto trace of the cp 2 run");
  command->callback([flags, &run] { run = [flags] { return RunDemo(*flags); }; });
}

}  // namespace causeway
