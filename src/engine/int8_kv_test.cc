// How far an int8 KV cache changes the logits, and that decoding reads what prefill wrote.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "checkpoint/random_model.h"
#include "checkpoint/temporary_directory.h"
#include "engine/model_host.h"
#include "model/cost.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;

// A way to compute.
struct Mode {
  DType dtype = DType::kBf16;
  bool int8_kv = false;
};

std::unique_ptr<ModelHost> Load(const std::string& model, int64_t tokens, Mode mode) {
  HostOptions options;
  options.model_path = model;
  options.dtype = mode.dtype;
  options.int8_kv = mode.int8_kv;
  options.context_length = tokens;
  auto host = ModelHost::Load(options);
  EXPECT_TRUE(host.ok()) << host.status().message();
  return std::move(host).value();
}

std::vector<int32_t> RandomIds(int64_t count, int64_t vocabulary) {
  std::mt19937 random(kSeed);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary)));
  }
  return ids;
}

// All logits of one prefill of random ids.
std::vector<float> PrefillLogits(ModelHost& host, int64_t tokens) {
  const auto run = SequenceRun::Make(host, tokens);
  EXPECT_TRUE(run.ok()) << run.status().message();
  std::vector<float> logits;
  const Status status =
      (*run)->Prefill(RandomIds(tokens, host.config().vocab_size), -1, LogitsWanted::kAll, logits);
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

// Of rows of logits of two ways to compute them.
struct Distance {
  double most = 0;        // absolute
  double mean = 0;        // the same
  double deviation = 0;   // of the first's logits from their mean
  double same_first = 0;  // share of rows whose largest logit is of the same id
};

Distance DistanceOf(const std::vector<float>& a, const std::vector<float>& b, int64_t vocabulary) {
  EXPECT_EQ(a.size(), b.size());
  Distance out;
  double sum = 0;
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(error <= out.most)) out.most = error;  // a NaN stays
    out.mean += error;
    sum += a[i];
    squares += static_cast<double>(a[i]) * a[i];
  }
  const auto count = static_cast<double>(a.size());
  out.mean /= count;
  out.deviation = std::sqrt(squares / count - sum / count * (sum / count));
  int64_t same = 0;
  const auto rows = static_cast<int64_t>(a.size()) / vocabulary;
  for (int64_t row = 0; row < rows; ++row) {
    const auto first = [&](const std::vector<float>& logits) {
      const auto begin = logits.begin() + row * vocabulary;
      return std::max_element(begin, begin + vocabulary) - begin;
    };
    same += first(a) == first(b) ? 1 : 0;
  }
  out.same_first = static_cast<double>(same) / static_cast<double>(rows);
  return out;
}

// Of a prefill in `other` from one in bfloat16 with a bfloat16 cache.
Distance FromBfloat16(const std::string& model, int64_t tokens, Mode other, const char* name) {
  const auto host = Load(model, tokens, {});
  const auto other_host = Load(model, tokens, other);
  const Distance out = DistanceOf(PrefillLogits(*host, tokens), PrefillLogits(*other_host, tokens),
                                  host->config().vocab_size);
  std::printf(
      "%-8s against bfloat16, %s, %lld tokens: logits differ by %.3g at most, %.3g on average "
      "(standard deviation %.3g); top-1 the same %.1f %%\n",
      other.int8_kv ? "int8 KV" : NameOf(other.dtype), name, static_cast<long long>(tokens),
      out.most, out.mean, out.deviation, out.same_first * 100);
  return out;
}

// Random weights amplify whatever differs (the choice of experts and, of sparse models, of keys):
// how much is seen from float32 against bfloat16. The limit tells rounding from a wrong scale or
// row, which would make logits as far apart as those of other tokens.
TEST(Int8Kv, ChangesLogitsLittle) {
  for (const char* fixture : {"v3-tiny-bf16", "v3-tiny-int8", "v2-tiny-f32", "v32-tiny-bf16"}) {
    const std::string model = Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", fixture);
    FromBfloat16(model, 131, {.dtype = DType::kF32}, fixture);
    const Distance found = FromBfloat16(model, 131, {.int8_kv = true}, fixture);
    EXPECT_GT(found.most, 0) << "int8 rows are not in use";
    EXPECT_LT(found.mean, 0.3 * found.deviation) << fixture;
  }
}

