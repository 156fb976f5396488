#include "base/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

namespace causeway {
namespace {

TEST(MetricsTest, ACounterIsPrintedWithHelpTypeAndLabels) {
  MetricRegistry registry;
  Counter& counter =
      registry.AddCounter("sglang:prompt_tokens_total", "Tokens.", {{"model", "m"}, {"x", "1"}});
  counter.Add();
  counter.Add(41);
  EXPECT_EQ(registry.Render(),
            "# HELP sglang:prompt_tokens_total Tokens.\n"
            "# TYPE sglang:prompt_tokens_total counter\n"
            "sglang:prompt_tokens_total{model=\"m\",x=\"1\"} 42.0\n");
}

TEST(MetricsTest, SeriesOfOneNameStandTogetherUnderOneHelp) {
  MetricRegistry registry;
  registry.AddGauge("a", "A.", {{"rank", "0"}}).Set(1);
  registry.AddGauge("b", "B.").Set(0.5);
  registry.AddGauge("a", "A.", {{"rank", "1"}}).Set(-2);
  EXPECT_EQ(registry.Render(),
            "# HELP a A.\n# TYPE a gauge\na{rank=\"0\"} 1.0\na{rank=\"1\"} -2.0\n"
            "# HELP b B.\n# TYPE b gauge\nb 0.5\n");
}

TEST(MetricsTest, AHistogramIsPrintedAsSumsFromTheLowestRange) {
  MetricRegistry registry;
  Histogram& histogram = registry.AddHistogram("t", "T.", {0.5, 1, 4}, {{"s", "x"}});
  // A bound belongs to its range.
  for (const double value : {0.5, 0.75, 1.0, 8.0}) histogram.Observe(value);
  EXPECT_EQ(registry.Render(),
            "# HELP t T.\n# TYPE t histogram\n"
            "t_bucket{s=\"x\",le=\"0.5\"} 1.0\n"
            "t_bucket{s=\"x\",le=\"1.0\"} 3.0\n"
            "t_bucket{s=\"x\",le=\"4.0\"} 3.0\n"
            "t_bucket{s=\"x\",le=\"+Inf\"} 4.0\n"
            "t_count{s=\"x\"} 4.0\n"
            "t_sum{s=\"x\"} 10.25\n");
}

TEST(MetricsTest, TextOfOthersCanNotBreakTheFormat) {
  MetricRegistry registry;
  registry.AddGauge("a", "one\ntwo \\", {{"model", "x\"} 5\ny\\"}}).Set(1);
  EXPECT_EQ(registry.Render(),
            "# HELP a one\\ntwo \\\\\n# TYPE a gauge\na{model=\"x\\\"} 5\\ny\\\\\"} 1.0\n");
}

TEST(MetricsTest, NumbersAreShortAndExact) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(FormatMetricNumber(0), "0.0");
  EXPECT_EQ(FormatMetricNumber(0.1), "0.1");
  EXPECT_EQ(FormatMetricNumber(999999), "999999.0");
  EXPECT_EQ(FormatMetricNumber(1000000), "1e+06");
  EXPECT_EQ(FormatMetricNumber(1100000), "1.1e+06");
  EXPECT_EQ(FormatMetricNumber(infinity), "+Inf");
  EXPECT_EQ(FormatMetricNumber(-infinity), "-Inf");
  EXPECT_EQ(FormatMetricNumber(std::nan("")), "NaN");
  for (const double value : {1.0 / 3, 1e-7, 123456789.123}) {
    EXPECT_EQ(std::stod(FormatMetricNumber(value)), value);
  }
}

TEST(MetricsTest, NothingIsLostBetweenThreads) {
  MetricRegistry registry;
  Counter& counter = registry.AddCounter("c_total", "C.");
  Histogram& histogram = registry.AddHistogram("h", "H.", {1, 2});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 1000; ++j) {
        counter.Add(0.5);
        histogram.Observe(1.5);
        if (j % 100 == 0) {
          EXPECT_FALSE(registry.Render().empty());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.value(), 2000);
  EXPECT_EQ(histogram.count(1), 4000u);
  EXPECT_EQ(histogram.sum(), 6000);
}

TEST(MetricsDeathTest, OneNameCanNotMeanTwoThings) {
  MetricRegistry registry;
  registry.AddGauge("a", "A.");
  EXPECT_DEATH(registry.AddGauge("a", "A."), "is there");
  EXPECT_DEATH(registry.AddGauge("a", "B.", {{"x", "1"}}), "two things");
  EXPECT_DEATH(registry.AddCounter("a_total_", "A."), "a_total_");
  EXPECT_DEATH(registry.AddGauge("a b", "A."), "a b");
}

}  // namespace
}  // namespace causeway
