#include "parallel/tensor_group.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "parallel/simulated_hosts.h"

namespace causeway {
namespace {

constexpr uint32_t kSeed = 20261125;

// One TP group of `ranks` ranks on `hosts` hosts.
struct World {
  int ranks;
  int hosts;
};

std::ostream& operator<<(std::ostream& out, const World& w) {
  return out << w.ranks << " ranks on " << w.hosts << " hosts";
}

Layout LayoutOf(const World& w) {
  Layout layout;
  layout.tp = w.ranks;
  layout.hosts = w.hosts;
  return layout;
}

class TensorGroupTest : public testing::TestWithParam<World> {
 protected:
  TensorGroupTest() : world_(LayoutOf(GetParam())) {}

  int ranks() const { return GetParam().ranks; }
  // Runs body(index, group) on every rank and expects that all end well.
  void Run(const std::function<void(int, TensorGroup&)>& body) {
    const Layout layout = LayoutOf(GetParam());
    const auto errors = world_.Run([&](int rank, RankLink& link) {
      ReadCounts reads;
      TensorGroup group(link, layout, rank, reads);
      body(rank, group);
      link.Barrier({"end"});  // the parts of a rank live in its group
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }

  // What a rank passed to a collective may go after the next one.
  void Settle(int rank) { world_.link(rank).Barrier({"settle"}); }

  SimulatedHosts world_;
};

// Values whose sums round: magnitudes from 1e-3 to 1e3.
std::vector<float> RandomFloats(int64_t count, uint32_t salt) {
  std::mt19937 random(kSeed + salt);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) {
    const float exponent = static_cast<float>(random() % 7) - 3.0f;
    value = normal(random) * std::pow(10.0f, exponent);
  }
  return out;
}

std::vector<int32_t> RandomInts(int64_t count, uint32_t salt) {
  std::mt19937 random(kSeed + salt);
  std::vector<int32_t> out(static_cast<size_t>(count));
  for (int32_t& value : out) value = static_cast<int32_t>(random() % 2'000'001) - 1'000'000;
  return out;
}

// parts[begin, end)[i] added as a binary tree: the left half plus the right half.
float TreeOf(const std::vector<std::vector<float>>& parts, size_t begin, size_t end, size_t i) {
  if (end - begin == 1) return parts[begin][i];
  const size_t middle = (begin + end) / 2;
  return TreeOf(parts, begin, middle, i) + TreeOf(parts, middle, end, i);
}

struct Shape {
  int64_t rows;
  int64_t cols;
};
const Shape kShapes[] = {{0, 5}, {1, 1}, {3, 7}, {8, 16}, {13, 33}, {64, 24}};

TEST_P(TensorGroupTest, FloatPartsAreAddedInATreeOverTheRanks) {
  Run([&](int rank, TensorGroup& group) {
    uint32_t salt = 0;
    // No barrier between sums: the next part is made while others still read the last sum.
    for (const Shape& shape : kShapes) {
      const int64_t count = shape.rows * shape.cols;
      std::vector<std::vector<float>> parts;
      for (int i = 0; i < ranks(); ++i) {
        parts.push_back(RandomFloats(count, salt + static_cast<uint32_t>(i)));
      }
      const int64_t stride = shape.cols + 3;  // out need not be dense
      std::vector<float> memory = RandomFloats(shape.rows * stride, salt + 100);
      std::vector<float> expected = memory;
      for (int64_t row = 0; row < shape.rows; ++row) {
        for (int64_t c = 0; c < shape.cols; ++c) {
          float& to = expected[static_cast<size_t>(row * stride + c)];
          to = to + TreeOf(parts, 0, parts.size(), static_cast<size_t>(row * shape.cols + c));
        }
      }
      void* mine = group.Partial(shape.rows, shape.cols);
      if (count > 0) {
        std::memcpy(mine, parts[static_cast<size_t>(rank)].data(), static_cast<size_t>(count) * 4);
      }
      group.AddTreeSum({"sum"}, shape.rows, shape.cols,
                       View<float, 2>(memory.data(), {shape.rows, shape.cols}, {stride, 1}));
      EXPECT_EQ(memory, expected) << "rank " << rank << ", " << shape.rows << " x " << shape.cols;
      salt += 1000;
    }
  });
}

TEST_P(TensorGroupTest, IntegerPartsAreAddedExactlyAndScaledAfterwards) {
  Run([&](int rank, TensorGroup& group) {
    uint32_t salt = 0;
    for (const Shape& shape : kShapes) {
      const int64_t count = shape.rows * shape.cols;
      std::vector<int32_t> sum(static_cast<size_t>(count), 0);
      for (int i = 0; i < ranks(); ++i) {
        const auto part = RandomInts(count, salt + static_cast<uint32_t>(i));
        for (size_t at = 0; at < part.size(); ++at) sum[at] += part[at];
      }
      const auto row_scale = RandomFloats(shape.rows, salt + 100);
      const auto column_scale = RandomFloats(shape.cols, salt + 101);
      std::vector<float> memory = RandomFloats(count, salt + 102);
      std::vector<float> expected = memory;
      for (int64_t at = 0; at < count; ++at) {
        const float value = static_cast<float>(sum[static_cast<size_t>(at)]);
        expected[static_cast<size_t>(at)] += value *
                                             row_scale[static_cast<size_t>(at / shape.cols)] *
                                             column_scale[static_cast<size_t>(at % shape.cols)];
      }
      void* mine = group.Partial(shape.rows, shape.cols);
      const auto part = RandomInts(count, salt + static_cast<uint32_t>(rank));
      if (count > 0) std::memcpy(mine, part.data(), static_cast<size_t>(count) * 4);
      group.AddScaledSum({"sum"}, shape.rows, shape.cols, row_scale.data(), column_scale.data(),
                         View<float, 2>(memory.data(), {shape.rows, shape.cols}));
      EXPECT_EQ(memory, expected) << "rank " << rank << ", " << shape.rows << " x " << shape.cols;
      salt += 1000;
    }
  });
}

TEST_P(TensorGroupTest, TheLargestValueIsThatOfAllRanks) {
  Run([&](int rank, TensorGroup& group) {
    uint32_t salt = 0;
    for (int64_t count : {0, 1, 17, 500}) {
      std::vector<float> expected = RandomFloats(count, salt);
      for (int i = 1; i < ranks(); ++i) {
        const auto other = RandomFloats(count, salt + static_cast<uint32_t>(i));
        for (size_t at = 0; at < other.size(); ++at) {
          expected[at] = std::max(expected[at], other[at]);
        }
      }
      const auto mine = RandomFloats(count, salt + static_cast<uint32_t>(rank));
      std::vector<float> most(static_cast<size_t>(count));
      group.MaxOf({"amax"}, mine.data(), count, most.data());
      Settle(rank);
      EXPECT_EQ(most, expected) << "rank " << rank << ", " << count << " values";
      salt += 1000;
    }
  });
}

// A byte that tells row and column.
char ByteAt(int64_t row, int64_t column) { return static_cast<char>(row * 31 + column * 7 + 1); }

TEST_P(TensorGroupTest, HomeRowsOfEachRankComeToAll) {
  Run([&](int rank, TensorGroup& group) {
    std::vector<std::vector<char>> kept;  // until the end: others read it
    for (int64_t rows : {0, 1, 2, 5, 16, 37}) {
      for (int64_t row_bytes : {1, 24}) {
        auto& data = kept.emplace_back(static_cast<size_t>(rows * row_bytes), char{0});
        const Range home = group.HomeRows(rows);
        for (int64_t at = home.begin * row_bytes; at < home.end * row_bytes; ++at) {
          data[static_cast<size_t>(at)] = ByteAt(at / row_bytes, at % row_bytes);
        }
        group.ShareHomeRows({"rows"}, data.data(), rows, row_bytes);
        for (int64_t at = 0; at < rows * row_bytes; ++at) {
          ASSERT_EQ(data[static_cast<size_t>(at)], ByteAt(at / row_bytes, at % row_bytes))
              << "rank " << rank << ", " << rows << " rows of " << row_bytes << ", byte " << at;
        }
      }
    }
    Settle(rank);
  });
}

TEST_P(TensorGroupTest, HostRowsOfEachRankComeToTheRanksOfItsHost) {
  Run([&](int rank, TensorGroup& group) {
    std::vector<std::vector<char>> kept;
    for (int64_t rows : {0, 1, 5, 16, 37}) {
      auto& data = kept.emplace_back(static_cast<size_t>(rows * 3), char{0});
      const Range host = group.HostRows(rows);
      for (int64_t at = host.begin * 3; at < host.end * 3; ++at) {
        data[static_cast<size_t>(at)] = ByteAt(at / 3, at % 3);
      }
      group.ShareHostRows({"rows"}, data.data(), rows, 3);
      for (int64_t at = 0; at < rows * 3; ++at) {
        ASSERT_EQ(data[static_cast<size_t>(at)], ByteAt(at / 3, at % 3))
            << "rank " << rank << ", " << rows << " rows, byte " << at;
      }
    }
    Settle(rank);
  });
}

TEST_P(TensorGroupTest, ColumnsOfEachRankComeToTheRanksOfOneHost) {
  Run([&](int rank, TensorGroup& group) {
    EXPECT_EQ(group.shares_memory(), ranks() > 1 && GetParam().hosts == 1);
    if (!group.shares_memory()) return;
    constexpr int64_t kGap = 3;
    for (const int64_t unit : {1, 4, 64}) {
      for (const int64_t bytes : {1, 63, 64, 65, 200, 777}) {
        for (const int64_t rows : {0, 1, 3}) {
          const int64_t stride = bytes + kGap;
          std::vector<char> expected(static_cast<size_t>(rows * stride), char{99});
          std::vector<char> data = expected;
          const Range own = group.HostRows((bytes + unit - 1) / unit);
          for (int64_t at = 0; at < rows * stride; ++at) {
            const int64_t column = at % stride;
            if (column >= bytes) continue;  // between rows nothing is written
            expected[static_cast<size_t>(at)] = ByteAt(at / stride, column);
            if (own.Contains(column / unit))
              data[static_cast<size_t>(at)] = ByteAt(at / stride, column);
          }
          group.ShareColumns({"columns"}, data.data(), rows, stride, bytes, unit);
          ASSERT_EQ(data, expected)
              << "rank " << rank << ", " << rows << " rows of " << bytes << " in units of " << unit;
          // What was shared may go at once: others read a copy.
          std::fill(data.begin(), data.end(), char{0});
        }
      }
    }
  });
}

TEST_P(TensorGroupTest, ColumnsAndRowsOfTheRanksCoverAllOnce) {
  for (int64_t total : {0, 1, 7, 16, 128}) {
    std::vector<Range> columns(static_cast<size_t>(ranks()));
    std::vector<Range> homes(columns.size());
    std::vector<Range> hosts(columns.size());
    Run([&](int rank, TensorGroup& group) {
      EXPECT_EQ(group.whole(), ranks() == 1);
      columns[static_cast<size_t>(rank)] = group.ShareOfColumns(total);
      homes[static_cast<size_t>(rank)] = group.HomeRows(total);
      hosts[static_cast<size_t>(rank)] = group.HostRows(total);
    });
    EXPECT_EQ(columns, homes);
    const auto expect_cover = [&](size_t first, size_t last, const std::vector<Range>& ranges) {
      int64_t next = 0;
      for (size_t i = first; i < last; ++i) {
        EXPECT_EQ(ranges[i].begin, next);
        next = ranges[i].end;
      }
      EXPECT_EQ(next, total);
    };
    expect_cover(0, columns.size(), columns);
    const auto per_host = static_cast<size_t>(ranks() / GetParam().hosts);
    for (size_t first = 0; first < hosts.size(); first += per_host) {
      expect_cover(first, first + per_host, hosts);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, TensorGroupTest,
                         testing::Values(World{1, 1}, World{2, 1}, World{4, 1}, World{8, 1},
                                         World{2, 2}, World{4, 2}, World{8, 2}, World{4, 4},
                                         World{8, 4}),
                         [](const testing::TestParamInfo<World>& info) {
                           return Text(info.param.ranks, "_ranks_", info.param.hosts, "_hosts");
                         });

}  // namespace
}  // namespace causeway
