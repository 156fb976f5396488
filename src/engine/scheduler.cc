// Pages for the longest possible answer are taken at admission, so that a sequence which has begun
// can always be finished: nothing is ever preempted or recomputed.
#include "engine/scheduler.h"

#include <algorithm>
#include <limits>

#include "kernels/op_table.h"

namespace causeway {

int64_t Scheduler::PagesFor(const Sequence& sequence) {
  return (sequence.max_tokens() + kPage - 1) / kPage;
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

Sequence* Scheduler::Find(const std::string& id) {
  for (const auto& sequence : waiting_) {
    if (sequence->request->id == id) return sequence.get();
  }
  for (const auto& sequence : running_) {
    if (sequence->request->id == id) return sequence.get();
  }
  return nullptr;
}

std::vector<Sequence*> Scheduler::All() const {
  std::vector<Sequence*> all;
  for (const auto& sequence : running_) all.push_back(sequence.get());
  for (const auto& sequence : waiting_) all.push_back(sequence.get());
  return all;
}

int32_t Scheduler::LeastLoadedGroup() const {
  std::vector<int64_t> ahead(static_cast<size_t>(groups_), 0);
  for (const auto& sequence : running_) {
    ahead[static_cast<size_t>(sequence->dp)] += sequence->tokens_ahead();
  }
  return static_cast<int32_t>(std::min_element(ahead.begin(), ahead.end()) - ahead.begin());
}

Batch Scheduler::Next(int64_t now_ns, std::vector<Sequence*>& owners) {
  // At least one runs whatever the limit says, or nothing would ever end.
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) <
                                  std::max<int64_t>(1, limits_.max_running_requests)) {
    Sequence& next = *waiting_.front();
    // First come, first served: a smaller one behind it must not starve it.
    if (!pages_.Allocate(PagesFor(next), next.pages).ok()) break;
    next.stage = Sequence::Stage::kPrefill;
    next.dp = LeastLoadedGroup();
    next.admitted_ns = now_ns;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  Batch batch;
  owners.clear();
  int64_t budget = limits_.chunked_prefill_size > 0 ? limits_.chunked_prefill_size
                                                    : std::numeric_limits<int64_t>::max();
  // In order of admission: the oldest prompt gets the budget first. Decodes do not count into it.
  for (const auto& sequence : running_) {
    Extend extend;
    extend.begin = sequence->cached;
    extend.pages = sequence->pages;
    extend.dp = sequence->dp;
    if (sequence->stage == Sequence::Stage::kDecode) {
      extend.decode = true;
      extend.tokens = {sequence->output.back()};
    } else {
      const int64_t left = sequence->prompt_tokens() - sequence->cached;
      const int64_t count = std::min(left, budget);
      if (count == 0) continue;
      budget -= count;
      const auto from = sequence->request->prompt.begin() + sequence->cached;
      extend.tokens.assign(from, from + count);
      // Logits of the last prompt token give the first token of the answer; those before are not
      // needed.
      extend.logits = count == left ? LogitsWanted::kLast : LogitsWanted::kNone;
    }
    batch.extends.push_back(std::move(extend));
    owners.push_back(sequence.get());
  }
  return batch;
}

std::unique_ptr<Sequence> Scheduler::Remove(Sequence* sequence) {
  const auto is_it = [&](const std::unique_ptr<Sequence>& s) { return s.get() == sequence; };
  std::unique_ptr<Sequence> out;
  if (const auto it = std::find_if(waiting_.begin(), waiting_.end(), is_it); it != waiting_.end()) {
    out = std::move(*it);
    waiting_.erase(it);
  } else {
    // Unknown pointers are a bug of the engine.
    const auto running = std::find_if(running_.begin(), running_.end(), is_it);
    CHECK(running != running_.end(), "not a sequence of this scheduler");
    out = std::move(*running);
    running_.erase(running);
  }
  pages_.Free(out->pages);
  out->stage = Sequence::Stage::kFinished;
  return out;
}

}  // namespace causeway
