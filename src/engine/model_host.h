// A checkpoint loaded on this host: weights, KV cache and ranks, ready to run steps.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "cache/page_pool.h"
#include "checkpoint/model_config.h"
#include "engine/memory_budget.h"
#include "engine/rank_group.h"
#include "model/rope.h"
#include "model/weights.h"
#include "parallel/layout.h"

namespace causeway {

class ModelHost;

struct HostOptions {
  std::string model_path;
  DType dtype = DType::kBf16;               // the numeric mode, DESIGN section 5
  bool int8_index = false;                  // index keys of the cache as int8, else in `dtype`
  bool int8_kv = false;                     // latents of the cache as int8, else in `dtype`
  KvMemory kv_memory = KvMemory::kPrivate;  // kShared: of a prefill server
  std::string isa = "auto";
  int64_t context_length = 0;    // tokens per sequence; 0: as far as the KV cache goes
  int64_t max_total_tokens = 0;  // KV cache of all sequences; 0: by memory, see below
  // Of the memory that the process may use, the part for weights and KV cache: without
  // max_total_tokens the cache gets what the weights leave. 0: as much of that as one sequence of
  // context_length needs, the part being kAutomaticMemoryFraction.
  double mem_fraction_static = 0.0;
  RedundantExperts redundant;  // experts that two ep parts hold
  RankGroupOptions ranks;      // ops and hosts are filled in
  // On several hosts (ranks.layout.hosts), how they meet; see GlooOptions.
  std::string dist_init_addr;
  std::string dist_token;
  std::string dist_interface;
  int64_t dist_timeout_ms = 60'000;              // of each collective between hosts
  int64_t dist_rendezvous_timeout_ms = 600'000;  // for all hosts to have loaded and met
  LoadProgress progress;                         // may be empty
  // Called on every host once all have met, before there are ranks: then, and only then,
  // ExchangeTexts can be called. May be empty.
  std::function<Status(ModelHost&)> before_ranks;
};

class ModelHost {
 public:
  // Errors name the flag, file or tensor.
  static StatusOr<std::unique_ptr<ModelHost>> Load(const HostOptions& options);

  const ModelConfig& config() const { return weights_->config(); }
  const Weights& weights() const { return *weights_; }
  const KvCache& cache() const { return *cache_; }
  RankGroup& ranks() { return *ranks_; }
  PagePool& pages() { return *pages_; }
  int64_t context_length() const { return context_length_; }
  const OpTable& ops() const { return *ops_; }
  double load_seconds() const { return load_seconds_; }
  // What the memory came to, if it was asked: without max_total_tokens or with mem_fraction_static.
  const std::optional<MemoryBudget>& memory() const { return memory_; }

  // Replaces the ranks by those of another layout over the same weights and cache. One host only.
  // Sequences in the cache stay valid, since pages do not depend on the layout.
  void SetLayout(const Layout& layout);

  // What every host says, by host; all must call it, with at most 1 MiB.
  StatusOr<std::vector<std::string>> ExchangeTexts(const std::string& mine);
  // The same for checkpoints whose tokens have the same embeddings and whose config.json gives keys
  // the same shape, also where weights are quantised in other ways.
  const std::string& fingerprint() const { return fingerprint_; }

  // True on all hosts but the first: they only Follow, which returns when host 0 has ended.
  bool follows() const { return options_.host > 0; }
  Status Follow() { return ranks_->Follow(); }

 private:
  ModelHost() = default;

  RankGroupOptions options_;
  const OpTable* ops_ = nullptr;
  int64_t context_length_ = 0;
  double load_seconds_ = 0;
  std::string fingerprint_;
  std::optional<MemoryBudget> memory_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<RopeTable> rope_;
  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<Communicator> hosts_;  // null on one host; outlives the ranks
  std::unique_ptr<RankGroup> ranks_;
};

// One sequence run step by step without a scheduler, for commands and tests. Takes its pages from
// the host and gives them back at the end.
class SequenceRun {
 public:
  // Pages for `tokens` tokens; kUnavailable if there are not so many.
  static StatusOr<std::unique_ptr<SequenceRun>> Make(ModelHost& host, int64_t tokens);
  ~SequenceRun();

  // Extends the sequence by `tokens` in chunks of at most `chunk` (<= 0: all at once). Appends the
  // wanted logits rows to `logits`, and with `capture` fills it (needs one chunk).
  Status Prefill(const std::vector<int32_t>& tokens, int64_t chunk, LogitsWanted wanted,
                 std::vector<float>& logits, Capture* capture = nullptr);
  // One decode step: the token's logits replace `logits`.
  Status Decode(int32_t token, std::vector<float>& logits);
  int64_t length() const { return length_; }
  const std::vector<int32_t>& pages() const { return pages_; }

 private:
  explicit SequenceRun(ModelHost& host) : host_(host) {}
  // One step of the ranks with this sequence alone in its batch.
  Status Step(std::vector<int32_t> tokens, bool decode, LogitsWanted wanted,
              std::vector<float>& logits, Capture* capture);

  ModelHost& host_;
  std::vector<int32_t> pages_;
  int64_t length_ = 0;
};

}  // namespace causeway
