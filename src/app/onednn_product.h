// The same product by oneDNN, to measure ours against. Never part of a result of the product.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/op_table.h"

namespace causeway {

// y [m, n] f32 = x [m, k] W^T over weights packed beforehand as oneDNN likes them: bf16 or int8.
class OneDnnProduct {
 public:
  // Null if this build has no oneDNN, or its oneDNN no such product here.
  static std::unique_ptr<OneDnnProduct> Make(DType type, int64_t m, int64_t n, int64_t k);
  ~OneDnnProduct();

  void Run();

 private:
  struct State;
  explicit OneDnnProduct(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace causeway
