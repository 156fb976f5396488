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
  int32_t dp = 0;               // the data-parallel group that computes it, from admission on
  int64_t submitted_ns = 0;
  int64_t admitted_ns = 0;
  int64_t first_token_ns = 0;

  int64_t prompt_tokens() const { return static_cast<int64_t>(request->prompt.size()); }
  int64_t max_tokens() const { return prompt_tokens() + request->sampling.max_new_tokens; }
  // What the next steps have to compute for it, as far as is known: tokens of the prompt, or one.
  int64_t tokens_ahead() const { return stage == Stage::kDecode ? 1 : prompt_tokens() - cached; }
};

struct SchedulerLimits {
  // Prompt tokens of a step, over all data-parallel groups; <= 0: no limit.
  int64_t chunked_prefill_size = 8192;
  int64_t max_running_requests = 64;  // in prefill or decode; at least 1
};

// Used by the engine thread only.
class Scheduler {
 public:
  // `groups`: data-parallel groups of ranks, at least 1.
  Scheduler(PagePool& pages, const SchedulerLimits& limits, int groups)
      : pages_(pages), limits_(limits), groups_(groups) {}

  // Pages that the sequence needs at its longest. Submit refuses what can never fit.
  static int64_t PagesFor(const Sequence& sequence);

  // To the end of the waiting ones.
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
  //
  // An admitted sequence joins the data-parallel group with the fewest tokens ahead, the lowest of
  // equals, and stays there: only that group is sure to have its keys.
  Batch Next(int64_t now_ns, std::vector<Sequence*>& owners);

  // Takes a waiting or running sequence out and frees its pages.
  std::unique_ptr<Sequence> Remove(Sequence* sequence);

 private:
  // By tokens ahead; the lowest number of equals.
  int32_t LeastLoadedGroup() const;

  PagePool& pages_;
  const SchedulerLimits limits_;
  const int groups_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
};

}  // namespace causeway
