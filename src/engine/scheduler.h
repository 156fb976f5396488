// Scheduler: which tokens of which requests go into the next step. No threads, no clocks, no
// sockets: data in, batches out.
//
// The life of a request, stage by stage; every module uses these words:
//   waiting    submitted, or retracted; owns no pages
//   prefill    has pages for what it consists of; its tokens go in by chunks
//   decode     one token a step, and a page more when it needs one
//   finished   gave its pages back; its result is on the way to the client
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cache/page_pool.h"
#include "cache/radix_cache.h"
#include "engine/logit_changes.h"
#include "engine/request.h"
#include "kernels/op_table.h"
#include "model/batch.h"

namespace causeway {

// A request inside the engine.
struct Sequence {
  enum class Stage { kWaiting, kPrefill, kDecode, kFinished };

  std::shared_ptr<Request> request;
  Stage stage = Stage::kWaiting;
  // Of positions [64 i, 64 i + 64). The first `shared` belong to the prefix cache, where `held`
  // locks them; the others are the sequence's own.
  std::vector<int32_t> pages;
  int64_t shared = 0;
  RadixNode* held = nullptr;
  std::vector<int32_t> output;  // generated tokens, eos and stop tokens included
  // Log-probabilities of the prompt, as far as they are known, and whether the client has them.
  std::vector<TokenOutput> prompt_logprobs;
  bool prompt_logprobs_sent = false;
  std::unique_ptr<LogitChanges> changes;  // what these tokens do to the logits of the next
  // The last of the output is not known yet: the step that gives it runs, while the next is
  // planned.
  bool pending = false;
  int64_t cached = 0;      // tokens in the KV cache
  int64_t prompt_hit = 0;  // tokens of the prompt that it found there, before any retraction
  int64_t retractions = 0;
  int32_t dp = 0;  // the data-parallel group that computes it, from admission to retraction
  int64_t submitted_ns = 0;
  int64_t admitted_ns = 0;  // for the first time
  int64_t first_token_ns = 0;

  int64_t prompt_tokens() const { return static_cast<int64_t>(request->prompt.size()); }
  int64_t max_tokens() const { return prompt_tokens() + request->sampling.max_new_tokens; }
  // What it consists of. The last one is not cached: its logits give the next.
  int64_t tokens() const { return prompt_tokens() + static_cast<int64_t>(output.size()); }
  // It has had its last step, whatever that gives.
  bool ending() const {
    return pending && static_cast<int64_t>(output.size()) >= request->sampling.max_new_tokens;
  }
  // The position whose logits give the next log-probability of the prompt that is missing; none:
  // a position that it will never have. It can't be taken from the prefix cache, nor what follows.
  int64_t wanted_row() const {
    const int64_t from = request->sampling.prompt_logprobs_from;
    // Those of tokens that are cached, if they are not known, are under way.
    const int64_t row = std::max(from + static_cast<int64_t>(prompt_logprobs.size()), cached);
    const bool wanted = from >= 0 && !prompt_logprobs_sent && row < prompt_tokens() - 1;
    return wanted ? row : std::numeric_limits<int64_t>::max();
  }
  // What of it may be taken from there: all but the last token, whose logits are needed.
  int64_t sharable() const { return std::min(tokens() - 1, wanted_row()); }
  // What the next steps have to compute for it, as far as is known.
  int64_t tokens_ahead() const { return tokens() - cached; }
};

// Who is admitted next, of those that have not been retracted: the first that came, or the one with
// the longest prefix in the cache among the first 128 (the first of equals), which may starve
// others.
enum class SchedulePolicy { kFcfs, kLpm };

// Rows of logits of prompts in one step, over all sequences, for their log-probabilities: memory
// for so many times the vocabulary.
inline constexpr int64_t kPromptLogprobRows = 256;

struct SchedulerLimits {
  // Tokens of a step, over all data-parallel groups, those of decoding sequences not counted;
  // <= 0: no limit.
  int64_t chunked_prefill_size = 8192;
  // Tokens that the sequences admitted before one step have to compute, but at least one sequence;
  // <= 0: no limit.
  int64_t max_prefill_tokens = 16384;
  int64_t max_running_requests = 64;  // in prefill or decode; at least 1
  // Pages of 64 tokens that stay free at an admission for the answer of every running sequence, or
  // as many as it still needs: more means fewer retractions and fewer that run.
  double schedule_conservativeness = 1.0;
  SchedulePolicy policy = SchedulePolicy::kFcfs;
  // While some sequence decodes, prompts get as many tokens of a step, at least 16, as fit in this
  // time, going by the last step with any that ended: what a client waits between two tokens. 0: no
  // limit.
  int64_t decode_gap_ns = 0;
};

// Which requests may read which pages: those whose bits they would have written themselves.
struct SharingRules {
  bool enabled = true;
  // Tokens at positions below this get other bits in decode than in prefill (MaterialisedEnd).
  int64_t decode_differs_below = std::numeric_limits<int64_t>::max();
  // Of each data-parallel group, where its keys are: groups with equal names have each other's.
  // Empty: all have.
  std::vector<std::string> places = {};
};

struct SchedulerCounters {
  int64_t retractions = 0;
  int64_t prompt_tokens = 0;  // of requests admitted for the first time
  int64_t hit_tokens = 0;     // those of them that were not computed
};

// Used by the engine thread only.
class Scheduler {
 public:
  // `groups`: data-parallel groups of ranks, at least 1.
  Scheduler(PagePool& pages, const SchedulerLimits& limits, int groups,
            const SharingRules& rules = {});
  // Gives the pages of the prefix cache back.
  ~Scheduler();

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
  // Of the waiting ones, those that have been retracted: they are the first.
  size_t retracted() const;

