// dequantize, pack_head and attention: page borders, ragged blocks, every panel width of heads and
// values.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/buffer.h"
#include "kernels/op_cases.h"

namespace causeway {
namespace {

const float* Floats(const GuardedBytes& array) { return static_cast<const float*>(array.data()); }

// --- dequantize ----------------------------------------------------------------------------------

// m rows; `gap` widens those of the output.
struct DequantizeCase {
  int64_t m;
  int64_t latent;
  int64_t rope;
  int64_t gap = 0;
};

OpResult Run(const DequantizeCase& c, const OpTable& table, uint64_t seed) {
  RandomValues random(seed);
  const int64_t dim = c.latent + c.rope;
  const GuardedBytes rows = RandomInt8Rows(c.m, c.latent, c.rope, random);
  const OutputMatrix out(DType::kBf16, c.m, dim, dim + c.gap);
  table.dequantize({.rows = rows.data(),
                    .m = c.m,
                    .latent = c.latent,
                    .rope = c.rope,
                    .out = out.as<uint16_t>(),
                    .out_stride = dim + c.gap});
  OpResult result;
  out.Collect(&result);
  return result;
}

void AddDequantize(std::vector<OpCase>* cases) {
  for (const auto& [latent, rope] :
       {std::pair{512, 64}, {32, 16}, {1, 0}, {2, 2}, {15, 3}, {17, 33}, {70, 6}, {100, 1}}) {
    for (const int64_t m : {1, 2, 64}) {
      const DequantizeCase c = {m, latent, rope, m % 3};
      OpCase out;
      out.op = "dequantize";
      out.name = Text("dequantize m=", m, " latent=", latent, " rope=", rope, " gap=", c.gap);
      out.work = m * (latent + rope);
      out.run = [c](const OpTable& table, uint64_t seed, void*) { return Run(c, table, seed); };
      cases->push_back(std::move(out));
    }
  }
}

// --- pack_head -----------------------------------------------------------------------------------

// [64 keys] of one head, of which `valid` are there; `gap` widens the rows of all inputs.
struct PackCase {
  DType type;
  int64_t nope;
  int64_t value;
  int64_t rope;
  int64_t valid;
  int64_t gap = 0;
};

OpResult Run(const PackCase& c, const OpTable& table, uint64_t seed) {
  RandomValues random(seed);
  const int64_t cols = c.nope + c.value;
  const GuardedBytes kv = RandomArray(DType::kF32, Span(kPage, cols, cols + c.gap), random);
  const GuardedBytes k_pe = RandomArray(c.type, Span(kPage, c.rope, c.rope + c.gap), random);
  // Keys that are not there yet may hold anything.
  for (int64_t i = c.valid * (cols + c.gap); i < Span(kPage, cols, cols + c.gap); ++i) {
    static_cast<float*>(kv.data())[i] = std::numeric_limits<float>::quiet_NaN();
  }
  const int64_t k_bytes = PackedBytes(c.type, kPage, c.nope + c.rope);
  const int64_t v_bytes = PackedBytes(c.type, c.value, kPage);
  // The panels are compared as bytes: packing moves values and must not change one.
  const OutputMatrix k_panel(DType::kI8, 1, k_bytes, k_bytes);
  const OutputMatrix v_panel(DType::kI8, 1, v_bytes, v_bytes);
  table.pack_head({.type = c.type,
                   .kv = Floats(kv),
                   .kv_stride = cols + c.gap,
                   .nope = c.nope,
                   .value = c.value,
                   .rope = c.rope,
                   .k_pe = k_pe.data(),
                   .k_pe_stride = c.rope + c.gap,
                   .valid = c.valid,
                   .k_panel = k_panel.data(),
                   .v_panel = v_panel.data()});
  OpResult result;
  k_panel.Collect(&result);
  v_panel.Collect(&result);
  return result;
}

void AddPackHead(std::vector<OpCase>* cases) {
  struct Shape {
    int64_t nope, value, rope;
  };
  for (const DType type : {DType::kF32, DType::kBf16}) {
    for (const Shape& s : {Shape{128, 128, 64}, Shape{32, 32, 16}, Shape{2, 1, 2}, Shape{3, 70, 5},
                           Shape{16, 16, 0}, Shape{31, 100, 33}}) {
      for (const int64_t valid : {1, 2, 33, 63, 64}) {
        const PackCase c = {type, s.nope, s.value, s.rope, valid, valid % 3};
        OpCase out;
        out.op = "pack_head";
        out.name = Text("pack_head ", NameOf(type), " nope=", c.nope, " value=", c.value,
                        " rope=", c.rope, " valid=", valid, " gap=", c.gap);
        out.work = kPage * (s.nope + s.value + s.rope);
        out.run = [c](const OpTable& table, uint64_t seed, void*) { return Run(c, table, seed); };
        cases->push_back(std::move(out));
      }
    }
  }
}

// --- attention -----------------------------------------------------------------------------------

// Outputs are averages of values below 1. f32: exp differs by 2e-7, products by their rounding, and
// a score of about `sharpness` by its own. bf16: the output's rounding, and a weight that falls on
// the other side of a rounding border.
Tolerance AttentionTolerance(DType type, float sharpness) {
  return type == DType::kBf16 ? Tolerance{0x1p-12, 0x1p-7} : Tolerance{4e-6 + 2e-7 * sharpness, 0};
}

// m queries from first_position on, within one block of 64, as DenseAttentionArgs asks.
struct DenseCase {
  DType type;
  int64_t m;
  int64_t first_position;
  int64_t key_dim;
  int64_t value_dim;
  float sharpness = 4.0f;  // the scale, times sqrt(key_dim)
  int64_t gap = 0;
  bool selected = false;
  int64_t step = 0;  // pages of a call; 0: all in one
};

// Which keys rows see, row after row: all, about half, one in the last page, one in the first.
void SelectKeys(const DenseCase& c, int64_t pages, RandomValues& random, uint64_t* words) {
  for (int64_t i = 0; i < c.m; ++i, words += pages) {
    // Each row sees at least one key, or its softmax would be of nothing.
    const int64_t own = c.first_position + i;
    for (int64_t page = 0; page < pages; ++page) {
      words[page] = i % 4 == 0 ? ~uint64_t{0} : 0;
      for (int64_t j = 0; i % 4 == 1 && j < kPage; ++j) words[page] |= (random.Bits() & 1) << j;
    }
    const int64_t always = i % 4 == 3 ? 0 : own / kPage * kPage;
    words[always / kPage] |= uint64_t{1} << always % kPage;
  }
}

OpResult Run(const DenseCase& c, const OpTable& table, uint64_t seed, void* scratch) {
  RandomValues random(seed);
  const int64_t pages = c.first_position / kPage + 1;
  const GuardedBytes q = RandomArray(c.type, Span(c.m, c.key_dim, c.key_dim + c.gap), random);
  // The panels, packed as weights: W [64 keys, key_dim] and W [value_dim, 64 keys].
  const int64_t k_page = PackedBytes(c.type, kPage, c.key_dim) / SizeOf(c.type);
  const int64_t v_page = PackedBytes(c.type, c.value_dim, kPage) / SizeOf(c.type);
  const GuardedBytes k_panels = RandomArray(c.type, pages * k_page, random);
  // Values are packed as a weight, whose padding is zero, as the kernel may read it.
  const GuardedBytes v_panels(pages * v_page * SizeOf(c.type));
  for (int64_t page = 0; page < pages; ++page) {
    const Weight v = RandomWeight(c.type, c.value_dim, kPage, 1, random);
    std::copy_n(static_cast<const uint8_t*>(v.packed()), v_page * SizeOf(c.type),
                static_cast<uint8_t*>(v_panels.data()) + page * v_page * SizeOf(c.type));
  }
  const GuardedArray<uint64_t> selected(c.m * pages);
  SelectKeys(c, pages, random, selected.data());
  const OutputMatrix out(c.type, c.m, c.value_dim, c.value_dim + 2 * c.gap);
  DenseAttentionArgs args = {.type = c.type,
                             .q = q.data(),
                             .q_stride = c.key_dim + c.gap,
                             .m = c.m,
                             .first_position = c.first_position,
                             .key_dim = c.key_dim,
                             .value_dim = c.value_dim,
                             .k_panels = k_panels.data(),
                             .k_page_stride = k_page,
                             .v_panels = v_panels.data(),
                             .v_page_stride = v_page,
                             .scale = c.sharpness / std::sqrt(static_cast<float>(c.key_dim)),
                             .out = out.data(),
                             .out_stride = c.value_dim + 2 * c.gap,
                             .scratch = scratch,
                             .selected = c.selected ? selected.data() : nullptr,
                             .selected_stride = pages};
  if (c.step == 0) {
    table.dense_attention(args);
  } else {
    // What the scratch memory holds between calls does not matter, unlike the state.
    const Buffer state((kDenseStateFloats + v_page) * 4);
    args.state = state.as<float>();
    for (int64_t page = 0; page < pages; page += c.step) {
      args.page_begin = page;
      args.page_end = std::min(pages, page + c.step);
      table.dense_attention(args);
      std::memset(scratch, 0xff, 4096);
    }
  }
  OpResult result;
  out.Collect(&result);
  return result;
}

void Add(const DenseCase& c, std::vector<OpCase>* cases) {
  OpCase out;
  out.op = "dense_attention";
  out.name =
      Text("dense_attention ", NameOf(c.type), " m=", c.m, " first_position=", c.first_position,
           " key_dim=", c.key_dim, " value_dim=", c.value_dim, " sharpness=", c.sharpness,
           " gap=", c.gap, " selected=", c.selected, " step=", c.step);
  out.work = c.m * (c.first_position + kPage) * (c.key_dim + c.value_dim);
  out.exact = false;
  out.fused = true;  // 2^x, in both types
  out.tolerance = AttentionTolerance(c.type, c.sharpness);
  out.run = [c](const OpTable& table, uint64_t seed, void* scratch) {
    return Run(c, table, seed, scratch);
  };
  cases->push_back(std::move(out));
}

void AddDense(std::vector<OpCase>* cases) {
  for (const DType type : {DType::kF32, DType::kBf16}) {
    // The first and last position of a page, whole pages, and what lies across a border.
    for (const auto& [first, m] : {std::pair{0, 1},
                                   {0, 2},
                                   {0, 64},
                                   {1, 63},
                                   {5, 7},
                                   {63, 1},
                                   {64, 1},
                                   {64, 64},
                                   {100, 13},
                                   {127, 1},
                                   {130, 62},
                                   {600, 9}}) {
      Add({.type = type, .m = m, .first_position = first, .key_dim = 48, .value_dim = 32}, cases);
    }
    // Widths of the value around the granule of 16 and the panel of 64.
    for (const int64_t value_dim : {1, 15, 16, 17, 40, 64, 70, 128, 192}) {
      Add({.type = type,
           .m = 5,
           .first_position = 70,
           .key_dim = 24,
           .value_dim = value_dim,
           .gap = 3},
          cases);
    }
    for (const int64_t key_dim : {2, 6, 192}) {
      Add({.type = type, .m = 11, .first_position = 64, .key_dim = key_dim, .value_dim = 128},
          cases);
    }
    // Page by page, and with a last call of fewer pages.
    for (const int64_t step : {1, 2, 3}) {
      Add({.type = type,
           .m = 19,
           .first_position = 4 * kPage + 5,
           .key_dim = 48,
           .value_dim = 40,
           .gap = 1,
           .selected = step == 2,
           .step = step},
          cases);
    }
    Add({.type = type, .m = 64, .first_position = 192, .key_dim = 192, .value_dim = 128}, cases);
    // All weights equal; nearly all weight on one key.
    Add({.type = type,
         .m = 9,
         .first_position = 200,
         .key_dim = 32,
         .value_dim = 16,
         .sharpness = 0.0f},
        cases);
    Add({.type = type,
         .m = 9,
         .first_position = 200,
         .key_dim = 32,
         .value_dim = 16,
         .sharpness = 300.0f},
        cases);
    for (const auto& [first, m] :
         {std::pair{0, 1}, {0, 64}, {63, 1}, {64, 5}, {130, 62}, {600, 9}, {640, 64}}) {
      for (const float sharpness : {0.0f, 4.0f, 300.0f}) {
        Add({.type = type,
             .m = m,
             .first_position = first,
             .key_dim = 48,
             .value_dim = 32,
             .sharpness = sharpness,
             .selected = true},
            cases);
      }
    }
  }
}

// Queries of one token: all heads against `count` latents [latent + rope].
struct AbsorbedCase {
  DType type = DType::kBf16;
  int64_t heads;
  int64_t latent;
  int64_t rope;
  int64_t count;
  bool selected = true;  // positions given, with holes
  float sharpness = 4.0f;
  int64_t gap = 0;
  int64_t next_bytes = 0;  // to fetch meanwhile
  bool int8_rows = false;
};

OpResult Run(const AbsorbedCase& c, const OpTable& table, uint64_t seed, void* scratch) {
  RandomValues random(seed);
  const int64_t dim = c.latent + c.rope;
  // Ascending positions: page borders first, then with random holes.
  const GuardedArray<int32_t> positions(c.count);
  constexpr int32_t kBorders[] = {0, 63, 64, 127, 128};
  for (int64_t i = 0; i < c.count; ++i) {
    positions[i] =
        i < 5 ? kBorders[i] : positions[i - 1] + 1 + static_cast<int32_t>(random.Below(3));
  }
  const int64_t last = c.selected ? positions[c.count - 1] : c.count - 1;
  std::vector<GuardedBytes> memory;
  const GuardedArray<const void*> pages(last / kPage + 1);
  // Pages lie apart, as in a cache: a kernel that runs off one hits the unreadable page behind.
  for (const void*& page : pages) {
    memory.push_back(c.int8_rows ? RandomInt8Rows(kPage, c.latent, c.rope, random)
                                 : RandomArray(c.type, kPage * dim, random));
    page = memory.back().data();
  }
  const GuardedBytes q = RandomArray(c.type, Span(c.heads, dim, dim + c.gap), random);
  const OutputMatrix out(c.type, c.heads, c.latent, c.latent + 2 * c.gap);
  const GuardedBytes next(c.next_bytes);
  table.absorbed_attention({.type = c.type,
                            .q = q.data(),
                            .q_stride = dim + c.gap,
                            .heads = c.heads,
                            .latent = c.latent,
                            .rope = c.rope,
                            .pages = pages.data(),
                            .positions = c.selected ? positions.data() : nullptr,
                            .count = c.count,
                            .scale = c.sharpness / std::sqrt(static_cast<float>(dim)),
                            .out = out.data(),
                            .out_stride = c.latent + 2 * c.gap,
                            .scratch = scratch,
                            .int8_rows = c.int8_rows,
                            .next = next.data(),
                            .next_bytes = c.next_bytes});
  OpResult result;
  out.Collect(&result);
  return result;
}

void Add(const AbsorbedCase& c, std::vector<OpCase>* cases) {
  OpCase out;
  out.op = "absorbed_attention";
  out.name = Text("absorbed_attention ", NameOf(c.type), " heads=", c.heads, " latent=", c.latent,
                  " rope=", c.rope, " count=", c.count, " selected=", c.selected,
                  " sharpness=", c.sharpness, " gap=", c.gap, " next_bytes=", c.next_bytes,
                  " int8_rows=", c.int8_rows);
  out.work = c.heads * c.count * (2 * c.latent + c.rope);
  out.exact = false;
  out.fused = true;
  out.tolerance = AttentionTolerance(c.type, c.sharpness);
  out.run = [c](const OpTable& table, uint64_t seed, void* scratch) {
    return Run(c, table, seed, scratch);
  };
  cases->push_back(std::move(out));
}

void AddAbsorbed(DType type, bool int8_rows, std::vector<OpCase>* cases) {
  const auto add = [&](AbsorbedCase c) {
    c.type = type;
    c.int8_rows = int8_rows;
    Add(c, cases);
  };
  // Around the pages of 64 and the softmax's blocks of 256.
  for (const int64_t count : {1, 2, 5, 63, 64, 65, 128, 200, 255, 256, 257, 300, 511, 2048}) {
    for (const bool selected : {false, true}) {
      add({.heads = 3, .latent = 32, .rope = 16, .count = count, .selected = selected});
    }
  }
  // Few heads, many, and odd numbers of them.
  for (const int64_t heads : {1, 2, 4, 5, 8, 9, 15, 16, 17, 20, 24, 32, 33, 64, 65, 80, 128}) {
    add({.heads = heads, .latent = 64, .rope = 16, .count = 70, .gap = heads % 2});
  }
  for (const auto& [latent, rope] : {std::pair{2, 0}, {16, 2}, {40, 8}, {70, 6}, {512, 64}}) {
    add({.heads = 6, .latent = latent, .rope = rope, .count = 100, .gap = 2});
  }
  add({.heads = 128, .latent = 512, .rope = 64, .count = 65});
  // Rows of whole vectors and more than 8 heads: int8 ones are dequantised between the products.
  for (const int64_t count : {1, 3, 4, 5, 8, 70, 255, 256, 257, 260, 600}) {
    for (const int64_t heads : {9, 16, 33}) {
      add({.heads = heads, .latent = 64, .rope = 32, .count = count, .selected = count % 2 == 0});
    }
  }
  add({.heads = 5, .latent = 32, .rope = 16, .count = 150, .sharpness = 0.0f});
  add({.heads = 5, .latent = 32, .rope = 16, .count = 150, .sharpness = 300.0f});
  // What is to fetch ends before the keys do, and after.
  for (const int64_t next_bytes : {100, 70'000, 1'000'000}) {
    add({.heads = 8, .latent = 128, .rope = 32, .count = 600, .next_bytes = next_bytes});
  }
}

}  // namespace

void AddAttentionCases(std::vector<OpCase>* cases) {
  AddDequantize(cases);
  AddPackHead(cases);
  AddDense(cases);
  AddAbsorbed(DType::kF32, false, cases);
  AddAbsorbed(DType::kBf16, false, cases);
  AddAbsorbed(DType::kBf16, true, cases);
}

}  // namespace causeway
