#include "app/bench_other_kernels.h"

#include <memory>
#include <random>
#include <stdexcept>
#include <utility>

#include "base/bf16.h"
#include "base/buffer.h"
#include "base/view.h"
#include "kernels/packed_weight.h"

namespace causeway {
namespace {

// Heads of DeepSeek V3, V3.2 and bench-mini.
constexpr int64_t kNope = 128;
constexpr int64_t kRope = 64;
constexpr int64_t kValue = 128;
constexpr int64_t kLatent = 512;
constexpr int64_t kIndexDim = 128;
constexpr int64_t kTopK = 2048;

// Memory of a kernel: what it is given lives as long as its function.
struct Operands {
  std::vector<Buffer> buffers;
  std::vector<const void*> pages;
  std::vector<int32_t> positions;
  std::mt19937 random{1};

  void* Zeros(int64_t bytes) { return buffers.emplace_back(bytes).data(); }
  // Uniform in [-1, 1).
  void* Floats(int64_t count) {
    auto* out = static_cast<float*>(Zeros(count * 4));
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (int64_t i = 0; i < count; ++i) out[i] = uniform(random);
    return out;
  }
  void* Bf16s(int64_t count) {
    auto* out = static_cast<Bf16*>(Zeros(count * 2));
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (int64_t i = 0; i < count; ++i) out[i] = ToBf16(uniform(random));
    return out;
  }
  void* Bytes(int64_t count) {
    auto* out = static_cast<uint8_t*>(Zeros(count));
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(random());
    return out;
  }
  // Pages of `bytes` each, in one block.
  const void* const* Pages(const void* block, int64_t count, int64_t bytes) {
    for (int64_t i = 0; i < count; ++i) {
      pages.push_back(static_cast<const char*>(block) + i * bytes);
    }
    return pages.data();
  }
};

double D(int64_t value) { return static_cast<double>(value); }

// The queries of one block of positions, the last of `pages` pages of keys.
OtherKernel Dense(int64_t pages, bool masked) {
  auto data = std::make_shared<Operands>();
  const int64_t key_dim = kNope + kRope;
  DenseAttentionArgs args{};
  args.type = DType::kBf16;
  args.q = data->Bf16s(kPage * key_dim);
  args.q_stride = key_dim;
  args.m = kPage;
  args.first_position = (pages - 1) * kPage;
  args.key_dim = key_dim;
  args.value_dim = kValue;
  args.k_panels = data->Bf16s(pages * kPage * key_dim);
  args.k_page_stride = kPage * key_dim;
  args.v_panels = data->Bf16s(pages * kPage * kValue);
  args.v_page_stride = kPage * kValue;
  args.scale = 0.07f;
  args.out = data->Zeros(kPage * kValue * 2);
  args.out_stride = kValue;
  args.scratch = data->Zeros(kScratchBytes);
  if (masked) {
    auto* words = static_cast<uint64_t*>(data->Bytes(kPage * pages * 8));
    for (int64_t i = 0; i < kPage; ++i) words[i * pages] |= 1;  // no row without a key
    args.selected = words;
    args.selected_stride = pages;
  }
  const double keys = D(kPage * (pages - 1) * kPage + kPage * (kPage + 1) / 2);
  return {.name = {},
          .flops = 2.0 * keys * D(key_dim + kValue),
          .rows = D(kPage),
          .run = [data, args](const OpTable& table) { table.dense_attention(args); }};
}

// One query and kTopK chosen keys of 16384, every eighth.
OtherKernel Absorbed(int64_t heads) {
  auto data = std::make_shared<Operands>();
  const int64_t dim = kLatent + kRope;
  const int64_t context = 8 * kTopK;
  for (int32_t i = 0; i < kTopK; ++i) data->positions.push_back(8 * i + i % 5);
  AbsorbedAttentionArgs args{};
  args.type = DType::kBf16;
  args.q = data->Bf16s(heads * dim);
  args.q_stride = dim;
  args.heads = heads;
  args.latent = kLatent;
  args.rope = kRope;
  args.pages = data->Pages(data->Bf16s(context * dim), context / kPage, kPage * dim * 2);
  args.positions = data->positions.data();
  args.count = kTopK;
  args.scale = 0.05f;
  args.out = data->Zeros(heads * kLatent * 2);
  args.out_stride = kLatent;
  args.scratch = data->Zeros(kScratchBytes);
  return {.name = {},
          .flops = 2.0 * D(heads * kTopK * (dim + kLatent)),
          .rows = 1,
          .run = [data, args](const OpTable& table) { table.absorbed_attention(args); }};
}

// Eight queries, as the indexer takes them together, and 1024 keys.
OtherKernel IndexScores(int64_t heads, DType type) {
  constexpr int64_t kQueries = 8;
  constexpr int64_t kPages = 16;
  auto data = std::make_shared<Operands>();
  const bool int8 = type == DType::kI8;
  const int64_t page_bytes = kPage * kIndexDim * SizeOf(type) + (int8 ? kPage * 4 : 0);
  auto* keys = int8 ? static_cast<char*>(data->Bytes(kPages * page_bytes))
                    : static_cast<char*>(data->Bf16s(kPages * page_bytes / 2));
  // Scales of int8 keys are floats, behind each page's values.
  for (int64_t page = 0; int8 && page < kPages; ++page) {
    auto* scale = reinterpret_cast<float*>(keys + page * page_bytes + kPage * kIndexDim);
    for (int64_t i = 0; i < kPage; ++i) scale[i] = 0.01f;
  }
  IndexScoreArgs args{};
  args.type = type;
  args.q =
      int8 ? data->Bytes(kQueries * heads * kIndexDim) : data->Bf16s(kQueries * heads * kIndexDim);
  args.q_stride = heads * kIndexDim;
  args.weight = static_cast<const float*>(data->Floats(kQueries * heads));
  args.weight_stride = heads;
  args.m = kQueries;
  args.heads = heads;
  args.dim = kIndexDim;
  args.key_pages = data->Pages(keys, kPages, page_bytes);
  args.page_end = kPages;
  args.scores = static_cast<float*>(data->Zeros(kQueries * kPages * kPage * 4));
  args.scores_stride = kPages * kPage;
  args.scratch = data->Zeros(kScratchBytes);
  return {.name = {},
          .type = type,
          .flops = 2.0 * D(kQueries * kPages * kPage * heads * kIndexDim),
          .rows = D(kQueries),
          .run = [data, args](const OpTable& table) { table.index_scores(args); }};
}

// One query's choice of kTopK among `n` scores that come in blocks of 1024.
OtherKernel TopK(int64_t n) {
  constexpr int64_t kBlock = 1024;
  auto data = std::make_shared<Operands>();
  const int64_t capacity = 2 * kTopK + kTopKSlack;
  const auto* scores = static_cast<const float*>(data->Floats(n));
  auto* keys = static_cast<uint32_t*>(data->Zeros(capacity * 4));
  auto* positions = static_cast<int32_t*>(data->Zeros(capacity * 4));
  auto* list = static_cast<uint32_t*>(data->Zeros(capacity * 4));
  return {.name = {}, .rows = 1, .run = [=](const OpTable& table) {
            TopKCandidates candidates{.keys = keys, .positions = positions, .capacity = capacity};
            for (int64_t i = 0; i < n; i += kBlock) {
              table.top_k({.scores = scores + i,
                           .n = kBlock,
                           .k = kTopK,
                           .last = i + kBlock == n,
                           .candidates = &candidates,
                           .list = list});
            }
            (void)data;  // keeps the arrays
          }};
}

// Keys and values of a page and head, packed after their expansion.
OtherKernel PackHead() {
  auto data = std::make_shared<Operands>();
  PackHeadArgs args{};
  args.type = DType::kBf16;
  args.kv = static_cast<const float*>(data->Floats(kPage * (kNope + kValue)));
  args.kv_stride = kNope + kValue;
  args.nope = kNope;
  args.value = kValue;
  args.rope = kRope;
  args.k_pe = data->Bf16s(kPage * kRope);
  args.k_pe_stride = kRope;
  args.valid = kPage;
  args.k_panel = data->Zeros(kPage * (kNope + kRope) * 2);
  args.v_panel = data->Zeros(kPage * kValue * 2);
  return {.name = {}, .rows = D(kPage), .run = [data, args](const OpTable& table) {
            table.pack_head(args);
          }};
}

// What is done row by row beside products, on as many rows as an item of experts has.
OtherKernel SiluMul(int64_t inner) {
  constexpr int64_t kRows = 128;
  auto data = std::make_shared<Operands>();
  SiluMulArgs args{};
  args.gate = static_cast<const float*>(data->Floats(kRows * 2 * inner));
  args.up = args.gate + inner;
  args.in_stride = 2 * inner;
  args.m = kRows;
  args.n = inner;
  args.type = DType::kBf16;
  args.out = data->Zeros(kRows * inner * 2);
  args.out_stride = inner;
  return {.name = {}, .rows = D(kRows), .run = [data, args](const OpTable& table) {
            table.silu_mul(args);
          }};
}

OtherKernel RmsNorm(int64_t hidden) {
  constexpr int64_t kRows = 64;
  auto data = std::make_shared<Operands>();
  NormArgs args{};
  args.x = static_cast<const float*>(data->Floats(kRows * hidden));
  args.x_stride = hidden;
  args.m = kRows;
  args.n = hidden;
  args.weight = static_cast<const float*>(data->Floats(hidden));
  args.eps = 1e-6f;
  args.out_bf16 = static_cast<uint16_t*>(data->Zeros(kRows * hidden * 2));
  args.out_bf16_stride = hidden;
  return {.name = {}, .rows = D(kRows), .run = [data, args](const OpTable& table) {
            table.rms_norm(args);
          }};
}

OtherKernel Quantize(int64_t hidden) {
  constexpr int64_t kRows = 64;
  auto data = std::make_shared<Operands>();
  QuantizeArgs args{};
  args.type = DType::kBf16;
  args.x = data->Bf16s(kRows * hidden);
  args.x_stride = hidden;
  args.m = kRows;
  args.k = hidden;
  args.out = static_cast<int8_t*>(data->Zeros(kRows * hidden));
  args.out_stride = hidden;
  args.scale = static_cast<float*>(data->Zeros(kRows * 4));
  return {.name = {}, .rows = D(kRows), .run = [data, args](const OpTable& table) {
            table.quantize(args);
          }};
}

struct Entry {
  const char* name;
  OtherKernel (*make)();
};
constexpr Entry kEntries[] = {
    {"dense_attention, 1024 keys", [] { return Dense(16, false); }},
    {"dense_attention, 8192 keys", [] { return Dense(128, false); }},
    {"dense_attention, 65536 keys", [] { return Dense(1024, false); }},
    {"dense_attention, 8192 keys, half masked", [] { return Dense(128, true); }},
    {"absorbed_attention, 16 heads, 2048 keys", [] { return Absorbed(16); }},
    {"absorbed_attention, 128 heads, 2048 keys", [] { return Absorbed(128); }},
    {"index_scores, 16 heads", [] { return IndexScores(16, DType::kBf16); }},
    {"index_scores, 64 heads", [] { return IndexScores(64, DType::kBf16); }},
    {"index_scores, 16 heads, int8", [] { return IndexScores(16, DType::kI8); }},
    {"index_scores, 64 heads, int8", [] { return IndexScores(64, DType::kI8); }},
    {"top_k, 2048 of 8192", [] { return TopK(8192); }},
    {"top_k, 2048 of 65536", [] { return TopK(65536); }},
    {"pack_head", [] { return PackHead(); }},
    {"silu_mul, 512", [] { return SiluMul(512); }},
    {"silu_mul, 2048", [] { return SiluMul(2048); }},
    {"rms_norm, 1024", [] { return RmsNorm(1024); }},
    {"rms_norm, 7168", [] { return RmsNorm(7168); }},
    {"quantize, 1024", [] { return Quantize(1024); }},
    {"quantize, 7168", [] { return Quantize(7168); }},
};

}  // namespace

std::vector<std::string> OtherKernelNames() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

OtherKernel MakeOtherKernel(const std::string& name) {
  for (const Entry& entry : kEntries) {
    if (name != entry.name) continue;
    OtherKernel kernel = entry.make();
    kernel.name = name;
    return kernel;
  }
  throw std::out_of_range(name);
}

}  // namespace causeway
