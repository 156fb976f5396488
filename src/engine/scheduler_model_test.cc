// The scheduler with its prefix cache against a model of what the pages hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "engine/scheduler.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;
using Stage = Sequence::Stage;

// `first` is the first token, and each one after it is one more.
std::unique_ptr<Sequence> MakeSequence(const std::string& id, int64_t prompt, int64_t answer,
                                       int32_t first) {
  auto request = std::make_shared<Request>();
  request->id = id;
  for (int64_t i = 0; i < prompt; ++i) request->prompt.push_back(first + static_cast<int32_t>(i));
  request->sampling.max_new_tokens = answer;
  auto sequence = std::make_unique<Sequence>();
  sequence->request = std::move(request);
  return sequence;
}

// The cache of each place, where every token leaves a value that depends on all before it and on
// how each was computed: whoever reads a wrong page finds a wrong value.
class Keys {
 public:
  // What an extend reads must be what the sequence would have written alone; then it writes.
  // `text`: the sequence's tokens before e.end(), the first `prompt` of them its prompt. Returns
  // the value of the last token.
  uint64_t Run(const std::string& id, const Extend& e, const std::vector<int32_t>& text,
               int64_t prompt, const SharingRules& rules) {
    auto& cells =
        places_[rules.places.empty() ? std::string() : rules.places[static_cast<size_t>(e.dp)]];
    uint64_t value = 1;
    for (int64_t p = 0; p < e.end(); ++p) {
      const bool answer = p >= prompt;
      const int32_t token = text[static_cast<size_t>(p)];
      value = Mix(value, token, answer && p < rules.decode_differs_below);
      const auto at =
          static_cast<size_t>(e.pages[static_cast<size_t>(p / kPage)] * kPage + p % kPage);
      if (cells.size() <= at) cells.resize(at + 1);
      uint64_t& cell = cells[at];
      if (p < e.begin) {
        EXPECT_EQ(cell, value) << id << " reads another's key at " << p;
        if (cell != value) return value;
      } else {
        EXPECT_EQ(e.tokens[static_cast<size_t>(p - e.begin)], token);
        EXPECT_EQ(e.decode, answer);
        cell = value;
      }
    }
    return value;
  }

  static int32_t Sampled(uint64_t value) { return static_cast<int32_t>(value >> 20) & 3; }
  static uint64_t Mix(uint64_t value, int32_t token, bool decoded) {
    value ^= static_cast<uint64_t>(token) * 2 + (decoded ? 1 : 0);
    value *= 0x9e3779b97f4a7c15u;
    return value ^ (value >> 29);
  }

 private:
  std::map<std::string, std::vector<uint64_t>> places_;  // [page, 64]
};

// What the request gets if it is the only one.
std::vector<int32_t> AnswerAlone(const Request& request, int64_t count, int64_t differs_below) {
  uint64_t value = 1;
  for (const int32_t token : request.prompt) value = Keys::Mix(value, token, false);
  std::vector<int32_t> answer;
  auto p = static_cast<int64_t>(request.prompt.size());
  while (static_cast<int64_t>(answer.size()) < count) {
    answer.push_back(Keys::Sampled(value));
    value = Keys::Mix(value, answer.back(), p++ < differs_below);
  }
  return answer;
}

// One scheduler under random load. With `overlap` each batch is planned while the one before it
// runs, as the engine does.
class Model {
 public:
  struct Setup {
    int64_t capacity;
    SchedulerLimits limits;
    int groups;
    SharingRules rules;
    bool overlap;
  };

  Model(const Setup& setup, std::mt19937& random)
      : setup_(setup),
        random_(random),
        pool_(setup.capacity),
        scheduler_(pool_, setup.limits, setup.groups, setup.rules) {}

  // Until `requests` have come and ended.
  void Run(int64_t requests) {
    for (int64_t step = 1; step < 20000 && (submitted_ < requests || !idle()); ++step) {
      if (!setup_.overlap) EndFlight();
      Arrive(requests);
      plan_ = {};
      plan_.batch = scheduler_.Next(step, plan_.owners);
      ASSERT_NO_FATAL_FAILURE(CheckPages());
      ASSERT_NO_FATAL_FAILURE(CheckPlan());
      if (setup_.overlap) {
        EndFlight();
        if (Below(2) == 0) Arrive(requests);
        if (!plan_.owners.empty()) scheduler_.TopUp(step, plan_.batch, plan_.owners);
        ASSERT_NO_FATAL_FAILURE(CheckPages());
        ASSERT_NO_FATAL_FAILURE(CheckPlan());
      }
      ASSERT_FALSE(testing::Test::HasFailure());
      Launch();
    }
    EXPECT_EQ(ended_, submitted_);
    EXPECT_TRUE(idle());
    scheduler_.Flush();
    EXPECT_EQ(pool_.available(), setup_.capacity);
  }

