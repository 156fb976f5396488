#include "app/onednn_product.h"

namespace causeway {

struct OneDnnProduct::State {};

std::unique_ptr<OneDnnProduct> OneDnnProduct::Make(DType, int64_t, int64_t, int64_t) {
  return nullptr;
}
OneDnnProduct::OneDnnProduct(std::unique_ptr<State> state) : state_(std::move(state)) {}
OneDnnProduct::~OneDnnProduct() = default;
void OneDnnProduct::Run() {}

}  // namespace causeway
