#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "base/bf16.h"
#include "base/buffer.h"
#include "base/fp8.h"
#include "base/queue.h"
#include "base/status.h"
#include "base/thread_team.h"
#include "base/trace.h"
#include "base/view.h"

namespace causeway {
namespace {

TEST(Fp8, EveryFiniteCodeDecodesAndEncodesToItself) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    EXPECT_EQ(ToE4m3(FromE4m3(static_cast<E4m3>(code))), code);
  }
}

TEST(Fp8, RoundsTiesToEvenAndSaturates) {
  EXPECT_EQ(FromE4m3(ToE4m3(17.0f)), 16.0f);
  EXPECT_EQ(FromE4m3(ToE4m3(19.0f)), 20.0f);
  EXPECT_EQ(FromE4m3(ToE4m3(0x1p-10f)), 0.0f);
  EXPECT_EQ(FromE4m3(ToE4m3(3 * 0x1p-10f)), 0x1p-8f);
  EXPECT_EQ(FromE4m3(ToE4m3(-1e9f)), -448.0f);
  EXPECT_TRUE(std::isnan(FromE4m3(ToE4m3(NAN))));
}

TEST(Bf16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(FromBf16(ToBf16(1.00390625f)), 1.0f);
  EXPECT_EQ(FromBf16(ToBf16(1.01171875f)), 1.015625f);
  EXPECT_TRUE(std::isnan(FromBf16(ToBf16(NAN))));
  EXPECT_EQ(FromF16(0x3c00), 1.0f);
  EXPECT_EQ(FromF16(0x8001), -0x1p-24f);
  EXPECT_TRUE(std::isinf(FromF16(0x7c00)));
}

TEST(ThreadTeam, RunsEveryItemOnceForAnySize) {
  for (int size : {1, 2, 3, 5}) {
    ThreadTeam team(size);
    for (int64_t items : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(items));
      team.ParallelFor(items, [&](int64_t item, int worker) {
        EXPECT_LT(worker, size);
        ++hits[static_cast<size_t>(item)];
      });
      for (auto& hit : hits) EXPECT_EQ(hit.load(), 1);
    }
  }
}

TEST(Queue, RefusesWhenFullAndDrainsAfterClose) {
  Queue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  EXPECT_FALSE(queue.TryPush(3));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(4));
  EXPECT_EQ(queue.Pop(Deadline::AfterMs(1000)), 1);
  EXPECT_EQ(queue.Pop(Deadline::AfterMs(1000)), 2);
  EXPECT_EQ(queue.Pop(Deadline::AfterMs(1000)), std::nullopt);
}

TEST(Queue, PopGivesUpAtItsDeadlineAndSeesALatePush) {
  Queue<int> queue(2);
  EXPECT_EQ(queue.Pop(Deadline::AfterMs(1)), std::nullopt);
  std::thread producer([&] { EXPECT_TRUE(queue.TryPush(5)); });
  EXPECT_EQ(queue.Pop(Deadline::AfterMs(10000)), 5);
  producer.join();
}

TEST(View, SlicesAndIndexesRows) {
  Buffer buffer(6 * 4 * 4);
  const View<float, 2> view(buffer.as<float>(), {6, 4});
  view(2, 3) = 7.0f;
  EXPECT_EQ(view.Slice(2, 5)(0, 3), 7.0f);
  EXPECT_EQ(Rows::Of(view).Slice(2, 3).Columns(3, 4).row(0), &view(2, 3));
}

TEST(Trace, SumsByOperationName) {
  TraceLane lane(/*keep_events=*/true);
  lane.Record("gemm", 0, 100, 300);
  lane.Record("norm", 0, 300, 310);
  lane.Record("gemm", 1, 310, 410);
  ASSERT_EQ(lane.sums().size(), 2u);
  EXPECT_EQ(lane.sums()[0].ns, 300);
  EXPECT_EQ(lane.sums()[0].calls, 2);
  EXPECT_EQ(lane.events().size(), 3u);
}

Status Fails() { return InvalidArgument("no"); }
Status Propagates() {
  CAUSEWAY_RETURN_IF_ERROR(Fails());
  return Status();
}

TEST(Status, PropagatesThroughTheMacro) { EXPECT_EQ(Propagates().message(), "no"); }

}  // namespace
}  // namespace causeway
