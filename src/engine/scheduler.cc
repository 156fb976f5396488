// Pages are taken as they are needed, so that as many sequences run as have something to compute.
// When none is left, the youngest one gives up its own: the oldest is never retracted while another
// runs, alone it always fits, and so it ends.
#include "engine/scheduler.h"

#include <algorithm>
#include <cmath>

namespace causeway {
namespace {

constexpr int64_t kLeastBudget = 16;  // tokens of a step, however long they take
constexpr size_t kLpmWindow = 128;    // waiting sequences whose prefixes are compared

int64_t PagesOf(int64_t tokens) { return (tokens + kPage - 1) / kPage; }

}  // namespace

Scheduler::Scheduler(PagePool& pages, const SchedulerLimits& limits, int groups,
                     const SharingRules& rules)
    : pages_(pages), limits_(limits), groups_(groups), rules_(rules) {
  CHECK(rules_.places.empty() || static_cast<int>(rules_.places.size()) == groups,
        rules_.places.size(), " places of ", groups, " groups");
}

Scheduler::~Scheduler() {
  for (const auto& sequence : running_) Release(*sequence, 0);
  Flush();
}

int64_t Scheduler::PagesFor(const Sequence& sequence) { return PagesOf(sequence.max_tokens()); }

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

size_t Scheduler::retracted() const {
  const auto first = std::find_if(waiting_.begin(), waiting_.end(),
                                  [](const auto& sequence) { return sequence->retractions == 0; });
  return static_cast<size_t>(first - waiting_.begin());
}

std::span<const int32_t> Scheduler::IdsOf(const Sequence& sequence, int64_t count,
                                          std::vector<int32_t>& memory) const {
  const std::vector<int32_t>& prompt = sequence.request->prompt;
  const int64_t prompt_tokens = sequence.prompt_tokens();
  if (count <= prompt_tokens) return std::span(prompt).first(static_cast<size_t>(count));
  memory.assign(prompt.begin(), prompt.end());
  for (int64_t p = prompt_tokens; p < count; ++p) {
    const int32_t token = sequence.output[static_cast<size_t>(p - prompt_tokens)];
    memory.push_back(p < rules_.decode_differs_below ? ~token : token);
  }
  return memory;
}

std::string_view Scheduler::PlaceOf(int32_t group) const {
  if (rules_.places.empty()) return {};
  return rules_.places[static_cast<size_t>(group)];
}

int32_t Scheduler::ChooseGroup(const Sequence& next) const {
  std::vector<int64_t> ahead(static_cast<size_t>(groups_), 0);
  for (const auto& sequence : running_) {
    ahead[static_cast<size_t>(sequence->dp)] += sequence->tokens_ahead();
  }
  // A hit counts where its keys are. With one place for all it would change nothing.
  std::vector<int32_t> memory;
  for (size_t group = 0; group < rules_.places.size() && rules_.enabled; ++group) {
    ahead[group] -=
        kPage * tree_.Match({rules_.places[group], IdsOf(next, next.sharable(), memory)});
  }
  return static_cast<int32_t>(std::min_element(ahead.begin(), ahead.end()) - ahead.begin());
}

bool Scheduler::Take(int64_t count, std::vector<int32_t>& pages) {
  if (count > pages_.available() + tree_.evictable_pages()) return false;
  if (count > pages_.available()) {
    std::vector<int32_t> evicted = tree_.Evict(count - pages_.available());
    pages_.Free(evicted);
  }
  const Status taken = pages_.Allocate(count, pages);
  CHECK(taken.ok(), taken.message());
  return true;
}

int64_t Scheduler::UsePrefix(Sequence& sequence) {
  if (!rules_.enabled) return 0;
  std::vector<int32_t> memory;
  // Not the last token: a step has to compute at least that one, for the logits.
  const RadixKey key{PlaceOf(sequence.dp), IdsOf(sequence, sequence.sharable(), memory)};
  if (tree_.Match(key) * kPage <= sequence.cached) return 0;
  std::vector<int32_t> found;
  RadixNode* held = tree_.Lock(key, found);
  tree_.Unlock(sequence.held);
  sequence.held = held;
  // Pages of its own that now are not needed.
  const size_t replaced = std::min(found.size(), sequence.pages.size());
  std::vector<int32_t> own;
  for (auto i = static_cast<size_t>(sequence.shared); i < replaced; ++i) {
    own.push_back(sequence.pages[i]);
  }
  pages_.Free(own);
  sequence.pages.resize(std::max(sequence.pages.size(), found.size()));
  std::copy(found.begin(), found.end(), sequence.pages.begin());
  sequence.shared = static_cast<int64_t>(found.size());
  const int64_t hit = sequence.shared * kPage - sequence.cached;
  sequence.cached += hit;
  return hit;
}

void Scheduler::CountHit(Sequence& sequence, int64_t tokens) {
  if (sequence.retractions > 0) return;  // what it finds then is its own
  sequence.prompt_hit += tokens;
  counters_.hit_tokens += tokens;
}

void Scheduler::Share(Sequence& sequence, int64_t count) {
  if (!rules_.enabled || count <= sequence.shared) return;
  std::vector<int32_t> memory;
  const RadixKey key{PlaceOf(sequence.dp), IdsOf(sequence, count * kPage, memory)};
  std::vector<int32_t> duplicates =
      tree_.Insert(key, std::span(sequence.pages).first(static_cast<size_t>(count)));
  std::vector<int32_t> found;
  RadixNode* held = tree_.Lock(key, found);
  CHECK(static_cast<int64_t>(found.size()) == count, found.size(), " ", count);
  tree_.Unlock(sequence.held);
  sequence.held = held;
  std::copy(found.begin(), found.end(), sequence.pages.begin());
  sequence.shared = count;
  pages_.Free(duplicates);
}

void Scheduler::Release(Sequence& sequence, int64_t kept) {
  Share(sequence, kept);
  tree_.Unlock(sequence.held);
  sequence.held = nullptr;
  sequence.pages.erase(sequence.pages.begin(), sequence.pages.begin() + sequence.shared);
  sequence.shared = 0;
  pages_.Free(sequence.pages);
}

void Scheduler::RetractYoungest() {
  std::unique_ptr<Sequence> youngest = std::move(running_.back());
  running_.pop_back();
  // All of it, decoded tokens too: until the pages are needed, they spare their computation.
  Release(*youngest, youngest->cached / kPage);
  youngest->stage = Sequence::Stage::kWaiting;
  youngest->cached = 0;
  ++youngest->retractions;
  ++counters_.retractions;
  waiting_.push_front(std::move(youngest));
}

void Scheduler::GrowDecoding() {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.ending()) continue;
    // Those in prefill have all they need since their admission.
    const int64_t missing =
        PagesOf(sequence.tokens()) - static_cast<int64_t>(sequence.pages.size());
    while (i < running_.size() && !Take(missing, sequence.pages)) {
      CHECK(running_.size() > 1, "alone, ", sequence.request->id, " has too few pages");
      RetractYoungest();  // perhaps this one
    }
  }
}

