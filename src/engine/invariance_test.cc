// The first promise: the layout, the chunks, the batch and the threads cannot change a bit.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "engine/model_host.h"
#include "model/cost.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261124;
constexpr int64_t kLong = 131;  // crosses two pages, and index_topk of the V3.2 fixtures

// Under the sanitizers, which look for races and stray accesses and not for wrong bits, a step
// takes up to fifty times as long: fewer combinations, all of the same code.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
const std::vector<int> kRanks = {3};
const std::vector<int> kThreads = {2};
const std::vector<int64_t> kChunks = {64, -1};
#else
const std::vector<int> kRanks = {1, 2, 3, 4, 5, 8};
const std::vector<int> kThreads = {1, 2};
const std::vector<int64_t> kChunks = {1, 7, 64, 1000, -1};
#endif

struct Case {
  const char* fixture;
  DType dtype;
  bool int8_index = false;
  bool int8_kv = false;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.fixture << " " << NameOf(c.dtype) << (c.int8_index ? " int8 index keys" : "")
             << (c.int8_kv ? " int8 KV" : "");
}

class Invariance : public testing::TestWithParam<Case> {
 protected:
  static std::unique_ptr<ModelHost> Load() {
    HostOptions options;
    options.model_path = Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", GetParam().fixture);
    options.dtype = GetParam().dtype;
    options.int8_index = GetParam().int8_index;
    options.int8_kv = GetParam().int8_kv;
    options.context_length = 256;
    options.max_total_tokens = 2048;
    auto host = ModelHost::Load(options);
    EXPECT_TRUE(host.ok()) << host.status().message();
    return std::move(host).value();
  }

  static std::vector<int32_t> Tokens(int64_t count, uint32_t salt, int64_t vocab) {
    std::mt19937 random(kSeed + salt);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count; ++i) {
      tokens.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab)));
    }
    return tokens;
  }

  // All sequences together, each extended by at most `chunk` tokens a step; every logit.
  static std::vector<std::vector<float>> RunTogether(
      ModelHost& host, const std::vector<std::vector<int32_t>>& sequences, int64_t chunk) {
    std::vector<std::vector<float>> logits(sequences.size());
    std::vector<std::vector<int32_t>> pages(sequences.size());
    std::vector<int64_t> done(sequences.size(), 0);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto length = static_cast<int64_t>(sequences[s].size());
      EXPECT_TRUE(host.pages().Allocate((length + kPage - 1) / kPage, pages[s]).ok());
    }
    for (;;) {
      Batch batch;
      std::vector<size_t> owner;
      for (size_t s = 0; s < sequences.size(); ++s) {
        const auto length = static_cast<int64_t>(sequences[s].size());
        const int64_t end = chunk <= 0 ? length : std::min(length, done[s] + chunk);
        if (end == done[s]) continue;
        batch.extends.push_back(
            {.tokens = {sequences[s].begin() + done[s], sequences[s].begin() + end},
             .begin = done[s],
             .decode = false,
             .pages = pages[s],
             .logits = LogitsWanted::kAll});
        owner.push_back(s);
        done[s] = end;
      }
      if (batch.extends.empty()) break;
      StepOutput output(host.config(), host.weights().mode(), batch, nullptr);
      const Status status = host.ranks().RunStep(batch, output);
      EXPECT_TRUE(status.ok()) << status.message();
      for (size_t i = 0; i < owner.size(); ++i) {
        const Extend& e = batch.extends[i];
        const int64_t row = output.RowOf(batch, static_cast<int32_t>(i), e.begin);
        const float* first = output.logits().row(row);
        const auto count =
            static_cast<size_t>(e.end() - e.begin) * static_cast<size_t>(host.config().vocab_size);
        logits[owner[i]].insert(logits[owner[i]].end(), first, first + count);
      }
    }
    for (auto& list : pages) host.pages().Free(list);
    return logits;
  }
};

