// Whole transfers between simulated servers in this process, over loopback and shared memory.
#include <gtest/gtest.h>

#include <cmath>

#include "base/bf16.h"
#include "transfer/simulated_servers.h"

namespace causeway {
namespace {

constexpr char kPoison = 0x5a;
constexpr auto kTcp = TransferBackend::kTcp;
constexpr auto kShm = TransferBackend::kSharedMemory;
constexpr auto kUcx = TransferBackend::kUcx;

KvShape Shape(DType type, int64_t index_dim, bool int8_kv = false, bool int8_index = false) {
  return {.layers = 3,
          .latent_dim = 20,
          .index_dim = index_dim,
          .type = type,
          .int8_index = int8_index,
          .int8_kv = int8_kv};
}

TransferOptions Options() {
  TransferOptions options;
  options.model = "tiny";
  options.checksum = true;
  options.bootstrap_timeout_ms = 20'000;
  options.waiting_timeout_ms = 20'000;
  return options;
}

void Poison(const KvCache& cache) {
  for (int64_t layer = 0; layer < cache.shape().layers; ++layer) {
    for (int32_t page = 0; page < cache.pages(); ++page) {
      std::memset(cache.LatentPage(layer, page), kPoison,
                  static_cast<size_t>(kPage * cache.shape().latent_bytes()));
      if (cache.shape().index_dim == 0) continue;
      std::memset(cache.IndexPage(layer, page), kPoison,
                  static_cast<size_t>(kPage * cache.shape().index_bytes()));
    }
  }
}

// Rows of a poisoned cache that are other than before, beside those of `tokens`.
int64_t Touched(const KvCache& cache, const std::vector<int32_t>& pages, Range tokens) {
  std::vector<std::vector<bool>> mine(static_cast<size_t>(cache.pages()),
                                      std::vector<bool>(kPage, false));
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    mine[static_cast<size_t>(pages[static_cast<size_t>(t / kPage)])]
        [static_cast<size_t>(t % kPage)] = true;
  }
  const auto latent = static_cast<size_t>(cache.shape().latent_bytes());
  int64_t touched = 0;
  for (int64_t layer = 0; layer < cache.shape().layers; ++layer) {
    for (int32_t page = 0; page < cache.pages(); ++page) {
      for (int64_t slot = 0; slot < kPage; ++slot) {
        if (mine[static_cast<size_t>(page)][static_cast<size_t>(slot)]) continue;
        const char* row = static_cast<const char*>(cache.LatentPage(layer, page)) +
                          static_cast<size_t>(slot) * latent;
        touched += std::count(row, row + latent, kPoison) != static_cast<int64_t>(latent);
        const char* panel = static_cast<const char*>(cache.IndexPage(layer, page));
        for (int64_t word = 0; word < cache.shape().index_bytes() / 4; ++word) {
          const char* at = panel + (word * kPage + slot) * 4;
          touched += std::count(at, at + 4, kPoison) != 4;
        }
      }
    }
  }
  return touched;
}

struct Case {
  const char* name;
  TransferBackend backend;
  KvShape shape;
  int64_t tokens;
  int64_t skip;
  int64_t cached;
  int64_t chunk;
  int64_t run_tokens;
  bool checksum = true;
};

class RoundTrip : public testing::TestWithParam<Case> {};

TEST_P(RoundTrip, BringsEveryBitToItsPlaceAndTouchesNothingElse) {
  const Case& c = GetParam();
  if (c.backend == TransferBackend::kUcx && !UcxProblem().ok()) {
    GTEST_SKIP() << UcxProblem().message();
  }
  SimulatedOptions prefill_options{.layout = *Layout::Make({.world = 2, .cp = 2}),
                                   .shape = c.shape,
                                   .pages = 40,
                                   .transfer = Options()};
  prefill_options.transfer.backend = c.backend;
  prefill_options.transfer.run_tokens = c.run_tokens;
  prefill_options.transfer.checksum = c.checksum;
  PrefillServer prefill(prefill_options);
  SimulatedOptions decode_options = prefill_options;
  decode_options.layout = *Layout::Make({.world = 1});
  DecodeServer decode(decode_options);
  Poison(decode.cache());

  const Keys keys(c.shape, c.tokens, 1);
  const auto prefill_pages = SomePages(PagesOf(c.tokens), 40, 2);
  const auto decode_pages = SomePages(PagesOf(c.tokens), 40, 3);
  prefill.Expect(7, c.tokens);
  decode.Open({.room = 7,
               .host = "127.0.0.1",
               .port = prefill.port(),
               .prompt_tokens = c.tokens,
               .skip = c.skip,
               .pages = decode_pages});
  ASSERT_TRUE(prefill.WaitOpened(7));
  prefill.Compute(7, keys, prefill_pages, c.chunk, c.cached, 0, "first token");

  const auto end = decode.WaitEnd(7);
  ASSERT_TRUE(end);
  ASSERT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << end->status.message();
  EXPECT_EQ(end->metadata, "first token");
  const auto sent = prefill.WaitEnded(7);
  ASSERT_TRUE(sent);
  EXPECT_TRUE(sent->status.ok()) << sent->status.message();
  EXPECT_EQ(keys.Differences(decode.cache(), decode_pages, {c.skip, c.tokens}), 0);
  EXPECT_EQ(Touched(decode.cache(), decode_pages, {c.skip, c.tokens}), 0);

  const int64_t bytes = (c.tokens - c.skip) * c.shape.BytesPerToken();
  EXPECT_EQ(end->bytes, bytes);
  EXPECT_EQ(sent->bytes, bytes);
  EXPECT_EQ(decode.receiver().counters().bytes, bytes);
  EXPECT_EQ(prefill.sender().counters().shared_memory_bytes,
            c.backend == kShm || c.backend == TransferBackend::kAuto ? bytes : 0);
  EXPECT_EQ(prefill.sender().counters().ucx_bytes, c.backend == kUcx ? bytes : 0);
  EXPECT_EQ(decode.receiver().counters().ucx_bytes, c.backend == kUcx ? bytes : 0);
  EXPECT_EQ(prefill.sender().counters().rooms_completed, 1);
  EXPECT_EQ(decode.receiver().counters().rooms_failed, 0);
}

const KvShape kBf16Index = Shape(DType::kBf16, 8);

INSTANTIATE_TEST_SUITE_P(
    Transfer, RoundTrip,
    testing::Values(
        Case{"tcp_bf16_index", kTcp, kBf16Index, 777, 0, 0, 200, 100},
        Case{"shm_bf16_index", kShm, kBf16Index, 777, 0, 0, 200, 100},
        Case{"shm_bf16_index_no_checksum", kShm, kBf16Index, 777, 0, 0, 200, 100, false},
        Case{"tcp_bf16_index_no_checksum", kTcp, kBf16Index, 777, 0, 0, 200, 100, false},
        Case{"tcp_bf16", kTcp, Shape(DType::kBf16, 0), 300, 0, 64, 111, 512},
        Case{"shm_bf16", kShm, Shape(DType::kBf16, 0), 300, 0, 64, 111, 512},
        Case{"tcp_f32", kTcp, Shape(DType::kF32, 8), 65, 0, 0, 1000, 7},
        Case{"shm_f32", kShm, Shape(DType::kF32, 8), 65, 0, 0, 1000, 7},
        Case{"tcp_int8", kTcp, Shape(DType::kBf16, 8, true, true), 129, 0, 0, 50, 64},
        Case{"shm_int8", kShm, Shape(DType::kBf16, 8, true, true), 129, 0, 0, 50, 64},
        Case{"shm_int8_no_checksum", kShm, Shape(DType::kBf16, 8, true, true), 129, 0, 0, 50, 64,
             false},
        Case{"tcp_int8_latents", kTcp, Shape(DType::kBf16, 8, true), 100, 0, 0, 33, 512},
        Case{"tcp_one_token", kTcp, kBf16Index, 1, 0, 0, 1, 512},
        Case{"shm_one_token", kShm, kBf16Index, 1, 0, 0, 1, 512},
        Case{"tcp_skip", kTcp, kBf16Index, 500, 192, 256, 100, 512},
        Case{"shm_skip", kShm, kBf16Index, 500, 192, 256, 100, 512, false},
        Case{"tcp_odd_skip", kTcp, kBf16Index, 500, 77, 0, 100, 512},
        Case{"shm_odd_skip", kShm, kBf16Index, 500, 77, 0, 100, 512, false},
        Case{"tcp_skip_all", kTcp, kBf16Index, 128, 128, 0, 100, 512},
        Case{"ucx_bf16_index", kUcx, kBf16Index, 777, 0, 0, 200, 100},
        Case{"ucx_bf16_index_no_checksum", kUcx, kBf16Index, 777, 0, 0, 200, 100, false},
        Case{"ucx_bf16", kUcx, Shape(DType::kBf16, 0), 300, 0, 64, 111, 512},
        Case{"ucx_f32", kUcx, Shape(DType::kF32, 8), 65, 0, 0, 1000, 7},
        Case{"ucx_int8", kUcx, Shape(DType::kBf16, 8, true, true), 129, 0, 0, 50, 64},
        Case{"ucx_int8_no_checksum", kUcx, Shape(DType::kBf16, 8, true, true), 129, 0, 0, 50, 64,
             false},
        Case{"ucx_one_token", kUcx, kBf16Index, 1, 0, 0, 1, 512},
        Case{"ucx_skip", kUcx, kBf16Index, 500, 192, 256, 100, 512, false},
        Case{"ucx_odd_skip", kUcx, kBf16Index, 500, 77, 0, 100, 512, false},
        Case{"ucx_skip_all", kUcx, kBf16Index, 128, 128, 0, 100, 512},
        Case{"ucx_one_token_a_run", kUcx, kBf16Index, 200, 0, 0, 64, 1},
        Case{"auto", TransferBackend::kAuto, kBf16Index, 777, 0, 0, 200, 100}),
    [](const auto& info) { return info.param.name; });

TEST(Transfer, SendsWhatWasWrittenBeforeTheDecodeServerCame) {
  SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
  PrefillServer prefill(options);
  const Keys keys(kBf16Index, 200, 1);
  prefill.Expect(1, 200);
  prefill.Compute(1, keys, SomePages(4, 64, 2), 64);
  DecodeServer decode(options);
  const auto pages = SomePages(4, 64, 3);
  decode.Open({1, "127.0.0.1", prefill.port(), 0, 200, 0, pages});
  const auto end = decode.WaitEnd(1);
  ASSERT_TRUE(end);
  ASSERT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << end->status.message();
  EXPECT_EQ(keys.Differences(decode.cache(), pages, {0, 200}), 0);
}

TEST(Transfer, WaitsForARequestThatComesAfterTheDecodeServer) {
  SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
  PrefillServer prefill(options);
  DecodeServer decode(options);
  decode.Open({1, "localhost", prefill.port(), 0, 100, 0, {0, 1}});
  EXPECT_FALSE(prefill.WaitOpened(1, 100));
  prefill.Expect(1, 100);
  ASSERT_TRUE(prefill.WaitOpened(1));
  const Keys keys(kBf16Index, 100, 1);
  prefill.Compute(1, keys, {5, 6}, 64);
  ASSERT_EQ(decode.WaitEnd(1)->kind, ReceiverEvent::Kind::kCompleted);
  EXPECT_EQ(keys.Differences(decode.cache(), {0, 1}, {0, 100}), 0);
  EXPECT_GT(decode.events().Count([](const ReceiverEvent& e) {
    return e.kind == ReceiverEvent::Kind::kProgress && e.share > 0 && e.share <= 1;
  }),
            1);
}

// ---- Types

// As the model's kernels quantise: symmetric, a scale of the row's largest value.
void QuantizeRow(const Bf16* from, int64_t count, int8_t* to, float* scale) {
  float most = 1e-10f;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(FromBf16(from[i])));
  *scale = most / 127.0f;
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<int8_t>(std::lround(FromBf16(from[i]) * (127.0f / most)));
  }
}