int64_t Scheduler::Reserve() const {
  int64_t reserve = 0;
  for (const auto& sequence : running_) {
    const double wanted = std::ceil(std::max(0.0, limits_.schedule_conservativeness));
    const int64_t needed = PagesFor(*sequence) - static_cast<int64_t>(sequence->pages.size());
    reserve += static_cast<int64_t>(std::min(wanted, static_cast<double>(needed)));
  }
  return reserve;
}

size_t Scheduler::NextToAdmit() const {
  if (limits_.policy == SchedulePolicy::kFcfs || waiting_.front()->retractions > 0) return 0;
  size_t best = 0;
  int64_t longest = 0;
  std::vector<int32_t> memory;
  for (size_t i = 0; i < std::min(waiting_.size(), kLpmWindow); ++i) {
    const Sequence& next = *waiting_[i];
    for (int32_t group = 0; group < (rules_.places.empty() ? 1 : groups_); ++group) {
      const int64_t hit = tree_.Match({PlaceOf(group), IdsOf(next, next.sharable(), memory)});
      if (hit <= longest) continue;
      longest = hit;
      best = i;
    }
  }
  return best;
}

void Scheduler::Admit(int64_t now_ns) {
  // At least one runs whatever the limit says, or nothing would ever end.
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) <
                                  std::max<int64_t>(1, limits_.max_running_requests)) {
    const size_t place = NextToAdmit();
    Sequence& next = *waiting_[place];
    if (next.ending()) break;  // retracted in its last step: gone before the next one
    next.dp = ChooseGroup(next);
    // Locked before pages are counted, or it might be evicted for the rest.
    const int64_t hit = UsePrefix(next);
    const int64_t missing = PagesOf(next.tokens()) - next.shared;
    const bool too_many = limits_.max_prefill_tokens > 0 && admitted_tokens_ > 0 &&
                          next.tokens_ahead() > limits_.max_prefill_tokens - admitted_tokens_;
    // Whose turn it is keeps it: a smaller one behind it must not starve it.
    if (too_many || missing + Reserve() > pages_.available() + tree_.evictable_pages()) {
      Release(next, 0);
      next.cached = 0;
      break;
    }
    CountHit(next, hit);
    CHECK(Take(missing, next.pages), missing);
    next.stage = Sequence::Stage::kPrefill;
    admitted_tokens_ += next.tokens_ahead();
    if (next.admitted_ns == 0) {
      next.admitted_ns = now_ns;
      counters_.prompt_tokens += next.prompt_tokens();
    }
    running_.push_back(std::move(waiting_[place]));
    waiting_.erase(waiting_.begin() + static_cast<int64_t>(place));
  }
}