TEST_P(Invariance, EveryLayoutChunkAndBatchGivesTheSameBytes) {
  const auto host = Load();
  const int64_t vocab = host->config().vocab_size;
  if (host->config().sparse()) {  // kLong has queries of both forms of attention
    const int64_t border = MaterialisedEnd(host->config());
    ASSERT_LT(host->config().index_topk, border);
    ASSERT_LT(border, kLong);
  }
  int combinations = 0;
  for (int cp : kRanks) {
    // Lengths 1, cp - 1, 2 cp + 1, a prime, and long, in one batch; each alone on one rank first.
    std::vector<std::vector<int32_t>> sequences;
    for (int64_t length : {int64_t{1}, int64_t{cp - 1}, int64_t{2 * cp + 1}, int64_t{37}, kLong}) {
      if (length > 0) {
        sequences.push_back(Tokens(length, static_cast<uint32_t>(length), vocab));
      }
    }
    std::vector<std::vector<float>> expected;
    host->SetLayout(Layout());
    for (const auto& sequence : sequences) {
      expected.push_back(RunTogether(*host, {sequence}, -1)[0]);
    }
    for (int threads : kThreads) {
      for (PartitionKind kind :
           {PartitionKind::kContiguous, PartitionKind::kZigzag, PartitionKind::kBalanced}) {
        Layout layout;
        layout.cp = cp;
        layout.threads_per_rank = threads;
        layout.partition = kind;
        host->SetLayout(layout);
        for (int64_t chunk : kChunks) {
          const auto found = RunTogether(*host, sequences, chunk);
          ++combinations;
          ASSERT_LE(host->ranks().scratch_bytes(), host->ranks().scratch_bound())
              << GetParam() << ", " << layout.ToString() << ", chunk " << chunk;
          for (size_t s = 0; s < sequences.size(); ++s) {
            ASSERT_EQ(found[s].size(), expected[s].size());
            ASSERT_EQ(std::memcmp(found[s].data(), expected[s].data(), found[s].size() * 4), 0)
                << GetParam() << ", " << layout.ToString() << ", chunk " << chunk
                << ", sequence of " << sequences[s].size() << " tokens";
          }
        }
      }
    }
  }
  std::printf("invariance %-16s %-8s %d combinations, all equal\n", GetParam().fixture,
              NameOf(GetParam().dtype), combinations);
}

// With fewer rows than threads the heads of a row are cut over them.
TEST_P(Invariance, DecodeGivesTheSameBytesWithAnyNumberOfThreadsAloneAndInABatch) {
  const auto host = Load();
  const int64_t vocab = host->config().vocab_size;
  const std::vector<int32_t> prompt = Tokens(kLong, 5, vocab);
  const std::vector<int32_t> generated = Tokens(4, 6, vocab);
  std::vector<float> expected;  // a row of logits for each generated token
  for (int threads : {1, 2, 3, 5}) {
    for (size_t copies : {1, 2, 4}) {
      Layout layout;
      layout.threads_per_rank = threads;
      host->SetLayout(layout);
      std::vector<Extend> extends(copies);
      for (Extend& e : extends) {
        e.tokens = prompt;
        ASSERT_TRUE(host->pages().Allocate(kLong / kPage + 1, e.pages).ok());
      }
      std::vector<float> found;
      for (size_t i = 0; i <= generated.size(); ++i) {
        const Batch batch{extends};
        StepOutput output(host->config(), host->weights().mode(), batch, nullptr);
        const Status status = host->ranks().RunStep(batch, output);
        ASSERT_TRUE(status.ok()) << status.message();
        for (size_t c = 0; i > 0 && c < copies; ++c) {
          const float* row = output.logits().row(static_cast<int64_t>(c));
          if (c == 0) found.insert(found.end(), row, row + vocab);
          ASSERT_EQ(std::memcmp(row, found.data() + found.size() - static_cast<size_t>(vocab),
                                static_cast<size_t>(vocab) * 4),
                    0)
              << "copy " << c << " of " << copies;
        }
        for (Extend& e : extends) {
          e.begin = e.end();
          e.decode = true;
          e.tokens.assign(1, generated[std::min(i, generated.size() - 1)]);
        }
      }
      if (expected.empty()) expected = found;
      ASSERT_EQ(found.size(), expected.size());
      ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * 4), 0)
          << GetParam() << ", " << threads << " threads, " << copies << " sequences";
      for (Extend& e : extends) host->pages().Free(e.pages);
    }
  }
}