constexpr int64_t kLatent = 12;
constexpr int64_t kRope = 8;

void ToInt8Latents(const void* from, int64_t count, void* to) {
  for (int64_t i = 0; i < count; ++i) {
    const Bf16* row = static_cast<const Bf16*>(from) + i * (kLatent + kRope);
    char* out = static_cast<char*>(to) + i * (kLatent + kRope + 8);
    float scales[2];
    QuantizeRow(row, kLatent, reinterpret_cast<int8_t*>(out), &scales[0]);
    QuantizeRow(row + kLatent, kRope, reinterpret_cast<int8_t*>(out) + kLatent, &scales[1]);
    std::memcpy(out + kLatent + kRope, scales, 8);
  }
}

void ToInt8Keys(const void* from, int64_t count, void* to) {
  for (int64_t i = 0; i < count; ++i) {
    char* out = static_cast<char*>(to) + i * 12;
    float scale;
    QuantizeRow(static_cast<const Bf16*>(from) + i * 8, 8, reinterpret_cast<int8_t*>(out), &scale);
    std::memcpy(out + 8, &scale, 4);
  }
}

TEST(Transfer, TurnsBf16KeysIntoInt8OnesOnTheWayRowByRow) {
  for (const TransferBackend backend : AllBackends()) {
    for (const bool latents : {false, true}) {
      for (const bool index_keys : {false, true}) {
        SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
        options.transfer.backend = backend;
        options.transfer.run_tokens = 50;
        PrefillServer prefill(options);
        options.shape = Shape(DType::kBf16, 8, latents, index_keys);
        options.conversions = {ToInt8Latents, ToInt8Keys};
        DecodeServer decode(options);
        const Keys keys(kBf16Index, 150, 1);
        prefill.Expect(1, 150);
        decode.Open({1, "127.0.0.1", prefill.port(), 0, 150, 0, {3, 1, 2}});
        prefill.Compute(1, keys, {5, 6, 9}, 64);
        const auto end = decode.WaitEnd(1);
        ASSERT_TRUE(end);
        ASSERT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << end->status.message();
        const std::vector<int32_t> pages = {3, 1, 2};
        for (int64_t layer = 0; layer < 3; ++layer) {
          for (int64_t t = 0; t < 150; ++t) {
            char expected[64];
            char found[64];
            const int32_t page = pages[static_cast<size_t>(t / kPage)];
            std::memcpy(expected, keys.Latent(layer, t), 40);
            if (latents) ToInt8Latents(keys.Latent(layer, t), 1, expected);
            decode.cache().LoadLatent(layer, page, t % kPage, found);
            ASSERT_EQ(std::memcmp(expected, found, latents ? 28 : 40), 0) << layer << " " << t;
            std::memcpy(expected, keys.IndexKey(layer, t), 16);
            if (index_keys) ToInt8Keys(keys.IndexKey(layer, t), 1, expected);
            decode.cache().LoadIndexKey(layer, page, t % kPage, found);
            ASSERT_EQ(std::memcmp(expected, found, index_keys ? 12 : 16), 0) << layer << " " << t;
          }
        }
      }
    }
  }
}

