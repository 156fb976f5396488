#include "transfer/rank_map.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace causeway {
namespace {

// Every legal layout of at most `largest` ranks.
std::vector<Layout> Layouts(int largest) {
  std::vector<Layout> all;
  for (int world = 1; world <= largest; ++world) {
    for (int cp = 1; cp <= world; ++cp) {
      for (int dp = 1; cp * dp <= world; ++dp) {
        for (int hosts = 1; hosts <= world; ++hosts) {
          const auto layout = Layout::Make({.world = world, .cp = cp, .dp = dp, .hosts = hosts});
          if (layout.ok()) all.push_back(*layout);
        }
      }
    }
  }
  return all;
}

// The slices of all ranks, as the model's SlicesOf makes them: of one group's extends.
std::vector<std::vector<Slice>> SlicesOf(const Layout& layout, PartitionKind kind, int dp,
                                         const std::vector<ExtendRange>& extends) {
  std::vector<std::vector<Slice>> slices(static_cast<size_t>(layout.world()));
  const auto of_group = Partition(kind, layout.cp, {}, extends);
  for (int cp = 0; cp < layout.cp; ++cp) {
    for (int tp = 0; tp < layout.tp; ++tp) {
      slices[static_cast<size_t>(layout.RankAt({dp, cp, tp}))] = of_group[static_cast<size_t>(cp)];
    }
  }
  return slices;
}

TEST(RankMap, CarriesEveryTokenOnceToEveryDecodeHostFromAHostThatComputedItInAllLayouts) {
  const std::vector<Layout> layouts = Layouts(8);
  ASSERT_GT(layouts.size(), 60u);
  const std::vector<ExtendRange> extends = {{64, 64 + 100}, {7, 8}, {0, 333}};
  int64_t maps = 0;
  for (const Layout& prefill : layouts) {
    for (const PartitionKind kind :
         {PartitionKind::kContiguous, PartitionKind::kZigzag, PartitionKind::kBalanced}) {
      for (int dp = 0; dp < prefill.dp; ++dp) {
        const auto slices = SlicesOf(prefill, kind, dp, extends);
        for (int32_t e = 0; e < static_cast<int32_t>(extends.size()); ++e) {
          const ExtendRange& extend = extends[static_cast<size_t>(e)];
          const auto runs = RunsOfChunk(prefill, dp, slices, e);
          for (const RankRun& run : runs) {
            ASSERT_EQ(run.host, prefill.HostOf(run.rank)) << prefill.ToString();
            ASSERT_EQ(prefill.PlaceOf(run.rank).dp, dp) << prefill.ToString();
            bool owned = false;
            for (const Slice& slice : slices[static_cast<size_t>(run.rank)]) {
              owned |= slice.extend == e && slice.begin <= run.tokens.begin &&
                       run.tokens.end <= slice.end;
            }
            ASSERT_TRUE(owned) << prefill.ToString() << ": rank " << run.rank << " sends ["
                               << run.tokens.begin << ", " << run.tokens.end << ")";
          }
          for (const Layout& decode : layouts) {
            for (int decode_dp = 0; decode_dp < decode.dp; ++decode_dp) {
              ++maps;
              std::map<int, std::set<int64_t>> got;  // by decode host
              for (const LinkRun& run : RankMap(runs, decode, decode_dp)) {
                for (int64_t t = run.tokens.begin; t < run.tokens.end; ++t) {
                  ASSERT_TRUE(got[run.to_host].insert(t).second)
                      << prefill.ToString() << " to " << decode.ToString() << ": token " << t
                      << " twice to host " << run.to_host;
                }
              }
              std::set<int> wanted;
              for (int rank = 0; rank < decode.world(); ++rank) {
                if (decode.PlaceOf(rank).dp == decode_dp) wanted.insert(decode.HostOf(rank));
              }
              ASSERT_EQ(got.size(), wanted.size()) << decode.ToString();
              for (const auto& [host, tokens] : got) {
                ASSERT_TRUE(wanted.contains(host)) << decode.ToString();
                ASSERT_EQ(static_cast<int64_t>(tokens.size()), extend.end - extend.begin);
                ASSERT_EQ(*tokens.begin(), extend.begin);
                ASSERT_EQ(*tokens.rbegin(), extend.end - 1);
              }
            }
          }
        }
      }
    }
  }
  EXPECT_GT(maps, 100000);
}

TEST(RankMap, UsesEveryHostOfALongChunkEvenlyWhereAttentionTpSpansThem) {
  const Layout layout = *Layout::Make({.world = 8, .cp = 1, .dp = 1, .hosts = 4});
  ASSERT_EQ(layout.tp, 8);
  const auto slices = SlicesOf(layout, PartitionKind::kContiguous, 0, {{0, 400}});
  const auto runs = RunsOfChunk(layout, 0, slices, 0);
  ASSERT_EQ(runs.size(), 4u);
  for (int host = 0; host < 4; ++host) {
    EXPECT_EQ(runs[static_cast<size_t>(host)],
              (RankRun{host * 2, host, {host * 100, host * 100 + 100}}));
  }
}

TEST(RankMap, SharesCachedTokensOutInWholePagesOverTheHostsOfTheGroup) {
  for (const Layout& layout : Layouts(8)) {
    for (int dp = 0; dp < layout.dp; ++dp) {
      for (const Range tokens : {Range{0, 640}, Range{0, 64}, Range{128, 64 * 7}, Range{64, 64}}) {
        int64_t next = tokens.begin;
        std::map<int, int64_t> of_host;
        for (const RankRun& run : RunsOfCached(layout, dp, tokens)) {
          EXPECT_EQ(run.tokens.begin, next);
          EXPECT_EQ(run.tokens.begin % 64, 0);
          EXPECT_GT(run.tokens.size(), 0);
          EXPECT_EQ(layout.HostOf(run.rank), run.host);
          EXPECT_EQ(layout.PlaceOf(run.rank).dp, dp);
          next = run.tokens.end;
          of_host[run.host] += run.tokens.size();
        }
        EXPECT_EQ(next, tokens.end);
        for (const auto& [host, count] : of_host) {
          EXPECT_LE(
              count,
              (tokens.size() / 64 / static_cast<int64_t>(HostsOfGroup(layout, dp).size()) + 1) * 64)
              << layout.ToString() << " host " << host;
        }
      }
    }
  }
}

TEST(RankMap, HasHostZeroTakePartInEveryRoom) {
  const Layout layout = *Layout::Make({.world = 4, .cp = 1, .dp = 4, .hosts = 2});
  EXPECT_EQ(HostsOfGroup(layout, 3), std::vector<int>{1});
  EXPECT_EQ(HostsOfRoom(layout, 3), (std::vector<int>{0, 1}));
  EXPECT_EQ(HostsOfRoom(layout, 0), std::vector<int>{0});
}

TEST(RankMap, RefusesKeysThatMeanSomethingElseAndNamesBothSides) {
  const TransferSide base = {
      .shape = {.layers = 4, .latent_dim = 576, .index_dim = 128, .type = DType::kBf16},
      .page_tokens = 64,
      .model = "v32"};
  const auto with = [&](auto change) {
    TransferSide side = base;
    change(side);
    return side;
  };
  const TransferSide int8_kv = with([](TransferSide& s) { s.shape.int8_kv = true; });
  const TransferSide int8_index = with([](TransferSide& s) { s.shape.int8_index = true; });
  const TransferSide f32 = with([](TransferSide& s) { s.shape.type = DType::kF32; });
  EXPECT_TRUE(Compatible(base, base, {}).ok());
  EXPECT_TRUE(Compatible(int8_kv, int8_kv, {}).ok());
  EXPECT_TRUE(Compatible(base, int8_kv, {.latents = true}).ok());
  EXPECT_TRUE(Compatible(base, int8_index, {.index_keys = true}).ok());

  const struct {
    TransferSide prefill;
    TransferSide decode;
    KvConversions conversions;
    const char* message;
  } cases[] = {
      {base,
       with([](TransferSide& s) { s.model = "v3"; }),
       {},
       "the model: the prefill server has v32, the decode server v3"},
      {base,
       with([](TransferSide& s) { s.shape.layers = 5; }),
       {},
       "layers: the prefill server has 4, the decode server 5"},
      {base,
       with([](TransferSide& s) { s.shape.latent_dim = 512; }),
       {},
       "values of a latent: the prefill server has 576, the decode server 512"},
      {base,
       with([](TransferSide& s) { s.shape.index_dim = 0; }),
       {},
       "values of an index key: the prefill server has 128, the decode server 0"},
      {base,
       with([](TransferSide& s) { s.page_tokens = 32; }),
       {},
       "tokens of a page: the prefill server has 64, the decode server 32"},
      {base,
       int8_kv,
       {.index_keys = true},
       "the type of latents: the prefill server has bfloat16, the decode server int8"},
      {int8_kv,
       base,
       {true, true},
       "the type of latents: the prefill server has int8, the decode server bfloat16"},
      {f32,
       base,
       {true, true},
       "the type of latents: the prefill server has float32, the decode server bfloat16"},
      {base,
       int8_index,
       {.latents = true},
       "the type of index keys: the prefill server has bfloat16, the decode server int8"},
  };
  for (const auto& c : cases) {
    const Status status = Compatible(c.prefill, c.decode, c.conversions);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(c.message), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace causeway
