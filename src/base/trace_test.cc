#include "base/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>
#include <fstream>
#include <sstream>

namespace causeway {
namespace {

std::string ReadAndRemove(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  std::remove(path.c_str());
  return std::move(text).str();
}

std::string TemporaryPath() { return Text(testing::TempDir(), "/trace_test.", getpid(), ".json"); }

int Count(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

// Brackets nest and no comma is missing or too many: what breaks in hand-written JSON.
void ExpectWellFormed(const std::string& json) {
  std::string open;
  char last = 0;
  for (const char c : json) {
    if (std::isspace(static_cast<unsigned char>(c)) != 0) continue;
    if (c == '{' || c == '[') {
      EXPECT_NE(last, '}') << "no comma between two values";
      open += c;
    } else if (c == '}' || c == ']') {
      EXPECT_NE(last, ',') << "a comma before the end";
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), c == '}' ? '{' : '[');
      open.pop_back();
    }
    last = c;
  }
  EXPECT_EQ(open, "");
}

TEST(TraceLane, SumsByOperationWhereverItsNameIsStored) {
  static const char kHere[] = "gemm";
  static const char kThere[] = "gemm";  // the same text, as from another source file
  TraceLane lane;
  lane.Record(kHere, 0, 100, 300);
  lane.Record("norm", 0, 300, 310);
  lane.Record(kThere, 1, 310, 410);
  ASSERT_EQ(lane.sums().size(), 2u);
  EXPECT_STREQ(lane.sums()[0].name, "gemm");
  EXPECT_EQ(lane.sums()[0].ns, 300);
  EXPECT_EQ(lane.sums()[0].calls, 2);
  EXPECT_STREQ(lane.sums()[1].name, "norm");
}

TEST(TraceLane, KeepsEventsOnlyIfAskedAndForgetsAllOnClear) {
  TraceLane sums_only;
  TraceLane with_events(/*keep_events=*/true);
  for (TraceLane* lane : {&sums_only, &with_events}) lane->Record("gemm", 3, 10, 20);
  EXPECT_TRUE(sums_only.events().empty());
  ASSERT_EQ(with_events.events().size(), 1u);
  EXPECT_EQ(with_events.events()[0].layer, 3);
  with_events.Clear();
  EXPECT_TRUE(with_events.events().empty());
  EXPECT_TRUE(with_events.sums().empty());
}

TEST(TraceZone, RecordsItsOwnLifeInsideThatOfTheZoneAround) {
  TraceLane lane(/*keep_events=*/true);
  const int64_t before = NowNs();
  {
    const TraceZone outer(lane, "outer");
    const TraceZone inner(lane, "inner", 7);
  }
  ASSERT_EQ(lane.events().size(), 2u);
  const TraceLane::Event& inner = lane.events()[0];  // ends first
  const TraceLane::Event& outer = lane.events()[1];
  EXPECT_EQ(inner.layer, 7);
  EXPECT_EQ(outer.layer, -1);
  EXPECT_LE(before, outer.begin_ns);
  EXPECT_LE(outer.begin_ns, inner.begin_ns);
  EXPECT_LE(inner.begin_ns, inner.end_ns);
  EXPECT_LE(inner.end_ns, outer.end_ns);
  EXPECT_LE(outer.end_ns, NowNs());
}

TEST(TraceLane, SaysWhatItsRankDoesAndWhatItDidLast) {
  TraceLane lane;
  EXPECT_EQ(lane.now().name, nullptr);
  {
    const TraceZone outer(lane, "moe wait", 2);
    EXPECT_STREQ(lane.now().name, "moe wait");
    EXPECT_EQ(lane.now().layer, 2);
    EXPECT_TRUE(lane.now().inside);
    const int64_t outer_since = lane.now().since_ns;
    {
      const TraceZone inner(lane, "experts", 3);
      EXPECT_STREQ(lane.now().name, "experts");
    }
    EXPECT_STREQ(lane.now().name, "moe wait") << "the zone around goes on";
    EXPECT_EQ(lane.now().since_ns, outer_since);
  }
  EXPECT_STREQ(lane.now().name, "moe wait");
  EXPECT_FALSE(lane.now().inside);
}

TEST(TraceLane, KeepsEventsWhileItIsToldTo) {
  TraceLane lane;
  lane.Record("before", 0, 1, 2);
  lane.KeepEvents(true);
  lane.Record("kept", 0, 2, 3);
  lane.KeepEvents(false);
  lane.Record("after", 0, 3, 4);
  ASSERT_EQ(lane.events().size(), 1u);
  EXPECT_STREQ(lane.events()[0].name, "kept");
  lane.ClearEvents();
  EXPECT_TRUE(lane.events().empty());
  EXPECT_EQ(lane.sums().size(), 3u) << "sums are kept in any case";
}

TEST(WriteTracks, WritesANewFileAndNeverOverAnother) {
  const std::string path = TemporaryPath();
  ASSERT_TRUE(WriteTracks(path, {{"rank 0", {{"head", -1, 1000, 2500}}}, {"engine", {}}}).ok());
  const Status again = WriteTracks(path, {});
  EXPECT_NE(again.message().find(Text("can't write ", path, ": ")), std::string::npos);
  const std::string json = ReadAndRemove(path);
  ExpectWellFormed(json);
  EXPECT_EQ(Count(json, "\"name\":\"engine\""), 1) << json;
  EXPECT_EQ(Count(json, "\"ts\":0.000,\"dur\":1.500"), 1) << json;
}

TEST(WriteTrace, WritesWellFormedJsonWhicheverLanesAreEmpty) {
  for (int filled = 0; filled < 8; ++filled) {  // bit r: rank r has events
    std::deque<TraceLane> lanes;
    for (int rank = 0; rank < 3; ++rank) lanes.emplace_back(/*keep_events=*/true);
    std::vector<const TraceLane*> pointers;
    int events = 0;
    for (size_t rank = 0; rank < lanes.size(); ++rank) {
      if ((filled >> rank & 1) != 0) {
        lanes[rank].Record("kv wait", 2, 5'000'000, 5'001'500);
        lanes[rank].Record("head", -1, 6'000'000, 6'000'001);
        events += 2;
      }
      pointers.push_back(&lanes[rank]);
    }
    const std::string path = TemporaryPath();
    const Status status = WriteTrace(path, pointers);
    ASSERT_TRUE(status.ok()) << status.message();
    const std::string json = ReadAndRemove(path);
    SCOPED_TRACE(json);
    ExpectWellFormed(json);
    EXPECT_EQ(Count(json, "\"ph\":\"M\""), 3);  // every rank has its lane's name
    EXPECT_EQ(Count(json, "\"ph\":\"X\""), events);
    // Microseconds from the first event on.
    EXPECT_EQ(Count(json, "\"ts\":0.000,\"dur\":1.500,\"args\":{\"layer\":2}"), events / 2);
    EXPECT_EQ(Count(json, "\"ts\":1000.000,\"dur\":0.001"), events / 2);
  }
}

TEST(WriteTrace, AFileThatCannotBeWrittenIsNamedWithItsFlag) {
  TraceLane lane(/*keep_events=*/true);
  lane.Record("head", -1, 1, 2);
  const Status missing = WriteTrace("/no/such/folder/trace.json", {&lane});
  EXPECT_EQ(missing.message(), "--trace: can't write /no/such/folder/trace.json");
  // A full disk shows only when the last bytes are flushed.
  const Status full = WriteTrace("/dev/full", {&lane});
  EXPECT_EQ(full.message(), "--trace: can't write /dev/full");
}

}  // namespace
}  // namespace causeway