TEST(Transfer, RefusesAServerWhoseKeysAreOthersAndNamesBothSides) {
  SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
  PrefillServer prefill(options);
  const struct {
    std::function<void(SimulatedOptions&)> change;
    const char* message;
  } cases[] = {
      {[](SimulatedOptions& o) { o.transfer.model = "other"; },
       "the model: the prefill server has tiny, the decode server other"},
      {[](SimulatedOptions& o) { o.shape.layers = 4; },
       "layers: the prefill server has 3, the decode server 4"},
      {[](SimulatedOptions& o) { o.shape.int8_kv = true; },
       "the type of latents: the prefill server has bfloat16, the decode server int8"},
  };
  for (const auto& c : cases) {
    SimulatedOptions other = options;
    c.change(other);
    DecodeServer decode(other);
    decode.Open({1, "127.0.0.1", prefill.port(), 0, 100, 0, {0, 1}});
    const auto end = decode.WaitEnd(1);
    ASSERT_TRUE(end);
    EXPECT_EQ(end->kind, ReceiverEvent::Kind::kFailed);
    EXPECT_EQ(end->status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(end->status.message().find(c.message), std::string::npos) << end->status.message();
  }
  EXPECT_EQ(prefill.sender().counters().rooms_failed, 0);
}

TEST(Transfer, RefusesARoomWhosePromptHasAnotherLength) {
  SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
  PrefillServer prefill(options);
  DecodeServer decode(options);
  prefill.Expect(1, 99);
  decode.Open({1, "127.0.0.1", prefill.port(), 0, 100, 0, {0, 1}});
  const auto end = decode.WaitEnd(1);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, ReceiverEvent::Kind::kRefused);
  EXPECT_NE(end->status.message().find("99 tokens on the prefill server, 100 on the decode server"),
            std::string::npos)
      << end->status.message();
  EXPECT_EQ(prefill.WaitEnded(1)->status.code(), StatusCode::kInvalidArgument);
}

