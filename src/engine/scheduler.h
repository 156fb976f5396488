// Scheduler: which tokens of which requests go into the next step. No threads, no clocks, no
// sockets: data in, batches out.
//
// The life of a request, stage by stage; every module uses these words:
//   waiting    submitted, owns no pages
//   prefill    owns pages for its prompt and its longest answer; its prompt goes in by chunks
//   decode     one token a step
//   finished   gave its pages back; its result is on the way to the client
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "cache/page_pool.h"
#include "engine/request.h"
#include "model/batch.h"

namespace causeway {

// A request inside the engine.
struct Sequence {
  enum class Stage { kWaiting, kPrefill, kDecode, kFinished };

  std::shared_ptr<Request> request;
  Stage stage = Stage::kWaiting;
  std::vector<int32_t> pages;
  std::vector<int32_t> output;  // generated tokens, eos and stop tokens included
  int64_t cached = 0;           // tokens in the KV cache
  int64_t submitted_ns = 0;
  int64_t admitted_ns = 0;
  int64_t first_token_ns = 0;

  int64_t prompt_tokens() const { return static_cast<int64_t>(request->prompt.size()); }
  int64_t max_tokens() const { return prompt_tokens() + request->sampling.max_new_tokens; }
};

struct SchedulerLimits {
  int64_t chunked_prefill_size = 8192;  // prompt tokens of a step; <= 0: no limit
  int64_t max_running_requests = 64;    // in prefill or decode; at least 1
};

// Used by the engine thread only.
class Scheduler {
 public:
  Scheduler(PagePool& pages, const SchedulerLimits& limits) : pages_(pages), limits_(limits) {}

  // Pages that the sequence needs at its longest. Submit refuses what can never fit.
  static int64_t PagesFor(const Sequence& sequence);

  void Add(std::unique_ptr<Sequence> sequence);
  // The sequence with this id, or null.
  Sequence* Find(const std::string& id);
  // Every sequence, waiting or running.
  std::vector<Sequence*> All() const;
  bool idle() const { return waiting_.empty() && running_.empty(); }
  size_t waiting() const { return waiting_.size(); }
  size_t running() const { return running_.size(); }

  // Admits waiting sequences, first come first served, as long as pages and limits allow; then one
  // extend for every decoding sequence, and prompt chunks within the token budget, oldest first.
  // owners[i] owns batch.extends[i]. Empty only if idle().
  Batch Next(int64_t now_ns, std::vector<Sequence*>& owners);

  // Takes a waiting or running sequence out and frees its pages.
  std::unique_ptr<Sequence> Remove(Sequence* sequence);

 private:
  PagePool& pages_;
  const SchedulerLimits limits_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
};

}  // namespace causeway
