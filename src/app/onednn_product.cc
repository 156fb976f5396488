// Weights are packed as oneDNN chooses before anything is timed, as ours are too.
#include "app/onednn_product.h"

#include <dlfcn.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

namespace causeway {
namespace {

// The processor time of the calling thread is what is measured, so oneDNN must not use others.
// Through the loader, because nothing else here needs OpenMP.
void KeepToOneThread() {
  using SetThreads = void (*)(int);
  if (void* found = dlsym(RTLD_DEFAULT, "omp_set_num_threads")) {
    reinterpret_cast<SetThreads>(found)(1);
  }
}

}  // namespace

struct OneDnnProduct::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::matmul product;
  std::unordered_map<int, dnnl::memory> arguments;
};

std::unique_ptr<OneDnnProduct> OneDnnProduct::Make(DType type, int64_t m, int64_t n, int64_t k) {
  using Memory = dnnl::memory;
  // Only the types that the kernels are compared in.
  if (type == DType::kF32) return nullptr;
  KeepToOneThread();
  const auto in = type == DType::kBf16 ? Memory::data_type::bf16 : Memory::data_type::s8;
  try {
    auto state = std::make_unique<State>();
    const Memory::desc x({m, k}, in, Memory::format_tag::ab);
    const Memory::desc w({k, n}, in, Memory::format_tag::any);
    const Memory::desc y({m, n}, Memory::data_type::f32, Memory::format_tag::ab);
    const dnnl::matmul::primitive_desc chosen({x, w, y}, state->engine);
    state->product = dnnl::matmul(chosen);
    for (const auto& [argument, desc] : {std::pair{DNNL_ARG_SRC, x},
                                         {DNNL_ARG_WEIGHTS, chosen.weights_desc()},
                                         {DNNL_ARG_DST, y}}) {
      Memory memory(desc, state->engine);
      __builtin_memset(memory.get_data_handle(), 0, desc.get_size());
      state->arguments.emplace(argument, memory);
    }
    return std::unique_ptr<OneDnnProduct>(new OneDnnProduct(std::move(state)));
  } catch (const dnnl::error&) {
    // No such product on this machine, or in this version.
    return nullptr;
  }
}

OneDnnProduct::OneDnnProduct(std::unique_ptr<State> state) : state_(std::move(state)) {}
OneDnnProduct::~OneDnnProduct() = default;

void OneDnnProduct::Run() {
  state_->product.execute(state_->stream, state_->arguments);
  state_->stream.wait();
}

}  // namespace causeway