TEST(Transfer, RefusesRoomsThatMakeNoSense) {
  SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
  PrefillServer prefill(options);
  DecodeServer decode(options);
  const RoomOpen good{1, "127.0.0.1", prefill.port(), 0, 100, 0, {0, 1}};
  std::vector<RoomOpen> bad(5, good);
  bad[0].pages = {0};
  bad[1].pages = {0, 64};
  bad[2].dp = 1;
  bad[3].skip = 101;
  bad[4].prompt_tokens = 0;
  for (uint64_t i = 0; i < bad.size(); ++i) {
    bad[i].room = 10 + i;
    decode.Open(bad[i]);
    const auto end = decode.WaitEnd(10 + i);
    ASSERT_TRUE(end);
    EXPECT_EQ(end->kind, ReceiverEvent::Kind::kFailed);
    EXPECT_EQ(end->status.code(), StatusCode::kInvalidArgument) << end->status.message();
  }
  prefill.Expect(1, 100);
  EXPECT_EQ(prefill.sender().Expect(1, 100, 0).code(), StatusCode::kInvalidArgument);
}

TEST(Transfer, GoesByTcpWhereTheCacheIsPrivateUnlessSharedMemoryIsDemanded) {
  SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
  options.memory = KvMemory::kPrivate;
  PrefillServer prefill(options);
  DecodeServer by_any(options);
  const Keys keys(kBf16Index, 100, 1);
  prefill.Expect(1, 100);
  by_any.Open({1, "127.0.0.1", prefill.port(), 0, 100, 0, {0, 1}});
  prefill.Compute(1, keys, {5, 6}, 64);
  ASSERT_EQ(by_any.WaitEnd(1)->kind, ReceiverEvent::Kind::kCompleted);
  EXPECT_EQ(by_any.receiver().counters().shared_memory_bytes, 0);

  options.transfer.backend = kShm;
  DecodeServer demanding(options);
  demanding.Open({2, "127.0.0.1", prefill.port(), 0, 100, 0, {0, 1}});
  const auto end = demanding.WaitEnd(2);
  ASSERT_TRUE(end);
  EXPECT_NE(end->status.message().find("offers no shared memory"), std::string::npos)
      << end->status.message();
  const KvCache alone(kBf16Index, 2);
  options.transfer.layout = {};
  EXPECT_FALSE(KvSender::Make(options.transfer, alone, [](const SenderEvent&) {}).ok());
}

