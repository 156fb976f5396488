// Packing writes each row of W to its place among panels of kPanel rows; the order inside is in
// GemmArgs (op_table.h). The reference kernel computes the same index on its own.
#include "kernels/packed_weight.h"

#include <algorithm>

#include "base/bf16.h"
#include "base/check.h"
#include "base/view.h"

namespace causeway {
namespace {

// Below this k, 32 runs would be shorter than 128 columns, and adding them up would cost more than
// 5 % of the product.
constexpr int64_t kShortK = 4096;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

int64_t PackedBytes(DType type, int64_t n, int64_t k) {
  // The last panel is padded to the granule only.
  const int64_t columns = n / kPanel * kPanel + RoundUp(n % kPanel, kPanelGranule);
  return columns * RoundUp(k, PackGroup(type)) * SizeOf(type);
}

int32_t SegmentsFor(DType type, int64_t k) {
  if (type == DType::kI8) return 1;  // int32 sums are exact in any order
  // fp8 sums as bf16 does.
  const int64_t group = PackGroup(InputType(type));
  int32_t segments = k >= kShortK ? 32 : 16;
  // Each run must be whole groups.
  while (k % (segments * group) != 0 && segments > 1) segments /= 2;
  return segments;
}

Weight::Weight(DType type, int64_t n, int64_t k, int32_t segments, const Fp8Blocks& blocks,
               HugeMemory* memory)
    : type_(type), n_(n), k_(k), segments_(segments), fp8_blocks_(blocks) {
  if (memory == nullptr) {
    own_ = Buffer(PackedBytes(type, n, k));
    packed_ = own_.data();
  } else {
    packed_ = memory->Take(PackedBytes(type, n, k));
  }
  CHECK(n > 0 && k > 0, n, "x", k);
  CHECK(segments >= 1 && segments <= 32 && (segments & (segments - 1)) == 0, segments);
  CHECK(type == DType::kI8 || k % segments == 0, k, " in ", segments, " segments");
  CHECK(type != DType::kBf16 || k % (2 * segments) == 0, "bf16 products need an even k, not ", k,
        " in ", segments, " segments");
  if (type == DType::kF8) {
    CHECK(k % (4 * segments) == 0 && (segments == 1 || k / segments <= kFp8Run),
          "fp8 products need runs of a multiple of 4 and up to ", kFp8Run, " columns, not ", k,
          " in ", segments, " segments");
    CHECK(blocks.columns > 0 && blocks.columns % 4 == 0 && blocks.offset >= 0 &&
              blocks.offset < blocks.columns && blocks.offset % 4 == 0,
          "fp8 blocks of ", blocks.columns, " from ", blocks.offset);
    scale_.resize(static_cast<size_t>(panels() * this->blocks()));
  }
  if (type == DType::kI8) {
    scale_.resize(static_cast<size_t>(n));
    sum_.resize(static_cast<size_t>(n));
  }
}

int64_t Weight::bytes() const {
  return PackedBytes(type_, n_, k_) + 4 * static_cast<int64_t>(scale_.size() + sum_.size());
}

int64_t Weight::Index(int64_t j, int64_t i) const {
  const int64_t group = PackGroup(type_);
  const int64_t panel = j / kPanel;
  const int64_t left = n_ - panel * kPanel;
  const int64_t width = left >= kPanel ? kPanel : RoundUp(left, kPanelGranule);
  const int64_t at = panel * kPanel * RoundUp(k_, group) + (i / group) * width * group;
  if (type_ == DType::kF8) return at + j % kPanel / 4 * 16 + i % 4 / 2 * 8 + j % 4 * 2 + i % 2;
  return at + j % kPanel * group + i % group;
}

void Weight::PackRows(int64_t begin, int64_t count, const float* rows, int64_t stride) {
  CHECK(type_ == InputType(type_) && type_ != DType::kI8 && begin >= 0 && begin + count <= n_,
        begin, " + ", count);
  for (int64_t j = 0; j < count; ++j) {
    const float* row = rows + j * stride;
    const int64_t base = Index(begin + j, 0);
    const int64_t group = PackGroup(type_);
    // Index once per row: between groups the place moves by a constant step.
    const int64_t step = k_ > group ? Index(begin + j, group) - base : 0;
    for (int64_t i = 0; i < k_; ++i) {
      const int64_t at = base + i / group * step + i % group;
      if (type_ == DType::kF32) {
        static_cast<float*>(packed_)[at] = row[i];
      } else {
        static_cast<Bf16*>(packed_)[at] = ToBf16(row[i]);
      }
    }
  }
}

void Weight::PackRows(int64_t begin, int64_t count, const int8_t* rows, int64_t stride,
                      const float* scale) {
  CHECK(type_ == DType::kI8 && begin >= 0 && begin + count <= n_, begin, " + ", count);
  for (int64_t j = 0; j < count; ++j) {
    // The sum corrects for the 128 that kernels add to make an operand unsigned.
    int32_t sum = 0;
    for (int64_t i = 0; i < k_; ++i) {
      static_cast<int8_t*>(packed_)[Index(begin + j, i)] = rows[j * stride + i];
      sum += rows[j * stride + i];
    }
    scale_[static_cast<size_t>(begin + j)] = scale[j];
    sum_[static_cast<size_t>(begin + j)] = sum;
  }
}

void Weight::PackRows(int64_t begin, int64_t count, const E4m3* rows, int64_t stride,
                      const float* scale) {
  const int64_t panel = begin / kPanel;
  CHECK(type_ == DType::kF8 && begin >= 0 && begin + count <= std::min(n_, (panel + 1) * kPanel),
        begin, " + ", count);
  std::copy_n(scale, blocks(), scale_.begin() + panel * blocks());
  const auto plain = [](E4m3 code) -> E4m3 { return code == 0xff ? 0x7f : code; };
  for (int64_t j = 0; j < count; ++j) {
    const E4m3* row = rows + j * stride;
    E4m3* to = static_cast<E4m3*>(packed_) + Index(begin + j, 0);
    const int64_t step = k_ > 4 ? Index(begin + j, 4) - Index(begin + j, 0) : 0;
    // A group of 4 as two pairs, 8 apart.
    for (int64_t i = 0; i < k_; i += 4, to += step) {
      to[0] = plain(row[i]);
      to[1] = plain(row[i + 1]);
      to[8] = plain(row[i + 2]);
      to[9] = plain(row[i + 3]);
    }
  }
}

int32_t Weight::SumOf(int64_t j, int64_t begin, int64_t count) const {
  CHECK(type_ == DType::kI8 && begin >= 0 && begin + count <= k_, begin, " + ", count);
  int32_t sum = 0;
  for (int64_t i = begin; i < begin + count; ++i) sum += static_cast<int8_t*>(packed_)[Index(j, i)];
  return sum;
}

float Weight::At(int64_t j, int64_t i) const {
  const int64_t at = Index(j, i);
  switch (type_) {
    case DType::kF32:
      return static_cast<float*>(packed_)[at];
    case DType::kBf16:
      return FromBf16(static_cast<Bf16*>(packed_)[at]);
    case DType::kI8:
      return static_cast<int8_t*>(packed_)[at];
    case DType::kF8: {
      const int64_t block = (fp8_blocks_.offset + i) / fp8_blocks_.columns;
      const float scale = scale_[static_cast<size_t>(j / kPanel * blocks() + block)];
      return FromBf16(ToBf16(FromE4m3(static_cast<E4m3*>(packed_)[at]) * scale));
    }
  }
  return 0.0f;
}

}  // namespace causeway