  // First a page for each decoding sequence that needs one, the oldest first: where none is left,
  // the youngest running sequence is retracted. It waits again, before all others, and keeps its
  // output. Then admits waiting sequences, one after another by the policy, as long as pages and
  // limits allow; then one extend for every decoding sequence, and chunks of the others within the
  // token budget, oldest first. owners[i] owns batch.extends[i]. Empty only if idle(), or if all
  // that run are ending.
  //
  // The step before may still run. Then its sequences are as they will be after it (Computed), with
  // a pending token where one is to come: no page is written before that step has ended, whoever
  // has it by then. A pending token is -1 in the batch.
  //
  // An admitted sequence joins the data-parallel group with the fewest tokens ahead, counting its
  // own that are not cached there, the lowest of equals, and stays there: only that group is sure
  // to have its keys.
  Batch Next(int64_t now_ns, std::vector<Sequence*>& owners);

  // Adds who can be admitted now to a batch of Next that has not begun, within what is left of its
  // budget.
  void TopUp(int64_t now_ns, Batch& batch, std::vector<Sequence*>& owners);

  // Prompt tokens of the batch that Next and TopUp made last.
  int64_t budgeted() const { return whole_budget_ - budget_; }
  // A step with so many of them took so long.
  void StepTook(int64_t budgeted, int64_t ns);

  // A step has computed its tokens before `end`, or will have before the next one begins: others
  // with the same prompt may use them from then on.
  void Computed(Sequence& sequence, int64_t end);

  // Takes a waiting or running sequence out, and its pages from it. With `keep`, those that later
  // requests may use go to the prefix cache.
  std::unique_ptr<Sequence> Remove(Sequence* sequence, bool keep = true);

  // Frees all pages of the prefix cache that no running sequence uses, and returns their number.
  int64_t Flush();
  // After a failed step: nothing that is cached is used from now on.
  void StopSharing();

  const RadixCache& tree() const { return tree_; }
  const SchedulerCounters& counters() const { return counters_; }

 private:
  // The ids by which the prefix cache knows the first `count` tokens: the token's, or its
  // complement if decode wrote other bits than prefill would have. `memory` holds them if need be.
  std::span<const int32_t> IdsOf(const Sequence& sequence, int64_t count,
                                 std::vector<int32_t>& memory) const;
  std::string_view PlaceOf(int32_t group) const;
  int32_t ChooseGroup(const Sequence& next) const;

  // False, and nothing is taken, if there are not so many pages, free or in the prefix cache.
  bool Take(int64_t count, std::vector<int32_t>& pages);
  // Uses what the prefix cache has of its tokens, if that is more than it has itself. Returns how
  // many tokens that spares.
  int64_t UsePrefix(Sequence& sequence);
  void CountHit(Sequence& sequence, int64_t tokens);
  // Puts its first `count` pages into the prefix cache, and holds what is there instead.
  void Share(Sequence& sequence, int64_t count);
  // Puts the first `kept` pages there, and gives up all.
  void Release(Sequence& sequence, int64_t kept);

  void GrowDecoding();
  void RetractYoungest();
  void Admit(int64_t now_ns);
  // The place among the waiting ones of who is next.
  size_t NextToAdmit() const;
  // Tokens of the next step, those of decoding sequences not counted.
  int64_t Budget() const;
  // The next extend of a running sequence, if it has one within the budget.
  void Put(Sequence& sequence, Batch& batch, std::vector<Sequence*>& owners);
  // Pages that should stay free for the running ones.
  int64_t Reserve() const;

  PagePool& pages_;
  const SchedulerLimits limits_;
  const int groups_;
  SharingRules rules_;
  RadixCache tree_{kPage};
  SchedulerCounters counters_;
  // Of the batch that was made last.
  int64_t whole_budget_ = 0;
  int64_t budget_ = 0;           // what is left of it
  int64_t logprob_rows_ = 0;     // what is left of kPromptLogprobRows
  int64_t admitted_tokens_ = 0;  // what its newly admitted sequences have to compute
  double token_ns_ = 0.0;        // what one took in the last step that had any; 0: not known
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
};

}  // namespace causeway