TEST(Transfer, IsRefusedWithBothValuesWhereTheSidesInsistOnDifferentBackends) {
  for (const TransferBackend of_prefill : AllBackends()) {
    for (const TransferBackend of_decode : AllBackends()) {
      if (of_prefill == of_decode) continue;
      SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
      options.transfer.backend = of_prefill;
      PrefillServer prefill(options);
      options.transfer.backend = of_decode;
      DecodeServer decode(options);
      decode.Open({1, "127.0.0.1", prefill.port(), 0, 100, 0, {0, 1}});
      const auto end = decode.WaitEnd(1);
      ASSERT_TRUE(end);
      EXPECT_NE(end->status.message().find(Text("the prefill server has ", NameOf(of_prefill),
                                                ", the decode server ", NameOf(of_decode))),
                std::string::npos)
          << end->status.message();
    }
  }
}

TEST(Transfer, GoesByWhatOneSideInsistsOnWhereTheOtherHasNoWish) {
  for (const TransferBackend backend : AllBackends()) {
    // Without RDMA, UCX is a matter of both.
    if (backend == kUcx) continue;
    for (const bool of_prefill : {true, false}) {
      SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
      if (of_prefill) options.transfer.backend = backend;
      PrefillServer prefill(options);
      options.transfer.backend = of_prefill ? TransferBackend::kAuto : backend;
      DecodeServer decode(options);
      const Keys keys(kBf16Index, 100, 1);
      prefill.Expect(1, 100);
      decode.Open({1, "127.0.0.1", prefill.port(), 0, 100, 0, {0, 1}});
      prefill.Compute(1, keys, {5, 6}, 64);
      const auto end = decode.WaitEnd(1);
      ASSERT_TRUE(end) << NameOf(backend);
      ASSERT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << end->status.message();
      EXPECT_EQ(keys.Differences(decode.cache(), {0, 1}, {0, 100}), 0);
      const TransferCounters& counters = decode.receiver().counters();
      EXPECT_EQ(counters.ucx_bytes, 0) << of_prefill;
      EXPECT_EQ(counters.shared_memory_bytes > 0, backend == kShm) << of_prefill;
    }
  }
}