void Scheduler::StepTook(int64_t budgeted, int64_t ns) {
  // All of a step's time goes to its budgeted tokens: the more the decoding ones take of it, the
  // fewer fit, and the estimate settles where both together take the time that is allowed.
  if (budgeted > 0) token_ns_ = static_cast<double>(ns) / static_cast<double>(budgeted);
}

int64_t Scheduler::Budget() const {
  const int64_t most = limits_.chunked_prefill_size > 0 ? limits_.chunked_prefill_size
                                                        : std::numeric_limits<int64_t>::max();
  const bool decoding = std::any_of(running_.begin(), running_.end(), [](const auto& sequence) {
    return sequence->stage == Sequence::Stage::kDecode;
  });
  if (limits_.decode_gap_ns <= 0 || !decoding) return most;
  const double fit = token_ns_ > 0.0 ? static_cast<double>(limits_.decode_gap_ns) / token_ns_ : 0.0;
  return fit < static_cast<double>(most)
             ? std::min(most, std::max(kLeastBudget, static_cast<int64_t>(fit)))
             : most;
}

Batch Scheduler::Next(int64_t now_ns, std::vector<Sequence*>& owners) {
  GrowDecoding();
  admitted_tokens_ = 0;
  Admit(now_ns);
  whole_budget_ = budget_ = Budget();
  Batch batch;
  owners.clear();
  logprob_rows_ = kPromptLogprobRows;
  // In order of admission: the oldest gets the budget first.
  for (const auto& sequence : running_) Put(*sequence, batch, owners);
  return batch;
}

void Scheduler::TopUp(int64_t now_ns, Batch& batch, std::vector<Sequence*>& owners) {
  const size_t before = running_.size();
  Admit(now_ns);
  for (size_t i = before; i < running_.size(); ++i) Put(*running_[i], batch, owners);
}

void Scheduler::Put(Sequence& sequence, Batch& batch, std::vector<Sequence*>& owners) {
  if (sequence.ending()) return;
  const bool decoding = sequence.stage == Sequence::Stage::kDecode;
  if (!decoding) {
    if (budget_ == 0) return;
    // Another may have computed the same prompt meanwhile.
    CountHit(sequence, UsePrefix(sequence));
  }
  Extend extend;
  extend.begin = sequence.cached;
  const int64_t prompt_tokens = sequence.prompt_tokens();
  // What was decoded before a retraction is computed again as it was then, by the other form of
  // attention (Extend::decode): tokens of both never go into one extend.
  extend.decode = extend.begin >= prompt_tokens;
  const int64_t all = extend.decode ? sequence.tokens() : prompt_tokens;
  // Decoding ones do not count into the budget.
  int64_t end = decoding ? all : extend.begin + std::min(all - extend.begin, budget_);
  // A chunk wants the logits of all of its tokens, of few then, or of none before its last.
  const int64_t wanted = sequence.wanted_row();
  const bool every_row = wanted <= extend.begin;
  end = std::min(end, every_row ? extend.begin + logprob_rows_ : wanted);
  if (end == extend.begin) return;
  if (every_row) logprob_rows_ -= end - extend.begin;
  if (!decoding) budget_ -= end - extend.begin;
  for (int64_t p = extend.begin; p < end; ++p) {
    extend.tokens.push_back(extend.decode ? sequence.output[static_cast<size_t>(p - prompt_tokens)]
                                          : sequence.request->prompt[static_cast<size_t>(p)]);
  }
  // The last token's logits give the next token; those before are not needed.
  extend.logits = every_row                  ? LogitsWanted::kAll
                  : end == sequence.tokens() ? LogitsWanted::kLast
                                             : LogitsWanted::kNone;
  extend.pages = sequence.pages;
  extend.dp = sequence.dp;
  batch.extends.push_back(std::move(extend));
  owners.push_back(&sequence);
}

void Scheduler::Computed(Sequence& sequence, int64_t end) {
  sequence.cached = end;
  if (sequence.stage == Sequence::Stage::kPrefill) Share(sequence, end / kPage);
}

std::unique_ptr<Sequence> Scheduler::Remove(Sequence* sequence, bool keep) {
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
  // Decoded tokens whose bits no prompt could use are of no use to anyone any more.
  int64_t useful = out->cached;
  if (out->prompt_tokens() < rules_.decode_differs_below) {
    useful = std::min(useful, out->prompt_tokens());
  }
  Release(*out, keep ? useful / kPage : 0);
  if (!rules_.enabled) Flush();
  out->stage = Sequence::Stage::kFinished;
  return out;
}

int64_t Scheduler::Flush() {
  std::vector<int32_t> pages = tree_.Clear();
  const auto count = static_cast<int64_t>(pages.size());
  pages_.Free(pages);
  return count;
}

void Scheduler::StopSharing() {
  rules_.enabled = false;
  Flush();
}

}  // namespace causeway