  const SchedulerCounters& counters() const { return scheduler_.counters(); }
  int64_t cancelled_in_flight() const { return cancelled_in_flight_; }

 private:
  struct Plan {
    Batch batch;
    std::vector<Sequence*> owners;
  };
  // A sequence's part of the step that runs.
  struct Flight {
    std::string id;
    Extend extend;
    std::vector<int32_t> text;  // before extend.end()
    int64_t prompt = 0;
    Sequence* owner = nullptr;  // null: cancelled
  };

  int64_t Below(int64_t limit) {
    return static_cast<int64_t>(random_() % static_cast<uint32_t>(limit));
  }
  bool idle() const { return scheduler_.idle() && flight_.empty(); }

  void Arrive(int64_t requests) {
    while (submitted_ < requests && Below(3) == 0) {
      const int64_t tokens = 2 + Below(setup_.capacity * kPage - 1);
      const int64_t answer = 1 + Below(std::min<int64_t>(tokens - 1, 150));
      auto sequence = MakeSequence(std::to_string(submitted_++), tokens - answer, answer,
                                   static_cast<int32_t>(Below(3)));
      std::vector<int32_t>& prompt = sequence->request->prompt;
      if (!texts_.empty() && Below(2) == 0) {  // goes on from an earlier one
        const auto& text = texts_[static_cast<size_t>(Below(static_cast<int64_t>(texts_.size())))];
        std::copy_n(text.begin(), std::min(prompt.size(), text.size()), prompt.begin());
      }
      scheduler_.Add(std::move(sequence));
    }
    if (Below(30) == 0 && !scheduler_.idle()) {
      const auto all = scheduler_.All();
      End(all[static_cast<size_t>(Below(static_cast<int64_t>(all.size())))]);
    }
    if (Below(200) == 0) scheduler_.Flush();
  }

  // Cancelled, or done: it leaves the plan too.
  void End(Sequence* sequence) {
    const Request& request = *sequence->request;
    std::vector<int32_t>& output = sequence->output;
    const auto known = static_cast<int64_t>(output.size()) - (sequence->pending ? 1 : 0);
    EXPECT_EQ(std::vector<int32_t>(output.begin(), output.begin() + known),
              AnswerAlone(request, known, setup_.rules.decode_differs_below))
        << "request " << request.id << ", retracted " << sequence->retractions << " times";
    texts_.push_back(request.prompt);
    texts_.back().insert(texts_.back().end(), output.begin(), output.begin() + known);
    for (Flight& flight : flight_) {
      if (flight.owner != sequence) continue;
      flight.owner = nullptr;
      ++cancelled_in_flight_;
    }
    const auto planned = std::find(plan_.owners.begin(), plan_.owners.end(), sequence);
    if (planned != plan_.owners.end()) {
      plan_.batch.extends.erase(plan_.batch.extends.begin() + (planned - plan_.owners.begin()));
      plan_.owners.erase(planned);
    }
    group_of_.erase(request.id);
    scheduler_.Remove(sequence);
    ++ended_;
  }

  // The step begins: its sequences are now as they will be after it.
  void Launch() {
    ASSERT_TRUE(flight_.empty());
    for (size_t i = 0; i < plan_.owners.size(); ++i) {
      Sequence& owner = *plan_.owners[i];
      const Extend& e = plan_.batch.extends[i];
      Flight flight{owner.request->id, e, owner.request->prompt, owner.prompt_tokens(), &owner};
      flight.text.insert(flight.text.end(), owner.output.begin(), owner.output.end());
      flight.text.resize(static_cast<size_t>(e.end()));
      flight_.push_back(std::move(flight));
      scheduler_.Computed(owner, e.end());
      if (e.logits == LogitsWanted::kNone) continue;
      owner.stage = Stage::kDecode;
      owner.output.push_back(-1);
      owner.pending = true;
    }
    plan_ = {};
  }