TEST(Transfer, ByUcxIsRefusedWhereOneSideIsNotToldToAndHasNoRdma) {
  if (!UcxProblem().ok()) GTEST_SKIP() << UcxProblem().message();
  if (HasRdma()) GTEST_SKIP() << "this host has RDMA: auto offers UCX";
  for (const bool of_prefill : {true, false}) {
    SimulatedOptions options{.layout = {}, .shape = kBf16Index, .transfer = Options()};
    if (of_prefill) options.transfer.backend = kUcx;
    PrefillServer prefill(options);
    options.transfer.backend = of_prefill ? TransferBackend::kAuto : kUcx;
    DecodeServer decode(options);
    decode.Open({1, "127.0.0.1", prefill.port(), 0, 100, 0, {0, 1}});
    const auto end = decode.WaitEnd(1);
    ASSERT_TRUE(end);
    const char* const expected =
        of_prefill
            ? "the prefill server has ucx, the decode server auto: the decode host has no RDMA"
            : "the prefill server has auto, the decode server ucx: the prefill host offers";
    EXPECT_NE(end->status.message().find(expected), std::string::npos) << end->status.message();
  }
}

TEST(Transfer, BackendsHaveTheNamesOfTheFlag) {
  EXPECT_EQ(*ParseTransferBackend("tcp"), kTcp);
  EXPECT_EQ(*ParseTransferBackend("shm"), kShm);
  for (const char* name : {"auto", "mooncake", "nixl", "ascend"}) {
    EXPECT_EQ(*ParseTransferBackend(name), TransferBackend::kAuto);
  }
  const std::string others = ParseTransferBackend("x").status().message();
  if (BuiltWithUcx()) {
    EXPECT_EQ(*ParseTransferBackend("ucx"), kUcx);
    EXPECT_NE(others.find("found 'x'; expected auto, tcp, shm or ucx"), std::string::npos)
        << others;
  } else {
    const std::string none = ParseTransferBackend("ucx").status().message();
    EXPECT_NE(none.find("this build has no ucx"), std::string::npos) << none;
    EXPECT_NE(none.find("expected auto, tcp or shm"), std::string::npos) << none;
    EXPECT_NE(others.find("found 'x'; expected auto, tcp or shm"), std::string::npos) << others;
  }
}

// ---- Several hosts

struct Hosts {
  LayoutFlags prefill;
  int prefill_dp;
  LayoutFlags decode;
  int decode_dp;
};

TEST(Transfer, ReachesAllDecodeHostsOfTheGroupFromAllPrefillHostsOfTheirs) {
  const Hosts cases[] = {
      {{.world = 4, .cp = 4, .hosts = 2}, 0, {.world = 1}, 0},
      {{.world = 1}, 0, {.world = 4, .cp = 1, .hosts = 2}, 0},
      {{.world = 4, .cp = 4, .hosts = 4}, 0, {.world = 4, .cp = 1, .hosts = 2}, 0},
      {{.world = 8, .cp = 2, .hosts = 4}, 0, {.world = 2, .dp = 2, .hosts = 2}, 1},
      {{.world = 4, .dp = 4, .hosts = 2}, 3, {.world = 4, .dp = 2, .hosts = 4}, 1},
  };
  for (const TransferBackend backend : AllBackends()) {
    for (const Hosts& c : cases) {
      SimulatedOptions options{
          .layout = *Layout::Make(c.prefill), .shape = kBf16Index, .transfer = Options()};
      options.transfer.backend = backend;
      PrefillServer prefill(options);
      options.layout = *Layout::Make(c.decode);
      DecodeServer decode(options);
      const std::string name = prefill.layout().ToString() + " to " + decode.layout().ToString();
      for (int host = 0; host < decode.layout().hosts; ++host) Poison(decode.cache(host));
      const Keys keys(kBf16Index, 700, 1);
      const auto prefill_pages = SomePages(11, 64, 2);
      const auto decode_pages = SomePages(11, 64, 3);
      prefill.Expect(9, 700, c.prefill_dp);
      decode.Open({9, "127.0.0.1", prefill.port(), c.decode_dp, 700, 0, decode_pages});
      ASSERT_TRUE(prefill.WaitOpened(9)) << name;
      prefill.Compute(9, keys, prefill_pages, 300, 128, c.prefill_dp, "all hosts");
      const auto end = decode.WaitEnd(9);
      ASSERT_TRUE(end) << name;
      ASSERT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << name << end->status.message();
      EXPECT_EQ(end->metadata, "all hosts");
      const auto sent = prefill.WaitEnded(9);
      ASSERT_TRUE(sent) << name;
      EXPECT_TRUE(sent->status.ok()) << name << sent->status.message();
      // Of the same pages on all hosts: right in the group, untouched elsewhere.
      const std::vector<int> group = HostsOfGroup(decode.layout(), c.decode_dp);
      for (int host = 0; host < decode.layout().hosts; ++host) {
        const bool wants = std::find(group.begin(), group.end(), host) != group.end();
        if (wants) {
          EXPECT_EQ(keys.Differences(decode.cache(host), decode_pages, {0, 700}), 0)
              << name << host;
        }
        EXPECT_EQ(Touched(decode.cache(host), decode_pages, {0, wants ? 700 : 0}), 0)
            << name << host;
      }
    }
  }
}

