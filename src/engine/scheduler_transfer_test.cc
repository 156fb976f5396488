// Sequences whose keys come from another server or go to one: these tests play the model's part and
// the transfer's by hand.
#include <gtest/gtest.h>

#include "engine/scheduler.h"
#include "kernels/op_table.h"

namespace causeway {
namespace {

using Stage = Sequence::Stage;

class SchedulerTransferTest : public testing::Test {
 protected:
  void Start(int64_t pages, const SchedulerLimits& limits = {}, const SharingRules& rules = {}) {
    scheduler_.reset();
    pages_ = std::make_unique<PagePool>(pages);
    scheduler_ = std::make_unique<Scheduler>(*pages_, limits, 1, rules);
  }
  // `first` is the prompt's first token, and each one after it is one more.
  Sequence* Add(const std::string& id, int64_t prompt, int64_t answer, int32_t first = 1000) {
    auto sequence = std::make_unique<Sequence>();
    auto request = std::make_shared<Request>();
    request->id = id;
    for (int64_t i = 0; i < prompt; ++i) request->prompt.push_back(first + static_cast<int32_t>(i));
    request->sampling.max_new_tokens = answer;
    sequence->request = std::move(request);
    Sequence* out = sequence.get();
    scheduler_->Add(std::move(sequence));
    return out;
  }
  Sequence* AddReceiver(const std::string& id, int64_t prompt, int64_t answer,
                        int32_t first = 1000) {
    Sequence* out = Add(id, prompt, answer, first);
    out->receives = true;
    return out;
  }
  // One step, as "a:0+5 b:d17"; who gets a token goes on.
  std::string Step() {
    std::vector<Sequence*> owners;
    const Batch batch = scheduler_->Next(++now_, owners);
    std::string out;
    for (size_t i = 0; i < owners.size(); ++i) {
      const Extend& e = batch.extends[i];
      out += Text(out.empty() ? "" : " ", owners[i]->request->id, ":", e.decode ? "d" : "", e.begin,
                  "+", e.tokens.size());
      scheduler_->Computed(*owners[i], e.end());
      if (e.logits == LogitsWanted::kNone) continue;
      owners[i]->output.push_back(7);
      owners[i]->stage = owners[i]->sends ? Stage::kTransfer : Stage::kDecode;
    }
    return out;
  }
  void Receive(Sequence* sequence) {
    sequence->output.push_back(7);
    scheduler_->Received(*sequence);
  }
  int64_t Available() const { return pages_->available() + scheduler_->tree().evictable_pages(); }

  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<Scheduler> scheduler_;
  int64_t now_ = 0;
};

TEST_F(SchedulerTransferTest, AReceiverGetsThePagesOfItsPromptAndNoStepUntilItsKeysAreThere) {
  Start(10);
  Sequence* receiver = AddReceiver("r", 130, 100);
  EXPECT_EQ(Step(), "");
  EXPECT_TRUE(scheduler_->stuck());
  EXPECT_EQ(scheduler_->TakeReceivers(), std::vector<Sequence*>{receiver});
  EXPECT_TRUE(scheduler_->TakeReceivers().empty()) << "each once";
  EXPECT_EQ(receiver->stage, Stage::kTransfer);
  EXPECT_EQ(receiver->pages.size(), 3u);
  Add("a", 5, 10);
  EXPECT_EQ(Step(), "a:0+5") << "others run meanwhile";
  EXPECT_FALSE(scheduler_->stuck());
  Receive(receiver);
  EXPECT_EQ(Step(), "r:d130+1 a:d5+1");
  scheduler_->Remove(receiver);
  scheduler_->Remove(scheduler_->Find("a"));
  EXPECT_EQ(Available(), 10);
}

TEST_F(SchedulerTransferTest, WhatAReceiverHasGotServesOthersWithThatPrefix) {
  Start(10);
  Sequence* receiver = AddReceiver("r", 130, 100);
  EXPECT_EQ(Step(), "");
  Receive(receiver);
  Add("a", 150, 1);
  EXPECT_EQ(Step(), "r:d130+1 a:128+22");
  // And a receiver needs only what is not there.
  Sequence* other = AddReceiver("o", 200, 1);
  EXPECT_EQ(Step(), "r:d131+1 a:d150+1");
  EXPECT_EQ(other->cached, 128);
}

TEST_F(SchedulerTransferTest, WhenPagesRunOutNobodyInTransferIsRetracted) {
  Start(5, {.schedule_conservativeness = 0});
  Add("a", 64, 100);
  EXPECT_EQ(Step(), "a:0+64");
  Sequence* receiver = AddReceiver("r", 256, 1, 5000);
  EXPECT_EQ(Step(), "a:d64+1") << "no room for the receiver yet";
  EXPECT_EQ(receiver->stage, Stage::kWaiting);
  scheduler_->Remove(receiver);
  receiver = AddReceiver("r", 190, 1, 5000);
  Step();
  EXPECT_EQ(receiver->stage, Stage::kTransfer);
  EXPECT_EQ(receiver->pages.size(), 3u);
  // All five pages are in use: "a" grows until it needs a third.
  for (int i = 0; i < 70 && scheduler_->Find("a")->stage == Stage::kDecode; ++i) Step();
  EXPECT_EQ(scheduler_->Find("a")->stage, Stage::kWaiting) << "itself, as nobody else can be";
  EXPECT_EQ(receiver->stage, Stage::kTransfer);
  EXPECT_TRUE(scheduler_->stuck());
  scheduler_->Remove(receiver);
  EXPECT_EQ(Step().substr(0, 2), "a:");
}

TEST_F(SchedulerTransferTest, ARetractedReceiverComputesItsPromptItself) {
  Start(5, {.schedule_conservativeness = 0});
  Sequence* old = Add("a", 64, 200);
  EXPECT_EQ(Step(), "a:0+64");
  Sequence* receiver = AddReceiver("r", 128, 190, 5000);
  Step();
  Receive(receiver);
  for (int i = 0; i < 300 && receiver->retractions == 0; ++i) Step();
  ASSERT_EQ(receiver->retractions, 1);
  EXPECT_FALSE(receiver->receives);
  scheduler_->Remove(old);
  scheduler_->Flush();
  EXPECT_EQ(Step(), "r:0+128");
}

TEST_F(SchedulerTransferTest, PagesThatAreBeingSentStayUntilTheEnd) {
  Start(10, {.chunked_prefill_size = 100});
  Sequence* first = Add("a", 130, 1);
  Sequence* second = Add("b", 130, 1);
  for (Sequence* sequence : {first, second}) {
    sequence->sends = true;
    sequence->request->bootstrap.emplace();
  }
  EXPECT_EQ(Step(), "a:0+100");
  // Both have computed a part of the second page; the first one's comes into the cache.
  EXPECT_EQ(Step(), "a:100+30 b:64+66") << "a hit, then its own";
  const size_t held = first->unneeded.size() + second->unneeded.size();
  EXPECT_GT(held, 0u) << "a page that both have, and both send";
  EXPECT_EQ(Step(), "");
  EXPECT_TRUE(scheduler_->stuck());
  scheduler_->Remove(first);
  scheduler_->Remove(second);
  EXPECT_EQ(Available(), 10);
}

}  // namespace
}  // namespace causeway
