// Operations on rows: norms, rotation, activation, quantisation and rounding.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/bf16.h"
#include "kernels/op_cases.h"

namespace causeway {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

const float* Floats(const GuardedBytes& array) { return static_cast<const float*>(array.data()); }

// --- norms ---------------------------------------------------------------------------------------

// `gap`: elements behind each row, different ones for input and outputs, so that a stride taken for
// another shows.
struct NormCase {
  bool layer;  // LayerNorm
  int64_t m;
  int64_t n;
  bool f32 = true;  // which outputs
  bool bf16 = false;
  float scale = 1.0f;  // of the inputs; 0: all zero
  int64_t gap = 0;
};

OpResult Run(const NormCase& c, const OpTable& table, uint64_t seed) {
  RandomValues random(seed);
  const GuardedBytes x = RandomArray(DType::kF32, Span(c.m, c.n, c.n + c.gap), random);
  for (int64_t i = 0; i < Span(c.m, c.n, c.n + c.gap); ++i) {
    static_cast<float*>(x.data())[i] *= c.scale;
  }
  const GuardedBytes weight = RandomArray(DType::kF32, c.n, random);
  const GuardedBytes bias = RandomArray(DType::kF32, c.n, random);
  const OutputMatrix f32(DType::kF32, c.m, c.n, c.n + 2 * c.gap);
  const OutputMatrix bf16(DType::kBf16, c.m, c.n, c.n + 3 * c.gap);
  NormArgs args{};
  args.x = Floats(x);
  args.x_stride = c.n + c.gap;
  args.m = c.m;
  args.n = c.n;
  args.weight = Floats(weight);
  args.bias = c.layer ? Floats(bias) : nullptr;
  args.eps = 1e-6f;
  args.out_f32 = c.f32 ? f32.as<float>() : nullptr;
  args.out_f32_stride = c.n + 2 * c.gap;
  args.out_bf16 = c.bf16 ? bf16.as<uint16_t>() : nullptr;
  args.out_bf16_stride = c.n + 3 * c.gap;
  (c.layer ? table.layer_norm : table.rms_norm)(args);
  OpResult result;
  if (c.f32) f32.Collect(&result);
  if (c.bf16) bf16.Collect(&result);
  return result;
}

void Add(const NormCase& c, std::vector<OpCase>* cases) {
  OpCase out;
  out.op = c.layer ? "layer_norm" : "rms_norm";
  out.name = Text(out.op, " m=", c.m, " n=", c.n, " f32=", c.f32, " bf16=", c.bf16,
                  " scale=", c.scale, " gap=", c.gap);
  out.work = c.m * c.n;
  out.run = [c](const OpTable& table, uint64_t seed, void*) { return Run(c, table, seed); };
  cases->push_back(std::move(out));
}

void AddNorms(bool layer, std::vector<OpCase>* cases) {
  for (const int64_t n : {1, 2, 15, 16, 17, 31, 32, 100, 255, 256, 257, 512, 1000, 7168}) {
    Add({.layer = layer, .m = 3, .n = n}, cases);
    Add({.layer = layer, .m = 2, .n = n, .f32 = false, .bf16 = true, .gap = 3}, cases);
    Add({.layer = layer, .m = 1, .n = n, .bf16 = true, .scale = 1e6f, .gap = 1}, cases);
  }
  Add({.layer = layer, .m = 0, .n = 20}, cases);
  Add({.layer = layer, .m = 4, .n = 20, .scale = 0.0f}, cases);
  Add({.layer = layer, .m = 4, .n = 20, .scale = 1e-22f}, cases);  // squares underflow
  Add({.layer = layer, .m = 70, .n = 33, .gap = 7}, cases);
}

// --- rotate --------------------------------------------------------------------------------------

// `rope_begin` to `rope_begin + rope_dim` of each head turn, the rest is copied.
struct RotateCase {
  DType type;
  int64_t m;
  int64_t heads;
  int64_t head_dim;
  int64_t rope_begin;
  int64_t rope_dim;
  bool interleaved;
  int64_t gap = 0;
};

OpResult Run(const RotateCase& c, const OpTable& table, uint64_t seed) {
  constexpr int64_t kPositions = 200;
  constexpr int32_t kBorders[] = {0, 63, 64, 65, 127, 128, kPositions - 1};
  RandomValues random(seed);
  const int64_t cols = c.heads * c.head_dim;
  const GuardedBytes x = RandomArray(DType::kF32, Span(c.m, cols, cols + c.gap), random);
  const GuardedBytes cos = RandomArray(DType::kF32, kPositions * c.rope_dim / 2, random);
  const GuardedBytes sin = RandomArray(DType::kF32, kPositions * c.rope_dim / 2, random);
  const GuardedArray<int32_t> positions(c.m);
  for (int64_t i = 0; i < c.m; ++i) {
    positions[i] = i < 7 ? kBorders[i] : static_cast<int32_t>(random.Below(kPositions));
  }
  const OutputMatrix out(c.type, c.m, cols, cols + 2 * c.gap);
  table.rotate({.x = Floats(x),
                .x_stride = cols + c.gap,
                .m = c.m,
                .heads = c.heads,
                .head_dim = c.head_dim,
                .rope_begin = c.rope_begin,
                .rope_dim = c.rope_dim,
                .interleaved = c.interleaved,
                .cos = Floats(cos),
                .sin = Floats(sin),
                .positions = positions.data(),
                .type = c.type,
                .out = out.data(),
                .out_stride = cols + 2 * c.gap});
  OpResult result;
  out.Collect(&result);
  return result;
}

void AddRotations(std::vector<OpCase>* cases) {
  // From a single pair to the model's own shapes, and odd ones.
  struct Shape {
    int64_t m, heads, head_dim, begin, rope;
  };
  constexpr Shape kShapes[] = {
      {1, 1, 2, 0, 2},       {0, 3, 8, 2, 4},    {9, 1, 64, 0, 64},
      {9, 3, 192, 128, 64},  {8, 2, 128, 0, 64}, {3, 128, 48, 32, 16},
      {70, 1, 576, 512, 64}, {5, 5, 11, 3, 6},   {2, 2, 40, 1, 34},
  };
  for (const Shape& s : kShapes) {
    for (const DType type : {DType::kF32, DType::kBf16}) {
      for (const bool interleaved : {false, true}) {
        for (const int64_t gap : {0, 5}) {
          const RotateCase c = {type, s.m, s.heads, s.head_dim, s.begin, s.rope, interleaved, gap};
          OpCase out;
          out.op = "rotate";
          out.name = Text("rotate ", NameOf(type), " m=", c.m, " heads=", c.heads,
                          " head_dim=", c.head_dim, " rope=[", c.rope_begin, ",",
                          c.rope_begin + c.rope_dim, ") interleaved=", interleaved, " gap=", gap);
          out.work = c.m * c.heads * c.head_dim;
          out.run = [c](const OpTable& table, uint64_t seed, void*) { return Run(c, table, seed); };
          cases->push_back(std::move(out));
        }
      }
    }
  }
}

// --- silu_mul, quantize, convert: element by element
// ------------------------------------------------

struct ElementCase {
  DType type;
  int64_t m;
  int64_t n;
  int64_t gap = 0;
  bool special = false;  // rows start with values at which rounding or exp turn
};

// Puts `special` at the start of each row of x [m, n].
void PutSpecial(const std::vector<float>& special, const ElementCase& c, int64_t stride,
                const GuardedBytes& x) {
  for (int64_t row = 0; row < c.m && c.special; ++row) {
    for (int64_t i = 0; i < std::min(c.n, static_cast<int64_t>(special.size())); ++i) {
      static_cast<float*>(x.data())[row * stride + i] = special[static_cast<size_t>(i)];
    }
  }
}

OpResult RunSiluMul(const ElementCase& c, const OpTable& table, uint64_t seed) {
  RandomValues random(seed);
  const int64_t stride = c.n + c.gap;
  const GuardedBytes gate = RandomArray(DType::kF32, Span(c.m, c.n, stride), random);
  // Up to 12 in magnitude: from the bend of the sigmoid to its flat ends.
  for (int64_t i = 0; i < Span(c.m, c.n, stride); ++i) static_cast<float*>(gate.data())[i] *= 12;
  PutSpecial({0.0f, -0.0f, 1e-30f, -1e-30f, 30.0f, -30.0f, 87.0f, -87.0f, 88.5f, -88.5f, 1000.0f,
              -1000.0f, 1e30f, 0.6931472f, -0.6931472f, 0.3465736f, 17.3286f},
             c, stride, gate);
  const GuardedBytes up = RandomArray(DType::kF32, Span(c.m, c.n, stride), random);
  const OutputMatrix out(c.type, c.m, c.n, c.n + 2 * c.gap);
  table.silu_mul({.gate = Floats(gate),
                  .up = Floats(up),
                  .in_stride = stride,
                  .m = c.m,
                  .n = c.n,
                  .type = c.type,
                  .out = out.data(),
                  .out_stride = c.n + 2 * c.gap});
  OpResult result;
  out.Collect(&result);
  return result;
}

OpResult RunQuantize(const ElementCase& c, const OpTable& table, uint64_t seed) {
  RandomValues random(seed);
  const int64_t stride = c.n + c.gap;
  GuardedBytes x = RandomArray(c.type, Span(c.m, c.n, stride), random);
  if (c.special) {
    // With 127 as the largest magnitude, halves and their neighbours keep their values. The last
    // row is zero.
    GuardedBytes wide = RandomArray(DType::kF32, Span(c.m, c.n, stride), random);
    PutSpecial({-127.0f, 0.5f, -0.5f, 1.5f, -1.5f, 2.5f, 126.5f, -126.5f, 0.49999997f, -0.49999997f,
                0.50000006f, -0.0f, 1e-30f, 127.0f, 63.5f, 64.5f},
               c, stride, wide);
    for (int64_t i = (c.m - 1) * stride; i < Span(c.m, c.n, stride); ++i) {
      static_cast<float*>(wide.data())[i] = 0.0f;
    }
    for (int64_t i = 0; i < Span(c.m, c.n, stride); ++i) {
      if (c.type == DType::kF32) {
        static_cast<float*>(x.data())[i] = Floats(wide)[i];
      } else {
        static_cast<Bf16*>(x.data())[i] = ToBf16(Floats(wide)[i]);
      }
    }
  }
  const int64_t padded = (c.n + 3) / 4 * 4;
  const OutputMatrix out(DType::kI8, c.m, padded, padded);
  const OutputMatrix scale(DType::kF32, 1, c.m, c.m);
  // Odd widths: the row is a part of a longer one, whose largest magnitude is given.
  GuardedArray<float> row_amax(c.m);
  for (int64_t row = 0; row < c.m; ++row) row_amax[row] = 200.0f + 3.0f * static_cast<float>(row);
  table.quantize({.type = c.type,
                  .x = x.data(),
                  .x_stride = stride,
                  .m = c.m,
                  .k = c.n,
                  .out = out.as<int8_t>(),
                  .out_stride = padded,
                  .scale = scale.as<float>(),
                  .row_amax = c.n % 2 == 1 && !c.special ? row_amax.data() : nullptr});
  OpResult result;
  out.Collect(&result);
  scale.Collect(&result);
  return result;
}

OpResult RunConvert(const ElementCase& c, const OpTable& table, uint64_t seed) {
  RandomValues random(seed);
  const int64_t stride = c.n + c.gap;
  const GuardedBytes x = RandomArray(DType::kF32, Span(c.m, c.n, stride), random);
  const auto bits = [](uint32_t b) { return std::bit_cast<float>(b); };
  PutSpecial(
      // Zeros, infinities, NaNs with payloads, ties and their neighbours, the largest float,
      // denormals.
      {0.0f, -0.0f, kInfinity, -kInfinity, bits(0x7fc00001), bits(0xff800001), bits(0x7fffffff),
       bits(0x3f808000), bits(0x3f818000), bits(0x3f807fff), bits(0x3f808001), bits(0x7f7fffff),
       bits(0x00000001), bits(0x807fffff), bits(0x00008000), bits(0x00800000)},
      c, stride, x);
  const OutputMatrix out(DType::kBf16, c.m, c.n, c.n + 2 * c.gap);
  table.convert({.x = Floats(x),
                 .x_stride = stride,
                 .m = c.m,
                 .n = c.n,
                 .out = out.as<uint16_t>(),
                 .out_stride = c.n + 2 * c.gap});
  OpResult result;
  out.Collect(&result);
  return result;
}

using ElementRun = OpResult (*)(const ElementCase&, const OpTable&, uint64_t);

// All elementwise ops over the same sizes: around a vector's width, and rows of several vectors.
void AddElements(const std::string& op, ElementRun run, bool exact, std::vector<OpCase>* cases) {
  for (const DType type : {DType::kF32, DType::kBf16}) {
    if (op == "convert" && type == DType::kBf16) continue;  // its output is bf16 always
    for (const int64_t m : {0, 1, 3, 65}) {
      for (const int64_t n : {1, 3, 4, 15, 16, 17, 18, 31, 100, 255, 256, 257, 1000}) {
        for (const bool special : {false, true}) {
          if (m == 0 && special) continue;
          const ElementCase c = {type, m, n, m == 1 ? 0 : 5, special};
          OpCase out;
          out.op = op;
          out.name = Text(op, " ", NameOf(type), " m=", m, " n=", n, " gap=", c.gap,
                          special ? " special" : "");
          out.work = m * n;
          out.exact = exact;
          out.tolerance = {.absolute = 1e-30, .relative = type == DType::kBf16 ? 0x1p-7 : 5e-7};
          out.run = [c, run](const OpTable& table, uint64_t seed, void*) {
            return run(c, table, seed);
          };
          cases->push_back(std::move(out));
        }
      }
    }
  }
}

}  // namespace

void AddRowCases(std::vector<OpCase>* cases) {
  AddNorms(false, cases);
  AddNorms(true, cases);
  AddRotations(cases);
  AddElements("silu_mul", RunSiluMul, false, cases);
  AddElements("quantize", RunQuantize, true, cases);
  AddElements("convert", RunConvert, true, cases);
}

}  // namespace causeway