TEST(Transfer, OfAHostThatFailsFailsOnAllHostsOfBothSides) {
  SimulatedOptions options{.layout = *Layout::Make({.world = 2, .cp = 2, .hosts = 2}),
                           .shape = kBf16Index,
                           .transfer = Options()};
  PrefillServer prefill(options);
  DecodeServer decode(options);
  prefill.Expect(1, 200);
  decode.Open({1, "127.0.0.1", prefill.port(), 0, 200, 0, {0, 1, 2, 3}});
  ASSERT_TRUE(prefill.WaitOpened(1));
  prefill.sender(1).Cancel(1, InternalError("a step failed"));
  for (int host = 0; host < 2; ++host) {
    const auto ended = prefill.WaitEnded(1, 20'000, host);
    ASSERT_TRUE(ended) << host;
    EXPECT_NE(ended->status.message().find("a step failed"), std::string::npos);
  }
  const auto end = decode.WaitEnd(1);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, ReceiverEvent::Kind::kFailed);
  EXPECT_NE(end->status.message().find("a step failed"), std::string::npos)
      << end->status.message();
}

TEST(Transfer, CarriesManyRoomsAtOnceThroughSmallBuffers) {
  for (const TransferBackend backend : AllBackends()) {
    SimulatedOptions options{.layout = *Layout::Make({.world = 2, .cp = 2, .hosts = 2}),
                             .shape = kBf16Index,
                             .pages = 64 * 4,
                             .transfer = Options()};
    options.transfer.backend = backend;
    options.transfer.run_tokens = 5;
    options.transfer.link.in_flight_bytes = 4096;
    PrefillServer prefill(options);
    DecodeServer decode(options);
    const auto prefill_pages = SomePages(256, 256, 2);
    const auto decode_pages = SomePages(256, 256, 3);
    const auto pages_of = [](const std::vector<int32_t>& all, uint64_t room) {
      const auto begin = all.begin() + static_cast<ptrdiff_t>(room * 4);
      return std::vector<int32_t>(begin, begin + 4);
    };
    std::vector<Keys> keys;
    for (uint64_t room = 0; room < 64; ++room) {
      keys.emplace_back(kBf16Index, 190 + static_cast<int64_t>(room), room);
      const int64_t tokens = keys.back().tokens();
      prefill.Expect(room, tokens);
      decode.Open({room, "127.0.0.1", prefill.port(), 0, tokens, 0, pages_of(decode_pages, room)});
    }
    std::vector<std::thread> ranks;
    for (uint64_t rank = 0; rank < 4; ++rank) {
      ranks.emplace_back([&, rank] {
        for (uint64_t room = rank; room < 64; room += 4) {
          prefill.Compute(room, keys[room], pages_of(prefill_pages, room), 77);
        }
      });
    }
    for (std::thread& rank : ranks) rank.join();
    for (uint64_t room = 0; room < 64; ++room) {
      const auto end = decode.WaitEnd(room, 60'000);
      ASSERT_TRUE(end) << room;
      ASSERT_EQ(end->kind, ReceiverEvent::Kind::kCompleted) << room << end->status.message();
      ASSERT_TRUE(prefill.WaitEnded(room)->status.ok());
      for (int host = 0; host < 2; ++host) {
        EXPECT_EQ(keys[room].Differences(decode.cache(host), pages_of(decode_pages, room),
                                         {0, keys[room].tokens()}),
                  0)
            << room;
      }
    }
  }
}

}  // namespace
}  // namespace causeway