// A retracted request computes its answer again in one extend, and must get the bits that it had.
TEST_P(Invariance, SeveralDecodedTokensInOneExtendGiveTheBytesOfOneAtATime) {
  const auto host = Load();
  const int64_t vocab = host->config().vocab_size;
  const std::vector<std::vector<int>> shapes = {// cp, tp, threads
                                                {1, 1, 1},
                                                {3, 1, 1},
                                                {1, 2, 2},
                                                {2, 2, 1}};
  constexpr int64_t kAnswer = 90;  // longer than what a balanced partition leaves whole
  for (int64_t length : {int64_t{20}, kLong}) {
    const std::vector<int32_t> prompt = Tokens(length, 7, vocab);
    const std::vector<int32_t> answer = Tokens(kAnswer, 8, vocab);
    std::vector<float> expected;  // of every token of the answer
    for (const std::vector<int>& shape : shapes) {
      Layout layout;
      layout.cp = shape[0];
      layout.tp = shape[1];
      layout.threads_per_rank = shape[2];
      host->SetLayout(layout);
      for (int64_t chunk : {int64_t{1}, int64_t{7}, kAnswer}) {
        // Beside a prompt, so that not every row of the step is decoded.
        for (const bool mixed : {false, true}) {
          if (mixed && chunk == 1) continue;
          std::vector<Extend> extends(mixed ? 2 : 1);
          for (Extend& e : extends) {
            ASSERT_TRUE(host->pages().Allocate((length + kAnswer) / kPage + 1, e.pages).ok());
            e.logits = LogitsWanted::kAll;
          }
          extends[0].tokens = prompt;
          std::vector<float> found;
          const auto run = [&](size_t count) {
            const Batch batch{{extends.begin(), extends.begin() + static_cast<int64_t>(count)}};
            StepOutput output(host->config(), host->weights().mode(), batch, nullptr);
            const Status status = host->ranks().RunStep(batch, output);
            ASSERT_TRUE(status.ok()) << status.message();
            const float* rows = output.logits().data();
            if (!extends[0].decode) return;
            found.insert(found.end(), rows,
                         rows + static_cast<int64_t>(extends[0].tokens.size()) * vocab);
          };
          run(1);
          if (mixed) extends[1].tokens = Tokens(5, 9, vocab);
          for (int64_t begin = 0; begin < kAnswer; begin += chunk) {
            const int64_t end = std::min(kAnswer, begin + chunk);
            extends[0].begin = length + begin;
            extends[0].decode = true;
            extends[0].tokens.assign(answer.begin() + begin, answer.begin() + end);
            run(extends.size());
          }
          if (expected.empty()) expected = found;
          ASSERT_EQ(found.size(), expected.size());
          ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * 4), 0)
              << GetParam() << ", " << layout.ToString() << ", " << chunk << " at a time"
              << (mixed ? ", beside a prompt" : "") << ", prompt of " << length;
          for (Extend& e : extends) host->pages().Free(e.pages);
        }
      }
    }
  }
}

// Below MaterialisedEnd, which in dense models is everywhere, decode writes other bits than
// prefill, and from there on the same: what the prefix cache may share.
TEST_P(Invariance, DecodeWritesTheBitsOfPrefillFromTheEndOfMaterialisedHeadsOn) {
  const auto host = Load();
  const int64_t border = MaterialisedEnd(host->config());
  const int64_t total = std::min(border, kLong) + 10;
  const std::vector<int32_t> tokens = Tokens(total, 10, host->config().vocab_size);
  for (const int64_t prompt : {total - 10, total - 30}) {
    std::vector<std::vector<float>> last;  // of the last token, by prefill and by decode
    for (const bool decode : {false, true}) {
      auto run = SequenceRun::Make(*host, total);
      ASSERT_TRUE(run.ok()) << run.status().message();
      std::vector<float> logits;
      const int64_t first = decode ? prompt : total;
      const std::vector<int32_t> begin(tokens.begin(), tokens.begin() + first);
      ASSERT_TRUE((*run)->Prefill(begin, -1, LogitsWanted::kLast, logits).ok());
      for (int64_t p = first; p < total; ++p) {
        ASSERT_TRUE((*run)->Decode(tokens[static_cast<size_t>(p)], logits).ok());
      }
      last.push_back(logits);
    }
    ASSERT_EQ(last[0].size(), last[1].size());
    const int differ = std::memcmp(last[0].data(), last[1].data(), last[0].size() * 4);
    EXPECT_EQ(differ != 0, prompt < border) << GetParam() << ", prompt of " << prompt;
  }
}

const Case kCases[] = {
    {"v3-tiny-int8", DType::kBf16},
    {"v32-tiny-bf16", DType::kF32},
    {"v32-tiny-fp8", DType::kBf16},
    {"v32-tiny-bf16", DType::kBf16, true, true},
#if !defined(__SANITIZE_THREAD__)  // what ranks and threads do is in those above
    {"v3-tiny-bf16", DType::kBf16},
    {"v3-tiny-bf16", DType::kF32},
    {"v32-tiny-bf16", DType::kBf16},
    {"v2-tiny-f32", DType::kBf16},
    {"v32-tiny-bf16", DType::kBf16, true},
    {"v32-tiny-bf16", DType::kF32, true},
    {"v3-tiny-bf16", DType::kBf16, false, true},
    {"v32-tiny-bf16", DType::kBf16, false, true},
#endif
};

INSTANTIATE_TEST_SUITE_P(Models, Invariance, testing::ValuesIn(kCases),
                         [](const testing::TestParamInfo<Case>& info) {
                           std::string name =
                               Text(info.param.fixture, "_", NameOf(info.param.dtype),
                                    info.param.int8_index ? "_int8_index" : "",
                                    info.param.int8_kv ? "_int8_kv" : "");
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace causeway
