// index_scores and top_k: pages, head counts, ties, signs of zero and infinities.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/op_cases.h"

namespace causeway {
namespace {

// m queries of `heads` heads against the keys of pages [page_begin, page_end).
struct ScoreCase {
  DType type;
  int64_t m;
  int64_t heads;
  int64_t dim;
  int64_t page_begin = 0;
  int64_t page_end = 2;
  int64_t gap = 0;
  Spread spread = Spread::kUniform;
};

// The weight's 64 rows as a page of index keys: values as unsigned, then the scales.
GuardedBytes Int8Page(const Weight& weight) {
  const int64_t values = kPage * weight.k();
  GuardedBytes page(values + kPage * 4);
  for (int64_t i = 0; i < values; ++i) {
    const auto value = static_cast<const uint8_t*>(weight.packed())[i];
    static_cast<uint8_t*>(page.data())[i] = value ^ 0x80;
  }
  std::memcpy(static_cast<char*>(page.data()) + values, weight.scale(), kPage * 4);
  return page;
}

OpResult Run(const ScoreCase& c, const OpTable& table, uint64_t seed, void* scratch) {
  RandomValues random(seed);
  const int64_t row = c.heads * c.dim;
  const GuardedBytes q = RandomArray(c.type, Span(c.m, row, row + c.gap), random, c.spread);
  const GuardedBytes weight = RandomArray(DType::kF32, Span(c.m, c.heads, c.heads + c.gap), random);
  if (c.m > 0) static_cast<float*>(weight.data())[0] = -0.0f;
  std::vector<GuardedBytes> memory;
  const GuardedArray<const void*> pages(c.page_end);
  for (const void*& page : pages) {
    const Weight weight = RandomWeight(c.type, kPage, c.dim, 1, random, c.spread);
    memory.push_back(c.type == DType::kI8 ? Int8Page(weight) : PackedCopy(weight));
    page = memory.back().data();
  }
  const int64_t columns = (c.page_end - c.page_begin) * kPage;
  const OutputMatrix scores(DType::kF32, c.m, columns, columns + c.gap);
  table.index_scores({.type = c.type,
                      .q = q.data(),
                      .q_stride = row + c.gap,
                      .weight = static_cast<const float*>(weight.data()),
                      .weight_stride = c.heads + c.gap,
                      .m = c.m,
                      .heads = c.heads,
                      .dim = c.dim,
                      .key_pages = pages.data(),
                      .page_begin = c.page_begin,
                      .page_end = c.page_end,
                      .scores = scores.as<float>(),
                      .scores_stride = columns + c.gap,
                      .scratch = scratch});
  OpResult result;
  std::vector<int64_t> rows;
  // The gap behind each row of scores must stay as it was.
  for (int64_t i = 0; i < c.m; ++i) rows.push_back(i);
  scores.Collect(rows, 0, columns, &result);
  return result;
}

void Add(const ScoreCase& c, std::vector<OpCase>* cases) {
  OpCase out;
  out.op = "index_scores";
  out.name = Text("index_scores ", NameOf(c.type), " m=", c.m, " heads=", c.heads, " dim=", c.dim,
                  " pages=[", c.page_begin, ",", c.page_end, ") gap=", c.gap,
                  c.spread == Spread::kTiny ? " tiny" : "");
  out.work = c.m * c.heads * c.dim * (c.page_end - c.page_begin) * kPage;
  out.fused = true;
  // Dot products as in gemm (int8: exact, at most 127^2 a value and keys' scales below 2^-6), then
  // a sum over heads.
  const double largest = c.type == DType::kI8 ? 252.0 : 1.0;
  out.tolerance.absolute = c.spread == Spread::kTiny
                               ? 0x1p-115
                               : largest * 0x1p-23 * static_cast<double>(c.dim + 4) *
                                     std::sqrt(static_cast<double>(c.heads));
  out.run = [c](const OpTable& table, uint64_t seed, void* scratch) {
    return Run(c, table, seed, scratch);
  };
  cases->push_back(std::move(out));
}

void AddScores(std::vector<OpCase>* cases) {
  for (const DType type : {DType::kF32, DType::kBf16, DType::kI8}) {
    // One group of values of a key, and as many as an odd number of groups.
    const int64_t group = type == DType::kI8 ? 4 : 2;
    for (const int64_t m : {0, 1, 2, 3, 17, 65}) {
      Add({.type = type, .m = m, .heads = 4, .dim = 32}, cases);
      Add({.type = type, .m = m, .heads = 3, .dim = 16, .gap = 5}, cases);
    }
    for (const int64_t heads : {1, 2, 5, 16, 63, 64, 65, 128}) {
      Add({.type = type, .m = 5, .heads = heads, .dim = 8}, cases);
    }
    for (const int64_t dim : {group, 3 * group, int64_t{64}, int64_t{128}}) {
      Add({.type = type, .m = 3, .heads = 6, .dim = dim}, cases);
    }
    Add({.type = type, .m = 4, .heads = 64, .dim = 128, .page_end = 3}, cases);
    Add({.type = type, .m = 6, .heads = 4, .dim = 16, .page_begin = 2, .page_end = 2}, cases);
    Add({.type = type, .m = 6, .heads = 4, .dim = 16, .page_begin = 1, .page_end = 4, .gap = 1},
        cases);
    // More heads than scratch holds copies of for eight queries.
    Add({.type = type, .m = 3, .heads = 1030, .dim = 512, .page_end = 1}, cases);
    if (type == DType::kI8) continue;
    Add({.type = type, .m = 6, .heads = 4, .dim = 16, .spread = Spread::kTiny}, cases);
  }
  Add({.type = DType::kF32, .m = 3, .heads = 3, .dim = 7}, cases);
}

// --- top_k ---------------------------------------------------------------------------------------

enum class Scores {
  kRandom,
  kEqual,
  kFewValues,   // ties in plenty
  kZeros,       // of both signs
  kInfinities,  // and -infinity, -0, the largest floats
  kAscending,
  kDescending,
  kNeighbours,  // floats that differ in their last bits only
  kTinyValues,  // denormals count as zero
  kSomeNan,     // below everything
};

const char* NameOf(Scores scores) {
  constexpr const char* kNames[] = {"random",    "equal",      "few_values", "zeros", "infinities",
                                    "ascending", "descending", "neighbours", "tiny",  "some_nan"};
  return kNames[static_cast<int>(scores)];
}

float ScoreOf(Scores scores, int64_t i, RandomValues& random) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kExtremes[] = {kInfinity, -kInfinity, 0.0f,   -0.0f,
                                 3e38f,     -3e38f,     1e-38f, -1e-38f};
  switch (scores) {
    case Scores::kRandom:
      return random.Uniform();
    case Scores::kEqual:
      return -1.5f;
    case Scores::kFewValues:
      return static_cast<float>(random.Below(5)) - 2.0f;
    case Scores::kZeros:
      return random.Below(2) == 0 ? 0.0f : -0.0f;
    case Scores::kInfinities:
      return kExtremes[random.Below(8)];
    case Scores::kAscending:
      return static_cast<float>(i);
    case Scores::kDescending:
      return -static_cast<float>(i);
    case Scores::kNeighbours:
      return std::bit_cast<float>(0x40490000u + static_cast<uint32_t>(random.Below(40)));
    case Scores::kTinyValues:
      return random.Tiny();
    case Scores::kSomeNan:
      return random.Below(2) == 0 ? std::numeric_limits<float>::quiet_NaN() : random.Uniform();
  }
  return 0.0f;
}

// The scores come in blocks of at most `block`; `spare` candidates beyond those that must fit.
struct TopKCase {
  Scores scores;
  int64_t n;
  int64_t k;
  int64_t block;
  int64_t spare;
};

OpResult RunTopK(const TopKCase& c, const OpTable& table, uint64_t seed) {
  RandomValues random(seed);
  const GuardedArray<float> values(c.n);
  for (int64_t i = 0; i < c.n; ++i) values[i] = ScoreOf(c.scores, i, random);
  // As little room as TopKArgs allows, plus `spare`.
  const int64_t capacity = c.k + kTopKSlack + c.spare;
  const GuardedArray<uint32_t> keys(capacity);
  const GuardedArray<int32_t> positions(capacity);
  const GuardedArray<uint32_t> list(capacity);
  TopKCandidates candidates = {
      .keys = keys.data(), .positions = positions.data(), .capacity = capacity};
  int64_t count = 0;
  // Also once for no scores at all.
  for (int64_t begin = 0; begin == 0 || begin < c.n; begin += c.block) {
    const int64_t end = std::min(c.n, begin + c.block);
    count = table.top_k({.scores = values.data() + begin,
                         .n = end - begin,
                         .k = c.k,
                         .last = end == c.n,
                         .candidates = &candidates,
                         .list = list.data()});
  }
  OpResult result;
  if (count != std::min(c.n, c.k)) result.fault = Text("returned ", count);
  // The positions are the result; how candidates are kept is each kernel's own business.
  result.Append(positions.data(), std::min(c.n, c.k));
  if (!positions.intact()) result.fault = "wrote before the positions";
  if (!keys.intact()) result.fault = "wrote before the keys";
  if (!list.intact()) result.fault = "wrote before the list";
  return result;
}

void AddTopK(std::vector<OpCase>* cases) {
  struct Shape {
    int64_t n, k;
  };
  std::vector<Shape> shapes = {{0, 1},       {1, 1},      {2, 1},   {3, 2},       {5, 5},
                               {4, 5},       {64, 63},    {65, 64}, {255, 16},    {256, 255},
                               {257, 100},   {258, 1},    {100, 0}, {2048, 2048}, {2049, 2048},
                               {5000, 2048}, {5000, 4999}};
  const auto add = [&](const TopKCase& c) {
    OpCase out;
    out.op = "top_k";
    out.name = Text("top_k n=", c.n, " k=", c.k, " ", NameOf(c.scores), " block=", c.block,
                    " spare=", c.spare);
    out.work = c.n;
    out.run = [=](const OpTable& table, uint64_t seed, void* /*scratch*/) {
      return RunTopK(c, table, seed);
    };
    cases->push_back(std::move(out));
  };
  for (int kind = 0; kind <= static_cast<int>(Scores::kSomeNan); ++kind) {
    for (const Shape& s : shapes) {
      add({static_cast<Scores>(kind), s.n, s.k, /*block=*/1024, /*spare=*/s.k});
    }
    // Many compactions, whatever the order; blocks that are no multiple of anything.
    add({static_cast<Scores>(kind), 5000, 100, /*block=*/333, /*spare=*/0});
    add({static_cast<Scores>(kind), 3000, 1, /*block=*/1, /*spare=*/0});
    add({static_cast<Scores>(kind), 20000, 2048, /*block=*/1024, /*spare=*/100});
  }
  add({Scores::kRandom, 160000, 2048, /*block=*/4096, /*spare=*/2048});
  add({Scores::kFewValues, 160000, 2048, /*block=*/160000, /*spare=*/2048});
  add({Scores::kFewValues, 300000, 290000, /*block=*/300000, /*spare=*/0});
}

}  // namespace

void AddIndexerCases(std::vector<OpCase>* cases) {
  AddScores(cases);
  AddTopK(cases);
}

}  // namespace causeway