  // The ranks compute it, whoever was cancelled meanwhile, and give tokens.
  void EndFlight() {
    std::vector<uint64_t> values;
    for (const Flight& f : flight_) {
      values.push_back(keys_.Run(f.id, f.extend, f.text, f.prompt, setup_.rules));
    }
    const std::vector<Flight> flight = std::exchange(flight_, {});
    for (size_t i = 0; i < flight.size(); ++i) {
      Sequence* owner = flight[i].owner;
      if (owner == nullptr || flight[i].extend.logits == LogitsWanted::kNone) continue;
      owner->output.back() = Keys::Sampled(values[i]);
      owner->pending = false;
      if (static_cast<int64_t>(owner->output.size()) == owner->request->sampling.max_new_tokens) {
        End(owner);
        continue;
      }
      const auto planned = std::find(plan_.owners.begin(), plan_.owners.end(), owner);
      if (planned == plan_.owners.end()) continue;
      Extend& e = plan_.batch.extends[static_cast<size_t>(planned - plan_.owners.begin())];
      if (e.end() == owner->tokens()) e.tokens.back() = owner->output.back();
    }
  }

  // Every page is free, in the tree, or one sequence's own; who reads the tree's has them locked;
  // waiting sequences have none, running ones all they need.
  void CheckPages() {
    std::map<int32_t, int> owned;
    std::set<int32_t> in_tree;
    std::set<int32_t> locked;
    std::set<int32_t> read;
    for (const RadixEntry& entry : scheduler_.tree().Entries()) {
      in_tree.insert(entry.page);
      if (entry.locked) locked.insert(entry.page);
      ++owned[entry.page];
    }
    for (const Sequence* sequence : scheduler_.All()) {
      const bool waits = sequence->stage == Stage::kWaiting;
      const auto pages = static_cast<int64_t>(sequence->pages.size());
      const int64_t tokens = sequence->tokens() - (sequence->ending() ? 1 : 0);
      ASSERT_GE(pages, waits ? 0 : (tokens + kPage - 1) / kPage);
      ASSERT_LE(pages, waits ? 0 : (sequence->tokens() + kPage - 1) / kPage);
      ASSERT_LE(sequence->shared, pages);
      for (int64_t i = 0; i < pages; ++i) {
        const int32_t page = sequence->pages[static_cast<size_t>(i)];
        if (i < sequence->shared) {
          ASSERT_TRUE(locked.contains(page));
          read.insert(page);
        } else {
          ++owned[page];
        }
      }
      if (waits) group_of_.erase(sequence->request->id);
      if (sequence->admitted_ns == 0 || !admitted_.insert(sequence->request->id).second) continue;
      const int64_t number = std::stoll(sequence->request->id);
      ASSERT_TRUE(setup_.limits.policy == SchedulePolicy::kLpm || number > last_admitted_);
      last_admitted_ = std::max(last_admitted_, number);
    }
    ASSERT_EQ(read, locked) << "pages are locked that nobody reads";
    for (const auto& [page, owners] : owned) ASSERT_EQ(owners, 1) << page;
    ASSERT_EQ(static_cast<int64_t>(owned.size()) + pool_.available(), setup_.capacity);
    ASSERT_LE(static_cast<int64_t>(scheduler_.running()), setup_.limits.max_running_requests);
    ASSERT_TRUE(setup_.rules.enabled || in_tree.empty());
  }