// A larger random model; CAUSEWAY_KV_MODEL=DIR measures that model instead, for the figures in
// docs/performance.md.
TEST(Int8Kv, ChangesLogitsOfALargerModelLittle) {
  const TemporaryDirectory files;
  const char* named = std::getenv("CAUSEWAY_KV_MODEL");
  const std::string model = named != nullptr ? named : files.File("model");
  if (named == nullptr) {
    const Status written =
        WriteRandomModel(*PresetConfig("tiny-v32"), model, 1, RandomFormat::kBf16, {});
    ASSERT_TRUE(written.ok()) << written.message();
  }
  const int64_t tokens = named != nullptr ? 3000 : 300;
  FromBfloat16(model, tokens, {.dtype = DType::kF32}, model.c_str());
  const Distance found = FromBfloat16(model, tokens, {.int8_kv = true}, model.c_str());
  EXPECT_LT(found.mean, 0.3 * found.deviation);
}

// A prompt of which the last tokens are decoded one by one, against one prefill.
Distance DecodeAgainstPrefill(const std::string& fixture, int64_t tokens, int64_t decoded) {
  const auto host =
      Load(Text(CAUSEWAY_SOURCE_DIR "/testdata/golden/", fixture), tokens, {.int8_kv = true});
  const int64_t vocabulary = host->config().vocab_size;
  EXPECT_TRUE(!host->config().sparse() || MaterialisedEnd(host->config()) <= tokens - decoded);
  const std::vector<float> prefilled = PrefillLogits(*host, tokens);
  const std::vector<int32_t> ids = RandomIds(tokens, vocabulary);
  const auto run = SequenceRun::Make(*host, tokens);
  EXPECT_TRUE(run.ok()) << run.status().message();
  std::vector<float> row;
  const Status status =
      (*run)->Prefill({ids.begin(), ids.end() - decoded}, 50, LogitsWanted::kNone, row);
  EXPECT_TRUE(status.ok()) << status.message();
  std::vector<float> logits;
  for (int64_t i = tokens - decoded; i < tokens; ++i) {
    const Status step = (*run)->Decode(ids[static_cast<size_t>(i)], row);
    EXPECT_TRUE(step.ok()) << step.message();
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return DistanceOf({prefilled.end() - decoded * vocabulary, prefilled.end()}, logits, vocabulary);
}

// At these positions prefill is absorbed too: a decoded token reads its own row and those that the
// prefill wrote as one prefill of all tokens does.
TEST(Int8Kv, DecodingAfterPrefillGivesTheBitsOfOnePrefillWhereTheFormIsTheSame) {
  const Distance found = DecodeAgainstPrefill("v32-tiny-bf16", 170, 9);
  EXPECT_EQ(found.most, 0);
  EXPECT_GT(found.deviation, 1) << "logits say something";
}

TEST(Int8Kv, DecodingAfterPrefillOfADenseModelIsCloseToOnePrefill) {
  const Distance found = DecodeAgainstPrefill("v3-tiny-bf16", 131, 9);
  EXPECT_LT(found.mean, 0.1 * found.deviation);
  EXPECT_EQ(found.same_first, 1);
}

TEST(Int8Kv, NeedsTheMode) {
  HostOptions options;
  options.model_path = CAUSEWAY_SOURCE_DIR "/testdata/golden/v3-tiny-bf16";
  options.dtype = DType::kF32;
  options.int8_kv = true;
  const auto host = ModelHost::Load(options);
  ASSERT_FALSE(host.ok());
  EXPECT_EQ(host.status().message(), "--kv-cache-dtype int8 needs --dtype bfloat16, found float32");
}

}  // namespace
}  // namespace causeway
