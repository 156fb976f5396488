// A token at the border of what ranks, pages and chunks cut is seen by all that come after it: the
// places where a context-parallel exchange would lose one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "engine/model_host.h"
#include "model/cost.h"
#include "parallel/partition.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;
constexpr int64_t kLength = 150;  // over two pages
constexpr int kAttempts = 100;
constexpr int64_t kChunk = 56;  // borders at 56 and 112, in no page's or slice's way

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class Needle : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    HostOptions options;
    options.model_path = Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", GetParam());
    options.dtype = DType::kBf16;
    options.context_length = 256;
    options.max_total_tokens = 512;
    auto host = ModelHost::Load(options);
    ASSERT_TRUE(host.ok()) << host.status().message();
    host_ = std::move(*host);
    std::mt19937 random(kSeed);
    const auto vocab = static_cast<uint32_t>(host_->config().vocab_size);
    for (int64_t i = 0; i < kLength; ++i) hay_.push_back(static_cast<int32_t>(random() % vocab));
  }

  // The logits of the last position.
  std::vector<float> LastLogits(const std::vector<int32_t>& tokens, int64_t chunk) {
    const auto run = SequenceRun::Make(*host_, kLength);
    EXPECT_TRUE(run.ok()) << run.status().message();
    std::vector<float> logits;
    const Status status = (*run)->Prefill(tokens, chunk, LogitsWanted::kLast, logits);
    EXPECT_TRUE(status.ok()) << status.message();
    // A chunk before the last may have given a row too.
    const auto vocab = static_cast<size_t>(host_->config().vocab_size);
    EXPECT_GE(logits.size(), vocab);
    return {logits.end() - static_cast<std::ptrdiff_t>(vocab), logits.end()};
  }

  // One rank: the prompt with another token at `position`, a decisive one: it changes the logits of
  // the last position. Where attention is dense any token does. A sparse model's last token sees
  // index_topk positions only, so that a token has to be found whose index key is chosen.
  struct Found {
    std::vector<int32_t> tokens;
    std::vector<float> logits;
  };
  std::optional<Found> FindNeedle(int64_t position, const std::vector<float>& without) {
    Found found{hay_, {}};
    for (int attempt = 1; attempt <= (host_->config().sparse() ? kAttempts : 1); ++attempt) {
      int32_t& token = found.tokens[static_cast<size_t>(position)];
      token = static_cast<int32_t>((token + 1) % host_->config().vocab_size);
      found.logits = LastLogits(found.tokens, -1);
      if (!SameBits(found.logits, without)) return found;
    }
    return std::nullopt;
  }

  // Where the layout cuts the prompt, as RankGroup does: the first position of each slice.
  std::set<int64_t> BordersOf(const Layout& layout, int64_t chunk) const {
    std::set<int64_t> borders = {kPage, 2 * kPage};
    for (int64_t begin = 0; begin < kLength;) {
      const int64_t end = chunk <= 0 ? kLength : std::min(kLength, begin + chunk);
      borders.insert(begin);
      for (const auto& slices : Partition(
               layout.partition, layout.cp,
               PartitionCost(host_->config(), layout, /*int8_index=*/false), {{begin, end}})) {
        for (const Slice& slice : slices) borders.insert(slice.begin);
      }
      begin = end;
    }
    borders.erase(0);
    return borders;
  }

  std::unique_ptr<ModelHost> host_;
  std::vector<int32_t> hay_;
};

// cp 2 to 8 in every partition, and mixed with the other kinds; with and without chunks.
std::vector<std::pair<LayoutFlags, int64_t>> NeedleLayouts() {
  std::vector<std::pair<LayoutFlags, int64_t>> out;
  int turn = 0;
  const auto add = [&](const LayoutFlags& flags) {
    out.push_back({flags, turn++ % 2 == 0 ? -1 : kChunk});
  };
  for (int cp = 2; cp <= 8; ++cp) {
    add({.cp = cp, .partition = PartitionKind::kZigzag});
    add({.cp = cp, .partition = PartitionKind::kBalanced});
    if (cp % 2 == 0) add({.cp = cp, .partition = PartitionKind::kContiguous});
  }
  for (PartitionKind partition : {PartitionKind::kContiguous, PartitionKind::kBalanced}) {
    add({.world = 4, .cp = 2, .partition = partition});
    add({.world = 8, .cp = 4, .ep = 4, .partition = partition});
    add({.world = 6, .cp = 3, .dp = 2, .ep = 3, .partition = partition});
    add({.world = 8, .cp = 2, .dp = 2, .ep = 8, .partition = partition});
    add({.world = 8, .cp = 4, .partition = partition});
  }
  return out;
}

TEST_P(Needle, TheLastTokenSeesATokenAtEveryBorderWithTheBitsOfOneRank) {
  const std::vector<float> without = LastLogits(hay_, -1);
  std::map<int64_t, Found> needles;  // by position
  int64_t seen = 0;
  for (const auto& [flags, chunk] : NeedleLayouts()) {
    const auto layout = Layout::Make(flags);
    ASSERT_TRUE(layout.ok()) << layout.status().message();
    const std::string name = Text(layout->ToString(), ", chunk ", chunk);
    std::set<int64_t> places;
    for (int64_t border : BordersOf(*layout, chunk)) {
      for (int64_t place = border - 1; place <= border + 1; ++place) {
        if (place < kLength) places.insert(place);
      }
    }
    host_->SetLayout({});
    for (int64_t place : places) {
      if (needles.contains(place)) continue;
      auto needle = FindNeedle(place, without);
      ASSERT_TRUE(needle.has_value()) << "no token at " << place << " changes the last logits";
      needles[place] = std::move(*needle);
    }
    host_->SetLayout(*layout);
    ASSERT_TRUE(SameBits(LastLogits(hay_, chunk), without)) << name;
    for (int64_t place : places) {
      const Found& needle = needles[place];
      ASSERT_TRUE(SameBits(LastLogits(needle.tokens, chunk), needle.logits))
          << name << ", needle at " << place;
      ++seen;
    }
  }
  std::printf("needles %-16s %lld places in %zu layouts, all seen\n", GetParam(),
              static_cast<long long>(seen), NeedleLayouts().size());
}

INSTANTIATE_TEST_SUITE_P(Models, Needle, testing::Values("v3-tiny-bf16", "v32-tiny-bf16"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace causeway
