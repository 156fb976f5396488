// Views: pointer, shape and strides of memory that somebody else owns.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "base/bf16.h"
#include "base/check.h"
#include "base/dtype.h"

namespace causeway {

// A strided view of T with a fixed number of dimensions. The last dimension is contiguous.
template <typename T, int kRank>
class View {
 public:
  View() = default;
  // A dense view: row-major, no gaps.
  View(T* data, std::array<int64_t, kRank> shape) : data_(data), shape_(shape) {
    int64_t stride = 1;
    for (int i = kRank - 1; i >= 0; --i) {
      stride_[static_cast<size_t>(i)] = stride;
      stride *= shape[static_cast<size_t>(i)];
    }
  }
  View(T* data, std::array<int64_t, kRank> shape, std::array<int64_t, kRank> stride)
      : data_(data), shape_(shape), stride_(stride) {
    CHECK(stride[kRank - 1] == 1, "the last dimension must be contiguous");
  }
  operator View<const T, kRank>() const {  // NOLINT: implicit by design
    return View<const T, kRank>(data_, shape_, stride_);
  }

  T* data() const { return data_; }
  int64_t dim(int i) const { return shape_[static_cast<size_t>(i)]; }
  int64_t stride(int i) const { return stride_[static_cast<size_t>(i)]; }
  int64_t size() const {
    int64_t total = 1;
    for (int64_t d : shape_) total *= d;
    return total;
  }

  // Element for a full index, sub-view pointer for a leading index.
  template <typename... Index>
  T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == kRank);
    const int64_t indices[] = {static_cast<int64_t>(index)...};
    int64_t offset = 0;
    for (int i = 0; i < kRank; ++i) offset += indices[i] * stride_[static_cast<size_t>(i)];
    return data_[offset];
  }
  T* row(int64_t i) const { return data_ + i * stride_[0]; }

  // The rows [begin, end) of the first dimension.
  View Slice(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= shape_[0], begin, " ", end, " of ", shape_[0]);
    View out = *this;
    out.data_ = data_ + begin * stride_[0];
    out.shape_[0] = end - begin;
    return out;
  }

 private:
  T* data_ = nullptr;
  std::array<int64_t, kRank> shape_{};
  std::array<int64_t, kRank> stride_{};
};

inline int64_t SizeOf(DType type) { return type == DType::kF32 ? 4 : type == DType::kBf16 ? 2 : 1; }
inline const char* NameOf(DType type) {
  return type == DType::kF32    ? "float32"
         : type == DType::kBf16 ? "bfloat16"
         : type == DType::kI8   ? "int8"
                                : "fp8";
}

// A matrix [rows, cols] whose element type is known at run time only: an activation.
struct Rows {
  void* data = nullptr;
  DType type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next

  static Rows Dense(void* data, DType type, int64_t rows, int64_t cols) {
    return {data, type, rows, cols, cols};
  }
  static Rows Of(View<float, 2> view) {
    return {view.data(), DType::kF32, view.dim(0), view.dim(1), view.stride(0)};
  }
  void* row(int64_t i) const { return static_cast<char*>(data) + i * stride * SizeOf(type); }
  Rows Slice(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= rows, begin, " ", end, " of ", rows);
    return {row(begin), type, end - begin, cols, stride};
  }
  // The columns [begin, end) of every row.
  Rows Columns(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= cols, begin, " ", end, " of ", cols);
    return {static_cast<char*>(data) + begin * SizeOf(type), type, rows, end - begin, stride};
  }
};

}  // namespace causeway
