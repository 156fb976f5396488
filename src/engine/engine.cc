// Submit and Cancel only check and leave commands in a queue. The engine thread takes all that have
// come, runs one step, and so on: a request can join or leave between any two steps.
//
// While a step runs, the engine already plans the next one, as if the tokens to come were there: it
// puts a pending one where a sequence gets one, and the sampled one in its place when the step has
// ended. Whoever turns out to be done leaves the plan again. Pages are given away in the order of
// the steps, and the ranks run one after another, so that nothing of a step is overwritten before
// its end, however early its pages are given away.
#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string_view>

#include "engine/sampler.h"
#include "model/cost.h"

namespace causeway {
namespace {

// How often an idle engine looks whether it should end.
constexpr int64_t kIdleWaitMs = 500;
constexpr size_t kCommandSlack = 4096;  // room for cancels beside the queued requests
constexpr int32_t kPendingToken = -1;

double Seconds(int64_t begin_ns, int64_t end_ns) {
  return begin_ns == 0 || end_ns == 0 ? 0.0 : static_cast<double>(end_ns - begin_ns) * 1e-9;
}

// By the names of the model's zones.
RankSeconds SecondsOf(const TraceLane& lane) {
  RankSeconds out;
  for (const TraceLane::Sum& sum : lane.sums()) {
    const std::string_view name = sum.name;
    double& kind = name.ends_with(" wait")                                 ? out.wait
                   : name == "expert dispatch" || name == "expert combine" ? out.exchange
                                                                           : out.compute;
    kind += static_cast<double>(sum.ns) * 1e-9;
  }
  return out;
}

// Keys lie on the hosts of the group that computed them.
SharingRules RulesOf(const ModelHost& host, const Layout& layout, bool prefix_cache) {
  SharingRules rules;
  rules.enabled = prefix_cache;
  rules.decode_differs_below = MaterialisedEnd(host.config());
  for (int dp = 0; dp < layout.dp; ++dp) {
    rules.places.push_back(Text("hosts ", layout.HostOf(layout.RankAt({dp, 0, 0})), " to ",
                                layout.HostOf(layout.RankAt({dp, layout.cp - 1, layout.tp - 1}))));
  }
  return rules;
}

}  // namespace

Engine::Engine(ModelHost& host, const EngineOptions& options)
    : host_(host),
      options_(options),
      context_length_(host.context_length()),
      page_capacity_(host.pages().capacity()),
      scheduler_(host.pages(), options.limits, host.ranks().layout().dp,
                 RulesOf(host, host.ranks().layout(), options.prefix_cache)),
      profiler_(host.ranks()),
      commands_(static_cast<size_t>(options.max_queued_requests) + kCommandSlack),
      thread_([this] { Loop(); }) {}

Engine::~Engine() {
  draining_.store(true);
  commands_.Close();
  thread_.join();
}

Status Engine::Submit(std::shared_ptr<Request> request) {
  if (!healthy()) return Unavailable("the engine has failed and is shutting down");
  if (draining_.load()) return Unavailable("the server is shutting down");
  if (request->prompt.empty()) return InvalidArgument("the prompt has no tokens");
  const auto prompt = static_cast<int64_t>(request->prompt.size());
  const int64_t answer = request->sampling.max_new_tokens;
  if (answer < 1) {
    return InvalidArgument(Text("max_tokens is ", answer, "; it must be at least 1"));
  }
  if (answer > context_length_ - prompt) {  // the sum might overflow
    return InvalidArgument(Text("the prompt has ", prompt, " tokens and max_tokens is ", answer,
                                "; together they must not exceed the context length of ",
                                context_length_));
  }
  for (size_t i = 0; i < request->prompt.size(); ++i) {
    if (request->prompt[i] < 0 || request->prompt[i] >= host_.config().vocab_size) {
      return InvalidArgument(Text("prompt token ", i, " is ", request->prompt[i], "; ids are 0 to ",
                                  host_.config().vocab_size - 1));
    }
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->request = std::move(request);
  sequence->changes =
      std::make_unique<LogitChanges>(sequence->request->sampling, sequence->request->prompt,
                                     std::vector<int32_t>(host_.config().eos_token_ids.begin(),
                                                          host_.config().eos_token_ids.end()));
  sequence->submitted_ns = NowNs();
  if (const int64_t pages = Scheduler::PagesFor(*sequence); pages > page_capacity_) {
    return InvalidArgument(Text("the request needs ", pages * kPage, " tokens of KV cache; it has ",
                                page_capacity_ * kPage, " (--max-total-tokens)"));
  }
  // Counted up first and taken back when it was too many: two threads can't both take the last
  // place.
  if (queued_.fetch_add(1) >= options_.max_queued_requests) {
    queued_.fetch_sub(1);
    return Unavailable(
        Text("the queue is full: ", options_.max_queued_requests, " requests are waiting"));
  }
  unfinished_.fetch_add(1);
  if (!commands_.TryPush({.submit = std::move(sequence)})) {
    queued_.fetch_sub(1);
    unfinished_.fetch_sub(1);
    return Unavailable(commands_.closed() ? "the server is shutting down"
                                          : "the queue is full of cancelled requests");
  }
  return Status();
}

void Engine::Cancel(const std::string& id) {
  // A full queue drops the cancel: the request then ends by itself.
  (void)commands_.TryPush({.cancel = id});
}

void Engine::FlushCache() {
  // Dropped by a full queue: then the cache is in use as never before.
  (void)commands_.TryPush({.flush = true});
}

void Engine::StartProfile(const ProfileOptions& options, ProfileReply reply) {
  const bool taken = commands_.TryPush({.between_steps = [this, options, reply](bool alive) {
    if (alive) return profiler_.Start(options, reply);
    reply(Unavailable("the server is shutting down"));
  }});
  if (!taken) reply(Unavailable("the server is shutting down"));
}

void Engine::StopProfile(ProfileReply reply) {
  const bool taken = commands_.TryPush({.between_steps = [this, reply](bool alive) {
    if (alive) return profiler_.Stop(reply);
    reply(Unavailable("the server is shutting down"));
  }});
  if (!taken) reply(Unavailable("the server is shutting down"));
}

EngineLoad Engine::load() const {
  const std::lock_guard lock(rank_seconds_mutex_);
  return {.running = running_.load(),
          .waiting = queued_.load(),
          .used_tokens = used_pages_.load() * kPage,
          .max_total_tokens = page_capacity_ * kPage,
          .max_running_requests = options_.limits.max_running_requests,
          .cache_hit_rate = cache_hit_rate_.load(),
          .retracted = retracted_.load(),
          .ranks = rank_seconds_};
}

void Engine::PublishLoad() {
  running_.store(static_cast<int64_t>(scheduler_.running()));
  // What only the prefix cache keeps is free for who needs it.
  used_pages_.store(page_capacity_ - host_.pages().available() -
                    scheduler_.tree().evictable_pages());
  retracted_.store(static_cast<int64_t>(scheduler_.retracted()));
  const SchedulerCounters& counters = scheduler_.counters();
  if (counters.prompt_tokens > counted_.prompt_tokens) {
    cache_hit_rate_.store(static_cast<double>(counters.hit_tokens - counted_.hit_tokens) /
                          static_cast<double>(counters.prompt_tokens - counted_.prompt_tokens));
    counted_ = counters;
  }
}

void Engine::PublishTimes() {
  std::vector<RankSeconds> seconds;
  for (const TraceLane* lane : host_.ranks().lanes()) seconds.push_back(SecondsOf(*lane));
  const std::lock_guard lock(rank_seconds_mutex_);
  rank_seconds_ = std::move(seconds);
}

bool Engine::Drain(Deadline deadline) {
  draining_.store(true);
  while (unfinished_.load() > 0) {
    if (deadline.Passed()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

void Engine::Loop() {
  for (;;) {
    const bool idle = scheduler_.idle();
    if (idle) Deliver();
    HandleCommands(/*wait=*/idle);
    HandleDeferred(/*alive=*/true);
    if (!options_.overlap_schedule) Deliver();
    if (commands_.closed()) break;
    MakePlan();
    // Nothing to run: all have ended with the last step.
    if (!plan_.batch.extends.empty()) Step();
    if (failed()) break;
  }
  // Nothing may be left without an answer: who submits from now on is refused.
  commands_.Close();
  const Status why = failed() ? Unavailable("the engine has failed and is shutting down")
                              : Cancelled("the server is shutting down");
  while (std::optional<Command> command = commands_.Pop(Deadline::AfterMs(0))) {
    if (command->submit != nullptr) scheduler_.Add(std::move(command->submit));
    if (command->between_steps) deferred_.push_back(std::move(command->between_steps));
  }
  // In prefill, decode or waiting alike: on_finish is owed to each.
  for (Sequence* sequence : scheduler_.All()) {
    Finish(*sequence, failed() ? FinishReason::kError : FinishReason::kCancelled, why);
  }
  Deliver();
  HandleDeferred(/*alive=*/false);
}

void Engine::HandleCommands(bool wait) {
  // Waits only while there is nothing to run; else takes what is there.
  while (std::optional<Command> command =
             commands_.Pop(Deadline::AfterMs(wait && scheduler_.idle() ? kIdleWaitMs : 0))) {
    Handle(std::move(*command));
    // In idle times it is due at once: a cancelled request was the last one, or a profile ends.
    if (wait) {
      Deliver();
      HandleDeferred(/*alive=*/true);
    }
  }
}

void Engine::Handle(Command command) {
  if (command.submit != nullptr) {
    scheduler_.Add(std::move(command.submit));
    may_admit_ = true;
  } else if (command.flush) {
    scheduler_.Flush();
  } else if (command.between_steps) {
    deferred_.push_back(std::move(command.between_steps));
  } else if (Sequence* sequence = scheduler_.Find(command.cancel)) {
    Finish(*sequence, FinishReason::kCancelled, Cancelled("the request was cancelled"));
  }
}

void Engine::HandleDeferred(bool alive) {
  for (const auto& task : std::exchange(deferred_, {})) task(alive);
}

void Engine::Deliver() {
  if (news_.empty()) return;
  const TraceZone zone(profiler_.lane(), "deliver");
  for (const auto& news : std::exchange(news_, {})) news();
}

void Engine::MakePlan() {
  const TraceZone zone(profiler_.lane(), "plan");
  const auto waiting = static_cast<int64_t>(scheduler_.waiting());
  if (plan_.batch.extends.empty()) {
    plan_.batch = scheduler_.Next(NowNs(), plan_.owners);
  } else if (may_admit_) {
    scheduler_.TopUp(NowNs(), plan_.batch, plan_.owners);
  }
  plan_.budgeted = scheduler_.budgeted();
  may_admit_ = false;
  // Those that the scheduler has admitted no longer wait, and those that it has retracted do.
  queued_.fetch_sub(waiting - static_cast<int64_t>(scheduler_.waiting()));
  PublishLoad();
}

void Engine::Meanwhile() {
  Deliver();
  HandleCommands(/*wait=*/false);
  if (!commands_.closed()) MakePlan();
}

void Engine::Step() {
  Plan plan = std::exchange(plan_, {});
  running_plan_ = &plan;
  StepOutput output(host_.config(), host_.weights().mode(), plan.batch, nullptr);
  for (size_t i = 0; i < plan.owners.size(); ++i) {
    const Extend& extend = plan.batch.extends[i];
    CHECK(extend.tokens.back() != kPendingToken, plan.owners[i]->request->id);
    // As it will be after the step. Kept in the cache whatever is sampled: a step extends every
    // owner by all of its tokens.
    Sequence& sequence = *plan.owners[i];
    scheduler_.Computed(sequence, extend.end());
    // Rows may be wanted for log-probabilities of the prompt alone.
    if (extend.logits == LogitsWanted::kNone || extend.end() < sequence.tokens()) continue;
    sequence.stage = Sequence::Stage::kDecode;
    sequence.output.push_back(kPendingToken);
    sequence.pending = true;
  }
  profiler_.StepBegins();
  const int64_t begin_ns = NowNs();
  const Status status = [&] {
    const TraceZone zone(profiler_.lane(), "step");
    return host_.ranks().RunStep(plan.batch, output, [this] {
      if (options_.overlap_schedule) Meanwhile();
    });
  }();
  running_plan_ = nullptr;
  if (!status.ok()) {
    // What all ranks hold is uncertain after a failed step: nothing may run on it again.
    failed_.store(true);
    scheduler_.StopSharing();
    for (Sequence* sequence : plan.owners) {
      if (sequence != nullptr) Finish(*sequence, FinishReason::kError, status);
    }
    return;
  }
  SampleStep(plan, output);
  scheduler_.StepTook(plan.budgeted, NowNs() - begin_ns);
  PublishTimes();
  profiler_.StepEnded();
}

void Engine::SampleStep(const Plan& plan, const StepOutput& output) {
  const TraceZone zone(profiler_.lane(), "sample");
  for (size_t i = 0; i < plan.owners.size(); ++i) {
    // Null: cancelled while the step ran. A chunk that does not end the prompt has no logits, or
    // those of its prompt's log-probabilities.
    const Extend& extend = plan.batch.extends[i];
    if (plan.owners[i] == nullptr || extend.logits == LogitsWanted::kNone) continue;
    Sequence& sequence = *plan.owners[i];
    const bool gives_token = sequence.pending;
    if (gives_token) {
      sequence.output.pop_back();
      sequence.pending = false;
    }
    if (extend.logits == LogitsWanted::kAll) {
      const Status taken =
          TakePromptLogprobs(sequence, plan.batch, static_cast<int32_t>(i), output);
      if (!taken.ok()) {
        Finish(sequence, FinishReason::kError, taken);
        continue;
      }
    }
    if (!gives_token) continue;
    const int64_t row = output.RowOf(plan.batch, static_cast<int32_t>(i), extend.end() - 1);
    // Before Advance: who ends there leaves the plan.
    const auto planned = std::find(plan_.owners.begin(), plan_.owners.end(), &sequence);
    const auto place = static_cast<size_t>(planned - plan_.owners.begin());
    const bool goes_on = Advance(sequence, output.logits().row(row));
    if (!goes_on || place == plan_.owners.size()) continue;
    Extend& next = plan_.batch.extends[place];
    if (next.end() == sequence.tokens()) next.tokens.back() = sequence.output.back();
  }
}

Status Engine::TakePromptLogprobs(Sequence& sequence, const Batch& batch, int32_t index,
                                  const StepOutput& output) {
  const Extend& extend = batch.extends[static_cast<size_t>(index)];
  const Request& request = *sequence.request;
  const int64_t vocab = host_.config().vocab_size;
  // The last token's logits are of the answer's first.
  const int64_t end = std::min(extend.end(), sequence.prompt_tokens() - 1);
  for (int64_t p = extend.begin; p < end; ++p) {
    TokenOutput one{.token = request.prompt[static_cast<size_t>(p + 1)]};
    AddLogprobs(output.logits().row(output.RowOf(batch, index, p)), vocab, VocabLimit(),
                request.sampling.logprobs, request.sampling.logprob_ids, one);
    if (std::isnan(one.logprob)) {
      return InternalError(Text("the logits at position ", p, " are not all numbers"));
    }
    sequence.prompt_logprobs.push_back(std::move(one));
  }
  return Status();
}

int64_t Engine::VocabLimit() const {
  const int64_t vocab = host_.config().vocab_size;
  return options_.vocab_limit > 0 ? std::min(options_.vocab_limit, vocab) : vocab;
}

bool Engine::Advance(Sequence& sequence, const float* logits) {
  const Request& request = *sequence.request;
  const SamplingParams& sampling = request.sampling;
  const int64_t vocab = host_.config().vocab_size;
  const int64_t limit = VocabLimit();
  const StatusOr<const float*> changed = sequence.changes->Apply(logits, vocab, changed_logits_);
  // The position of the token to be sampled, so that chunks and batches don't matter.
  const StatusOr<int32_t> chosen =
      changed.ok() ? ChooseToken(*changed, vocab, limit, sampling, sequence.tokens())
                   : StatusOr<int32_t>(changed.status());
  const Status taken = chosen.ok() ? sequence.changes->Take(*chosen) : chosen.status();
  if (!taken.ok()) {
    Finish(sequence, FinishReason::kError, taken);
    return false;
  }
  const int32_t token = *chosen;
  TokenOutput sampled{.token = token, .cached_tokens = sequence.prompt_hit};
  // Of the model: before penalties, bias and temperature.
  if (sampling.logprobs >= 0) {
    AddLogprobs(logits, vocab, limit, sampling.logprobs, sampling.logprob_ids, sampled);
  }
  if (sampling.prompt_logprobs_from >= 0 && !sequence.prompt_logprobs_sent) {
    sequence.prompt_logprobs_sent = true;
    sampled.prompt = std::make_shared<const std::vector<TokenOutput>>(
        std::exchange(sequence.prompt_logprobs, {}));
  }
  if (sequence.first_token_ns == 0) sequence.first_token_ns = NowNs();
  // Before on_token: eos and stop tokens count as completion, though clients do not see them.
  sequence.output.push_back(token);
  if (sequence.changes->Ends(token)) {
    Finish(sequence, FinishReason::kStop, Status(), sampled);
    return false;
  }
  if (request.on_token) {
    Tell([request = sequence.request, token = sampled] { request->on_token(token); });
  }
  if (sequence.changes->complete()) {
    Finish(sequence, FinishReason::kStop, Status());
    return false;
  }
  if (static_cast<int64_t>(sequence.output.size()) < sampling.max_new_tokens) return true;
  Finish(sequence, FinishReason::kLength, Status());
  return false;
}

void Engine::Finish(Sequence& sequence, FinishReason reason, Status status,
                    const TokenOutput& stop_token) {
  if (running_plan_ != nullptr) {
    std::replace(running_plan_->owners.begin(), running_plan_->owners.end(), &sequence,
                 static_cast<Sequence*>(nullptr));
  }
  if (const auto planned = std::find(plan_.owners.begin(), plan_.owners.end(), &sequence);
      planned != plan_.owners.end()) {
    plan_.batch.extends.erase(plan_.batch.extends.begin() + (planned - plan_.owners.begin()));
    plan_.owners.erase(planned);
  }
  may_admit_ = true;
  // A sequence that ran was counted out in MakePlan.
  if (sequence.stage == Sequence::Stage::kWaiting) queued_.fetch_sub(1);
  const std::unique_ptr<Sequence> owned =
      scheduler_.Remove(&sequence, /*keep=*/reason != FinishReason::kError);
  PublishLoad();  // who has the result finds its pages free
  const int64_t now = NowNs();
  RequestResult result;
  result.status = std::move(status);
  result.reason = reason;
  result.stop_token = stop_token;
  result.prompt_tokens = owned->prompt_tokens();
  result.completion_tokens = static_cast<int64_t>(owned->output.size()) - (owned->pending ? 1 : 0);
  result.cached_tokens = owned->prompt_hit;
  result.retractions = owned->retractions;
  result.timing.queue_seconds =
      Seconds(owned->submitted_ns, owned->admitted_ns == 0 ? now : owned->admitted_ns);
  result.timing.prefill_seconds = Seconds(owned->admitted_ns, owned->first_token_ns);
  result.timing.decode_seconds = Seconds(owned->first_token_ns, now);
  Tell([this, request = owned->request, result = std::move(result)] {
    if (request->on_finish) request->on_finish(result);
    unfinished_.fetch_sub(1);
  });
}

}  // namespace causeway
