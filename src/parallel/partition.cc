#include "parallel/partition.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace causeway {
namespace {

using Plan = std::vector<std::vector<Slice>>;

// Extends with fewer tokens stay whole on one rank in a balanced partition: cutting them would make
// matrix products of a few rows.
constexpr int64_t kWholeBelow = 64;
// No piece of a longer one is shorter than this: a cut so close to an end moves to the end, or a
// rounding error would leave one token alone, which pays for all its earlier keys.
constexpr int64_t kLeastPiece = 8;

// Sum of p + 1 over positions p in [begin, end).
// In double: costs are estimates, and the sums are large.
double TriangleSum(int64_t begin, int64_t end) {
  if (end <= begin) return 0.0;
  return (static_cast<double>(begin) + 1.0 + static_cast<double>(end)) *
         static_cast<double>(end - begin) / 2.0;
}

void Append(std::vector<Slice>& slices, Slice slice) {
  // A slice that continues the last one is merged into it: fewer, longer products.
  if (slice.begin == slice.end) return;
  if (!slices.empty() && slices.back().extend == slice.extend && slices.back().end == slice.begin) {
    slices.back().end = slice.end;
  } else {
    slices.push_back(slice);
  }
}

Plan Contiguous(int cp, const std::vector<ExtendRange>& batch) {
  Plan plan(static_cast<size_t>(cp));
  int64_t total = 0;
  for (const ExtendRange& e : batch) total += e.end - e.begin;
  int64_t first = 0;  // flat index of the extend's first token
  for (size_t i = 0; i < batch.size(); ++i) {
    const int64_t length = batch[i].end - batch[i].begin;
    // Both ends are computed alike on neighbouring ranks, so that nothing is lost between them.
    for (int rank = 0; rank < cp; ++rank) {
      const int64_t from = std::max(total * rank / cp, first);
      const int64_t to = std::min(total * (rank + 1) / cp, first + length);
      if (from >= to) continue;
      Append(plan[static_cast<size_t>(rank)],
             {static_cast<int32_t>(i), batch[i].begin + from - first, batch[i].begin + to - first});
    }
    first += length;
  }
  return plan;
}

Plan Zigzag(int cp, const std::vector<ExtendRange>& batch) {
  Plan plan(static_cast<size_t>(cp));
  for (size_t i = 0; i < batch.size(); ++i) {
    const int64_t length = batch[i].end - batch[i].begin;
    for (int run = 0; run < 2 * cp; ++run) {
      // Run i and its mirror image: a rank gets one cheap and one dear piece of each extend.
      const int rank = run < cp ? run : 2 * cp - 1 - run;
      Append(plan[static_cast<size_t>(rank)],
             {static_cast<int32_t>(i), batch[i].begin + length * run / (2 * cp),
              batch[i].begin + length * (run + 1) / (2 * cp)});
    }
  }
  return plan;
}

// The level L with sum over ranks of max(0, L - load) = amount.
double WaterLevel(std::vector<double> loads, double amount) {
  std::sort(loads.begin(), loads.end());
  double below = 0.0;
  for (size_t i = 0; i < loads.size(); ++i) {
    below += loads[i];
    const double level = (amount + below) / static_cast<double>(i + 1);
    if (i + 1 == loads.size() || level <= loads[i + 1]) return level;
  }
  return amount;
}

// The smallest end in [begin, limit] such that the slice [begin, end) costs at least `wanted`.
int64_t CutAt(const TokenCost& cost, int64_t begin, int64_t limit, double wanted) {
  int64_t low = begin;
  int64_t high = limit;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (cost.OfSlice(begin, middle) >= wanted) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// Cuts the extends `split`, end to end, for ranks that are to have `room` each; the last one takes
// what is left. Returns what it has above its room (or all ranks have below theirs, negative).
double FillRanks(const TokenCost& cost, const std::vector<ExtendRange>& batch,
                 const std::vector<size_t>& split, const std::vector<double>& room, Plan& plan) {
  // Sums over the ranks up to this one: what one rank gets too much or too little, the next evens
  // out.
  size_t rank = 0;
  double wanted = room[0];
  double given = 0.0;
  for (size_t i : split) {
    const int64_t last = batch[i].end;
    // Each turn gives one rank its next piece of this extend.
    for (int64_t at = batch[i].begin; at < last;) {
      int64_t end = last;
      if (rank + 1 < room.size()) {
        end = CutAt(cost, at, last, std::max(0.0, wanted - given));
        // A piece that is too short goes to the next rank, and a rest that is too short stays with
        // this one.
        if (end - at < kLeastPiece) {
          end = at;
        } else if (last - end < kLeastPiece) {
          end = last;
        }
      }
      Append(plan[rank], {static_cast<int32_t>(i), at, end});
      given += cost.OfSlice(at, end);
      if (end < last) wanted += room[++rank];
      at = end;
    }
  }
  return given - std::accumulate(room.begin(), room.end(), 0.0);
}

Plan Balanced(int cp, const TokenCost& cost, const std::vector<ExtendRange>& batch) {
  const auto ranks = static_cast<size_t>(cp);
  std::vector<size_t> whole;
  std::vector<size_t> split;
  std::vector<double> costs;
  for (size_t i = 0; i < batch.size(); ++i) {
    costs.push_back(cost.OfSlice(batch[i].begin, batch[i].end));
    (batch[i].end - batch[i].begin < kWholeBelow ? whole : split).push_back(i);
  }
  // Short extends, the longest first, each to the rank with the least so far.
  std::stable_sort(whole.begin(), whole.end(),
                   [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  std::vector<double> loads(ranks, 0.0);
  std::vector<std::vector<Slice>> plan(ranks);
  for (size_t i : whole) {
    const auto rank =
        static_cast<size_t>(std::min_element(loads.begin(), loads.end()) - loads.begin());
    loads[rank] += costs[i];
    Append(plan[rank], {static_cast<int32_t>(i), batch[i].begin, batch[i].end});
  }
  // Long ones, end to end, fill the ranks in order up to one level.
  double left = 0.0;
  for (size_t i : split) left += costs[i];
  double level = WaterLevel(loads, left);
  const auto fill = [&](double to, Plan& slices) {
    std::vector<double> room;
    for (double load : loads) room.push_back(std::max(0.0, to - load));
    return FillRanks(cost, batch, split, room, slices);
  };
  if (cost.again > 0.0 && ranks > 1) {
    // Cuts add to the cost: the least level at which all fits, to a part in a million.
    double low = level;
    double high = level;
    for (size_t i : split) high += cost.again * static_cast<double>(batch[i].end);
    while (high - low > 1e-6 * high) {
      const double middle = low + (high - low) / 2;
      Plan tried(ranks);
      (fill(middle, tried) > 0.0 ? low : high) = middle;
    }
    if (Plan tried(ranks); fill(low, tried) > 0.0) level = high;
  }
  fill(level, plan);
  // Ranks were given short extends first: callers want slices in the order of the batch.
  for (auto& slices : plan) {
    std::sort(slices.begin(), slices.end(), [](const Slice& a, const Slice& b) {
      return a.extend != b.extend ? a.extend < b.extend : a.begin < b.begin;
    });
  }
  return plan;
}

}  // namespace

double TokenCost::Of(int64_t begin, int64_t end) const {
  if (end <= begin) return 0.0;
  double total = linear * static_cast<double>(end - begin);
  // Positions up to dense_end rise in cost with their keys; those behind cost the same each.
  const int64_t rising = dense_end < 0 ? end : std::clamp(dense_end, begin, end);
  total += dense * TriangleSum(begin, rising) + flat * static_cast<double>(end - rising);
  return total + index * TriangleSum(std::clamp(index_from, begin, end), end);
}

double TokenCost::OfSlice(int64_t begin, int64_t end) const {
  // Only a slice that begins where attention is dense computes earlier keys again.
  const bool again_from_0 = begin < end && (dense_end < 0 || begin < dense_end);
  return Of(begin, end) + (again_from_0 ? again * static_cast<double>(begin) : 0.0);
}

std::vector<std::vector<Slice>> Partition(PartitionKind kind, int cp, const TokenCost& cost,
                                          const std::vector<ExtendRange>& batch) {
  CHECK(cp >= 1, cp);
  for (const ExtendRange& e : batch) CHECK(0 <= e.begin && e.begin <= e.end, e.begin, " ", e.end);
  switch (kind) {
    case PartitionKind::kContiguous:
      return Contiguous(cp, batch);
    case PartitionKind::kZigzag:
      return Zigzag(cp, batch);
    case PartitionKind::kBalanced:
      return Balanced(cp, cost, batch);
  }
  CHECK(false, "unknown partition");
}

}  // namespace causeway
