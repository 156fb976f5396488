// The plain reference of every primitive: loops written to be read, in the documented order.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/bf16.h"
#include "base/fp8.h"
#include "kernels/op_table.h"

namespace causeway {
namespace {

float Load(DType type, const void* data, int64_t i) {
  return type == DType::kF32 ? static_cast<const float*>(data)[i]
                             : FromBf16(static_cast<const Bf16*>(data)[i]);
}

// Rounds to nearest even where the type is bf16.
void Store(DType type, void* data, int64_t i, float value) {
  if (type == DType::kF32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<Bf16*>(data)[i] = ToBf16(value);
  }
}

// The value as the type holds it, still as float.
float Round(DType type, float value) {
  return type == DType::kF32 ? value : FromBf16(ToBf16(value));
}

int64_t GroupOf(DType type) { return type == DType::kF32 ? 1 : type == DType::kBf16 ? 2 : 4; }

// Index of W[j, k] in a packed matrix [n, depth]; see GemmArgs.
int64_t PackedIndex(DType type, int64_t n, int64_t depth, int64_t j, int64_t k) {
  const int64_t g = GroupOf(type);
  const int64_t padded = (depth + g - 1) / g * g;
  const int64_t panel = j / kPanel;
  const int64_t left = n - panel * kPanel;
  const int64_t width =
      left >= kPanel ? kPanel : (left + kPanelGranule - 1) / kPanelGranule * kPanelGranule;
  const int64_t group = panel * kPanel * padded + (k / g) * width * g;
  // fp8: [width/4][2][4][2] in a group.
  if (type == DType::kF8) {
    return group + (j % kPanel / 4) * 16 + (k % 4 / 2) * 8 + (j % 4) * 2 + k % 2;
  }
  return group + (j % kPanel) * g + k % g;
}

// W[j, k_begin + k] of a product as the type holds it.
float LoadWeight(const GemmArgs& args, int64_t j, int64_t k) {
  const int64_t depth = args.w_k == 0 ? args.k : args.w_k;
  const int64_t column = args.k_begin + k;
  const int64_t at = PackedIndex(args.type, args.n, depth, j, column);
  if (args.type != DType::kF8) return Load(args.type, args.w, at);
  const int64_t blocks = (args.k_offset + depth + args.k_block - 1) / args.k_block;
  const int64_t block = (args.k_offset + column) / args.k_block;
  const float scale = args.w_scale[j / kPanel * blocks + block];
  return Round(DType::kBf16, FromE4m3(static_cast<const E4m3*>(args.w)[at]) * scale);
}

// acc + the product of two runs of `count` elements, in the order of GemmArgs.
template <typename A, typename W>
float Accumulate(DType type, int64_t count, float acc, A a, W w) {
  if (type == DType::kF32) {
    for (int64_t k = 0; k < count; ++k) acc = std::fma(a(k), w(k), acc);
    return acc;
  }
  for (int64_t k = 0; k < count; k += 2) {
    acc = std::fma(a(k), w(k), std::fma(a(k + 1), w(k + 1), acc));
  }
  return acc;
}

// The runs' results, added pairwise: neighbours first.
float TreeSum(std::vector<float> values) {
  while (values.size() > 1) {
    std::vector<float> next(values.size() / 2);
    for (size_t i = 0; i < next.size(); ++i) next[i] = values[2 * i] + values[2 * i + 1];
    values = std::move(next);
  }
  return values[0];
}

int32_t IntegerSum(const GemmArgs& args, int64_t row, int64_t j) {
  const int64_t depth = args.w_k == 0 ? args.k : args.w_k;
  const auto* a = static_cast<const int8_t*>(args.a) + row * args.a_stride;
  const auto* w = static_cast<const int8_t*>(args.w);
  int32_t sum = 0;
  for (int64_t k = 0; k < args.k; ++k) {
    sum += a[k] * w[PackedIndex(args.type, args.n, depth, j, args.k_begin + k)];
  }
  return sum;
}

// y[row, j]; int8: with its scales.
float Product(const GemmArgs& args, int64_t row, int64_t j) {
  if (args.type == DType::kI8) {
    return static_cast<float>(IntegerSum(args, row, j)) * args.a_scale[row] * args.w_scale[j];
  }
  const int64_t run = args.k / args.segments;
  std::vector<float> runs;
  // A product with k = 0 has one empty run, and gives 0.
  for (int64_t begin = 0; begin < args.k || runs.empty(); begin += run) {
    runs.push_back(Accumulate(
        args.type, run, 0.0f,
        [&](int64_t k) { return Load(args.type, args.a, row * args.a_stride + begin + k); },
        [&](int64_t k) { return LoadWeight(args, j, begin + k); }));
  }
  return TreeSum(std::move(runs));
}

float Silu(float x) { return x / (1.0f + std::exp(-x)); }

void Gemm(const GemmArgs& args) {
  const int64_t end = std::min(args.panel_end * kPanel, args.n);
  for (int64_t i = 0; i < args.m; ++i) {
    const int64_t row = args.a_rows == nullptr ? i : args.a_rows[i];
    const int64_t out_row = args.c_rows == nullptr ? i : args.c_rows[i];
    for (int64_t j = args.panel_begin * kPanel; j < end; ++j) {
      const int64_t at = out_row * args.c_stride + j;
      if (args.epilogue == Epilogue::kStoreI32) {
        static_cast<int32_t*>(args.c)[at] = IntegerSum(args, row, j);
        continue;
      }
      float y = Product(args, row, j);
      switch (args.epilogue) {
        case Epilogue::kStoreF32:
          static_cast<float*>(args.c)[at] = y;
          break;
        case Epilogue::kStoreBf16:
          static_cast<Bf16*>(args.c)[at] = ToBf16(y);
          break;
        case Epilogue::kAddF32:
          if (args.c_scale != nullptr) y *= args.c_scale[i];
          static_cast<float*>(args.c)[at] += y;
          break;
        case Epilogue::kStoreI32:
          break;
        case Epilogue::kSiluMulF32:
          static_cast<float*>(args.c)[at] = Silu(y) * Product(args, row, j + args.n / 2);
          break;
        case Epilogue::kSiluMulBf16:
          static_cast<Bf16*>(args.c)[at] = ToBf16(Silu(y) * Product(args, row, j + args.n / 2));
          break;
      }
    }
  }
}

// Sum in 16 interleaved lanes, then a binary tree: lane j + lane j + 8, then + 4, ...
template <typename Value>
float LaneSum(int64_t n, Value value) {
  float lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i % 16] += value(i);
  for (int width = 8; width >= 1; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

void StoreNorm(const NormArgs& args, int64_t row, int64_t i, float y) {
  if (args.out_f32 != nullptr) args.out_f32[row * args.out_f32_stride + i] = y;
  if (args.out_bf16 != nullptr) args.out_bf16[row * args.out_bf16_stride + i] = ToBf16(y);
}

void RmsNorm(const NormArgs& args) {
  for (int64_t row = 0; row < args.m; ++row) {
    const float* x = args.x + row * args.x_stride;
    // x * x is rounded before the sum: no fused multiply-add here.
    const float sum = LaneSum(args.n, [&](int64_t i) { return x[i] * x[i]; });
    const float factor = 1.0f / std::sqrt(sum / static_cast<float>(args.n) + args.eps);
    for (int64_t i = 0; i < args.n; ++i) StoreNorm(args, row, i, x[i] * factor * args.weight[i]);
  }
}

void LayerNorm(const NormArgs& args) {
  for (int64_t row = 0; row < args.m; ++row) {
    const float* x = args.x + row * args.x_stride;
    const auto n = static_cast<float>(args.n);
    const float mean = LaneSum(args.n, [&](int64_t i) { return x[i]; }) / n;
    const float variance =
        LaneSum(args.n, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / n;
    const float factor = 1.0f / std::sqrt(variance + args.eps);
    for (int64_t i = 0; i < args.n; ++i) {
      StoreNorm(args, row, i, (x[i] - mean) * factor * args.weight[i] + args.bias[i]);
    }
  }
}

void Rotate(const RotateArgs& args) {
  const int64_t half = args.rope_dim / 2;
  for (int64_t row = 0; row < args.m; ++row) {
    const float* cos = args.cos + args.positions[row] * half;
    const float* sin = args.sin + args.positions[row] * half;
    for (int64_t head = 0; head < args.heads; ++head) {
      const float* x = args.x + row * args.x_stride + head * args.head_dim;
      const int64_t out = row * args.out_stride + head * args.head_dim;
      // First all of the row, so that what is not rotated is copied.
      for (int64_t i = 0; i < args.head_dim; ++i) Store(args.type, args.out, out + i, x[i]);
      for (int64_t i = 0; i < half; ++i) {
        const int64_t first = args.rope_begin + (args.interleaved ? 2 * i : i);
        const int64_t second = first + (args.interleaved ? 1 : half);
        Store(args.type, args.out, out + first, x[first] * cos[i] - x[second] * sin[i]);
        Store(args.type, args.out, out + second, x[first] * sin[i] + x[second] * cos[i]);
      }
    }
  }
}

void SiluMul(const SiluMulArgs& args) {
  for (int64_t row = 0; row < args.m; ++row) {
    for (int64_t i = 0; i < args.n; ++i) {
      const float gate = args.gate[row * args.in_stride + i];
      const float up = args.up[row * args.in_stride + i];
      Store(args.type, args.out, row * args.out_stride + i, Silu(gate) * up);
    }
  }
}

void Quantize(const QuantizeArgs& args) {
  for (int64_t row = 0; row < args.m; ++row) {
    // A row of zeros would divide by zero.
    float amax = 1e-10f;
    for (int64_t i = 0; i < args.k; ++i) {
      amax = std::max(amax, std::fabs(Load(args.type, args.x, row * args.x_stride + i)));
    }
    if (args.row_amax != nullptr) amax = std::max(args.row_amax[row], 1e-10f);
    const float inverse = 127.0f / amax;
    // Up to the stride: the padding becomes zero.
    for (int64_t i = 0; i < args.out_stride; ++i) {
      const float x = i < args.k ? Load(args.type, args.x, row * args.x_stride + i) : 0.0f;
      args.out[row * args.out_stride + i] = static_cast<int8_t>(std::round(x * inverse));
    }
    args.scale[row] = amax / 127.0f;
  }
}

// Value i of an int8 row of a cache, as DequantizeArgs has it.
float Int8RowValue(const void* row, int64_t latent, int64_t rope, int64_t i) {
  const auto* q = static_cast<const int8_t*>(row);
  float scale;
  std::memcpy(&scale, q + latent + rope + (i < latent ? 0 : sizeof(scale)), sizeof(scale));
  return FromBf16(ToBf16(static_cast<float>(q[i]) * scale));
}

void Dequantize(const DequantizeArgs& args) {
  const int64_t dim = args.latent + args.rope;
  for (int64_t row = 0; row < args.m; ++row) {
    const char* from = static_cast<const char*>(args.rows) + row * (dim + kRowScaleBytes);
    for (int64_t i = 0; i < dim; ++i) {
      args.out[row * args.out_stride + i] = ToBf16(Int8RowValue(from, args.latent, args.rope, i));
    }
  }
}

void Convert(const ConvertArgs& args) {
  for (int64_t row = 0; row < args.m; ++row) {
    for (int64_t i = 0; i < args.n; ++i) {
      args.out[row * args.out_stride + i] = ToBf16(args.x[row * args.x_stride + i]);
    }
  }
}

void PackHead(const PackHeadArgs& args) {
  const int64_t dim = args.nope + args.rope;
  for (int64_t key = 0; key < kPage; ++key) {
    const bool present = key < args.valid;
    for (int64_t k = 0; k < dim; ++k) {
      const float value = !present ? 0.0f
                          : k < args.nope
                              ? args.kv[key * args.kv_stride + k]
                              : Load(args.type, args.k_pe, key * args.k_pe_stride + k - args.nope);
      Store(args.type, args.k_panel, PackedIndex(args.type, kPage, dim, key, k), value);
    }
    const int64_t columns = (args.value + kPanelGranule - 1) / kPanelGranule * kPanelGranule;
    for (int64_t j = 0; j < columns; ++j) {
      const float value =
          present && j < args.value ? args.kv[key * args.kv_stride + args.nope + j] : 0.0f;
      Store(args.type, args.v_panel, PackedIndex(args.type, args.value, kPage, j, key), value);
    }
  }
}

// The running state of one query and head in flash-style attention.
class OnlineSoftmax {
 public:
  OnlineSoftmax(DType type, int64_t value_dim)
      : type_(type), out_(static_cast<size_t>(value_dim), 0.0f) {}

  // One block of 64 keys: their scaled scores (-inf: not visible) and value(key, column).
  template <typename Value>
  void AddBlock(const float (&score)[kPage], Value value) {
    float top = max_;
    for (float s : score) top = std::max(top, s);
    // Nothing is visible yet: max_ stays -inf, and -inf minus -inf would be NaN.
    if (top == -INFINITY) return;  // no key so far
    const float rescale = std::exp(max_ - top);
    float weight[kPage];
    for (int64_t key = 0; key < kPage; ++key) weight[key] = std::exp(score[key] - top);
    sum_ = sum_ * rescale + LaneSum(kPage, [&](int64_t key) { return weight[key]; });
    for (size_t j = 0; j < out_.size(); ++j) {
      out_[j] = Accumulate(
          type_, kPage, out_[j] * rescale, [&](int64_t key) { return Round(type_, weight[key]); },
          [&](int64_t key) { return value(key, static_cast<int64_t>(j)); });
    }
    max_ = top;
  }
  // As AbsorbedAttentionArgs has it: `count` dot products and the factor that makes their scores
  // powers of two.
  template <typename Value>
  void AddSelected(const float* dot, int64_t count, float factor, Value value) {
    const float top = std::max(max_, *std::max_element(dot, dot + count) * factor);
    const float rescale = std::exp2(max_ - top);
    std::vector<float> weight(static_cast<size_t>((count + 1) / 2 * 2), 0.0f);
    float sum[2] = {};
    for (int64_t key = 0; key < count; ++key) {
      const float e = std::exp2(std::fma(dot[key], factor, -top));
      weight[static_cast<size_t>(key)] = Round(type_, e);
      sum[key % 2] += e;
    }
    sum_ = std::fma(sum_, rescale, sum[0] + sum[1]);
    for (size_t j = 0; j < out_.size(); ++j) {
      out_[j] = Accumulate(
          type_, static_cast<int64_t>(weight.size()), out_[j] * rescale,
          [&](int64_t key) { return weight[static_cast<size_t>(key)]; },
          [&](int64_t key) { return key < count ? value(key, static_cast<int64_t>(j)) : 0.0f; });
    }
    max_ = top;
  }
  float Result(int64_t j) const { return out_[static_cast<size_t>(j)] / sum_; }

 private:
  const DType type_;
  float max_ = -INFINITY;
  float sum_ = 0.0f;
  std::vector<float> out_;
};

void DenseAttention(const DenseAttentionArgs& args) {
  // Nothing is kept between calls: the last one computes all pages.
  if (args.state != nullptr && args.page_end <= args.first_position / kPage) return;
  for (int64_t i = 0; i < args.m; ++i) {
    const int64_t position = args.first_position + i;
    OnlineSoftmax softmax(args.type, args.value_dim);
    // All queries lie in one block of 64 positions: the first one's last page is everybody's.
    for (int64_t page = 0; page <= args.first_position / kPage; ++page) {
      const int64_t k_base = page * args.k_page_stride;
      const int64_t v_base = page * args.v_page_stride;
      float score[kPage];
      for (int64_t key = 0; key < kPage; ++key) {
        const float dot = Accumulate(
            args.type, args.key_dim, 0.0f,
            [&](int64_t k) { return Load(args.type, args.q, i * args.q_stride + k); },
            [&](int64_t k) {
              return Load(args.type, args.k_panels,
                          k_base + PackedIndex(args.type, kPage, args.key_dim, key, k));
            });
        const bool selected = args.selected == nullptr ||
                              (args.selected[i * args.selected_stride + page] >> key & 1) != 0;
        score[key] = selected && page * kPage + key <= position ? dot * args.scale : -INFINITY;
      }
      softmax.AddBlock(score, [&](int64_t key, int64_t j) {
        return Load(args.type, args.v_panels,
                    v_base + PackedIndex(args.type, args.value_dim, kPage, j, key));
      });
    }
    for (int64_t j = 0; j < args.value_dim; ++j) {
      Store(args.type, args.out, i * args.out_stride + j, softmax.Result(j));
    }
  }
}

void AbsorbedAttention(const AbsorbedAttentionArgs& args) {
  const int64_t dim = args.latent + args.rope;
  const int64_t word = GroupOf(args.type);
  const int64_t row_bytes =
      args.int8_rows ? dim + kRowScaleBytes : dim * (args.type == DType::kF32 ? 4 : 2);
  const auto value = [&](const char* row, int64_t i) {
    return args.int8_rows ? Int8RowValue(row, args.latent, args.rope, i) : Load(args.type, row, i);
  };
  for (int64_t head = 0; head < args.heads; ++head) {
    OnlineSoftmax softmax(args.type, args.latent);
    for (int64_t begin = 0; begin < args.count; begin += kSelectedBlock) {
      const auto row = [&](int64_t key) {
        const int64_t p = args.positions == nullptr ? begin + key : args.positions[begin + key];
        return static_cast<const char*>(args.pages[p / kPage]) + (p % kPage) * row_bytes;
      };
      const int64_t count = std::min(kSelectedBlock, args.count - begin);
      float dot[kSelectedBlock];
      for (int64_t key = 0; key < count; ++key) {
        float lane[4] = {};
        for (int64_t k = 0; k < dim; k += word) {
          float& acc = lane[k / word % 4];
          acc = Accumulate(
              args.type, word, acc,
              [&](int64_t i) { return Load(args.type, args.q, head * args.q_stride + k + i); },
              [&](int64_t i) { return value(row(key), k + i); });
        }
        dot[key] = (lane[0] + lane[2]) + (lane[1] + lane[3]);
      }
      // log2(e): scores are powers of two, as exp2 is what the kernels compute.
      softmax.AddSelected(dot, count, args.scale * 1.44269504f,
                          [&](int64_t key, int64_t j) { return value(row(key), j); });
    }
    for (int64_t j = 0; j < args.latent; ++j) {
      Store(args.type, args.out, head * args.out_stride + j, softmax.Result(j));
    }
  }
}

// q[i, head] . key s of the indexer; see IndexScoreArgs.
float IndexDot(const IndexScoreArgs& args, int64_t i, int64_t head, int64_t s) {
  const void* page = args.key_pages[s / kPage];
  const int64_t q = i * args.q_stride + head * args.dim;
  const auto key_at = [&](int64_t k) {
    return PackedIndex(args.type, kPage, args.dim, s % kPage, k);
  };
  if (args.type == DType::kI8) {
    int32_t sum = 0;
    for (int64_t k = 0; k < args.dim; ++k) {
      // The page holds the values with 128 added.
      sum += static_cast<const int8_t*>(args.q)[q + k] *
             (static_cast<const uint8_t*>(page)[key_at(k)] - 128);
    }
    return static_cast<float>(sum);
  }
  return Accumulate(
      args.type, args.dim, 0.0f, [&](int64_t k) { return Load(args.type, args.q, q + k); },
      [&](int64_t k) { return Load(args.type, page, key_at(k)); });
}

void IndexScores(const IndexScoreArgs& args) {
  const int64_t first = args.page_begin * kPage;
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t s = first; s < args.page_end * kPage; ++s) {
      float score = 0.0f;
      for (int64_t head = 0; head < args.heads; ++head) {
        score = std::fma(args.weight[i * args.weight_stride + head],
                         std::max(IndexDot(args, i, head, s), 0.0f), score);
      }
      if (args.type == DType::kI8) {
        float scale;
        std::memcpy(&scale,
                    static_cast<const char*>(args.key_pages[s / kPage]) + kPage * args.dim +
                        (s % kPage) * static_cast<int64_t>(sizeof(scale)),
                    sizeof(scale));
        score *= scale;
      }
      args.scores[i * args.scores_stride + s - first] = score;
    }
  }
}

// Holds exactly the best k so far after every call; the keys are the bits of their scores.
int64_t TopK(const TopKArgs& args) {
  struct Candidate {
    float score;
    int32_t position;
  };
  TopKCandidates& held = *args.candidates;
  std::vector<Candidate> all;
  for (int64_t i = 0; i < held.count; ++i) {
    all.push_back({std::bit_cast<float>(held.keys[i]), held.positions[i]});
  }
  for (int64_t i = 0; i < args.n; ++i) {
    all.push_back({args.scores[i], static_cast<int32_t>(held.seen + i)});
  }
  // Equal scores compare equal (so does -0 to +0), and a stable sort keeps the lower position
  // first.
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    if (std::isnan(a.score) || std::isnan(b.score)) {
      return !std::isnan(a.score) && std::isnan(b.score);
    }
    return a.score > b.score;
  });
  held.seen += args.n;
  held.count = std::min(held.seen, args.k);
  all.resize(static_cast<size_t>(held.count));
  std::sort(all.begin(), all.end(),
            [](const Candidate& a, const Candidate& b) { return a.position < b.position; });
  for (int64_t i = 0; i < held.count; ++i) {
    held.keys[i] = std::bit_cast<uint32_t>(all[static_cast<size_t>(i)].score);
    held.positions[i] = all[static_cast<size_t>(i)].position;
  }
  return held.count;
}

}  // namespace

const OpTable kReferenceOps = {
    "reference",  &Gemm,       &RmsNorm, &LayerNorm, &Rotate,         &SiluMul,
    &Quantize,    &Dequantize, &Convert, &PackHead,  &DenseAttention, &AbsorbedAttention,
    &IndexScores, &TopK,
};

}  // namespace causeway