  void CheckPlan() {
    std::set<Sequence*> decoding;
    for (Sequence* sequence : scheduler_.All()) {
      if (sequence->stage == Stage::kDecode && !sequence->ending()) decoding.insert(sequence);
    }
    ASSERT_TRUE(!plan_.owners.empty() || scheduler_.idle() || setup_.overlap);
    int64_t budgeted = 0;
    std::set<Sequence*> in_batch;
    for (size_t i = 0; i < plan_.owners.size(); ++i) {
      const Extend& e = plan_.batch.extends[i];
      Sequence& owner = *plan_.owners[i];
      ASSERT_TRUE(in_batch.insert(&owner).second) << "twice in one batch";
      ASSERT_FALSE(e.tokens.empty());
      ASSERT_TRUE(0 <= e.dp && e.dp < setup_.groups);
      ASSERT_EQ(group_of_.emplace(owner.request->id, e.dp).first->second, e.dp)
          << "a sequence changed its group";
      ASSERT_EQ(e.begin, owner.cached);
      ASSERT_EQ(e.pages, owner.pages);
      const bool decodes = decoding.erase(&owner) == 1;
      ASSERT_TRUE(!decodes || (e.decode && e.tokens.size() == 1));
      if (!decodes) budgeted += static_cast<int64_t>(e.tokens.size());
      ASSERT_EQ(e.logits == LogitsWanted::kLast, e.end() == owner.tokens());
      // A token that is not known stands last, if it is there.
      const auto pending = std::find(e.tokens.begin(), e.tokens.end(), -1);
      ASSERT_TRUE(pending == e.tokens.end() ||
                  (owner.pending && pending + 1 == e.tokens.end() && e.end() == owner.tokens()));
    }
    const int64_t chunk = setup_.limits.chunked_prefill_size;
    ASSERT_TRUE(chunk < 0 || budgeted <= chunk);
    ASSERT_TRUE(decoding.empty()) << "a decoding sequence was left out";
  }

  const Setup setup_;
  std::mt19937& random_;
  PagePool pool_;
  Scheduler scheduler_;
  Keys keys_;
  Plan plan_;
  std::vector<Flight> flight_;
  std::map<std::string, int32_t> group_of_;  // of running sequences
  std::vector<std::vector<int32_t>> texts_;  // prompts with their answers
  std::set<std::string> admitted_;
  int64_t submitted_ = 0;
  int64_t ended_ = 0;
  int64_t last_admitted_ = -1;  // requests are numbered; admission must follow the numbers
  int64_t cancelled_in_flight_ = 0;
};

// Requests of all sizes come, go, are retracted and cancelled at random; after every batch the
// state must be consistent.
TEST(SchedulerModel, ALongRandomRunLosesAndSharesNoPageByMistakeAndServesEveryRequestInOrder) {
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random() % static_cast<uint32_t>(limit));
  };
  for (const bool overlap : {false, true}) {
    int64_t retractions = 0;
    int64_t hits = 0;
    int64_t cancelled_in_flight = 0;
    for (int run = 0; run < 36; ++run) {
      Model::Setup setup{.capacity = 6 + below(30),
                         .limits = {},
                         .groups = 1 + run % 4,
                         .rules = {},
                         .overlap = overlap};
      setup.limits.chunked_prefill_size = below(3) == 0 ? -1 : 1 + below(200);
      setup.limits.max_prefill_tokens = below(4) == 0 ? 1 + below(500) : 16384;
      setup.limits.max_running_requests = 1 + below(8);
      setup.limits.schedule_conservativeness = static_cast<double>(below(3));
      if (run % 5 == 4) setup.limits.policy = SchedulePolicy::kLpm;
      setup.rules.enabled = run % 6 != 5;
      setup.rules.decode_differs_below = std::vector<int64_t>{0, 100, INT64_MAX}[below(3)];
      if (run % 3 == 0) {
        for (int g = 0; g < setup.groups; ++g)
          setup.rules.places.push_back(g < 2 ? "here" : "there");
      }
      SCOPED_TRACE(Text("run ", run, overlap ? ", overlapped: " : ": ", setup.capacity,
                        " pages, chunk ", setup.limits.chunked_prefill_size, ", ",
                        setup.limits.max_running_requests, " running, ", setup.groups,
                        " groups, decode differs below ", setup.rules.decode_differs_below,
                        ", conservativeness ", setup.limits.schedule_conservativeness, ", admits ",
                        setup.limits.max_prefill_tokens));
      Model model(setup, random);
      ASSERT_NO_FATAL_FAILURE(model.Run(/*requests=*/100));
      ASSERT_FALSE(HasFailure());
      retractions += model.counters().retractions;
      hits += model.counters().hit_tokens;
      cancelled_in_flight += model.cancelled_in_flight();
    }
    std::printf("%s: %lld retractions, %lld tokens not computed, %lld cancelled in a step\n",
                overlap ? "overlapped" : "one by one", static_cast<long long>(retractions),
                static_cast<long long>(hits), static_cast<long long>(cancelled_in_flight));
    EXPECT_GT(retractions, 60);
    EXPECT_GT(hits, 10'000);
    EXPECT_TRUE(!overlap || cancelled_in_flight > 20);
  }
}

}  // namespace
}  // namespace causeway
