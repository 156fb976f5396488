#include "app/compat_flags.h"

#include "base/check.h"

namespace causeway {
namespace {

constexpr FlagWithoutEffect kAccepted[] = {
    {"--trust-remote-code", false, "no code of a checkpoint is ever run"},
    {"--disable-cuda-graph", false, "there are no CUDA graphs"},
    {"--disable-cuda-graph-padding", false, "there are no CUDA graphs"},
    {"--cuda-graph-max-bs", true, "there are no CUDA graphs"},
    {"--quantization", true, "the checkpoint says how it is quantised"},
    {"--disable-shared-experts-fusion", false, "shared experts are never among the others"},
    {"--enable-deepep-moe", false, "--moe-a2a-backend chooses"},
    {"--enable-ep-moe", false, "--ep-size above 1 says so"},
    {"--base-gpu-id", true, "there are no GPUs; ranks are pinned to CPUs"},
    {"--gpu-id-step", true, "there are no GPUs; ranks are pinned to CPUs"},
    {"--disable-custom-all-reduce", false, "there is one"},
    {"--load-balance-method", true, "a request goes to the group with the fewest tokens ahead"},
    {"--prefill-round-robin-balance", false,
     "a request goes to the group with the fewest tokens ahead"},
    {"--decode-log-interval", true, "a line is logged for each request"},
    {"--log-level-http", true, "--log-level chooses"},
    {"--attention-backend", true, "--isa chooses the kernels"},
    {"--prefill-attention-backend", true, "--isa chooses the kernels"},
    {"--decode-attention-backend", true, "--isa chooses the kernels"},
    {"--dsa-prefill-backend", true, "--isa chooses the kernels"},
    {"--dsa-decode-backend", true, "--isa chooses the kernels"},
    {"--nsa-prefill-backend", true, "--isa chooses the kernels"},
    {"--nsa-decode-backend", true, "--isa chooses the kernels"},
    {"--moe-runner-backend", true, "--isa chooses the kernels"},
    {"--fp8-gemm-backend", true, "--isa chooses the kernels"},
    {"--sampling-backend", true, "there is one sampler"},
    {"--grammar-backend", true, "there is one"},
    {"--enable-torch-compile", false, "there is no PyTorch"},
    {"--skip-server-warmup", false, "the server needs no warm-up"},
    {"--tokenizer-worker-num", true, "one thread tokenises"},
    {"--tokenizer-mode", true, "there is one tokenizer"},
    {"--detokenizer-worker-num", true, "one thread detokenises"},
    {"--enable-mixed-chunk", false, "prompts and answers always share steps"},
    {"--enable-prefill-cp", false, "--cp-size above 1 says so"},
    {"--enable-dsa-prefill-context-parallel", false, "--cp-size above 1 says so"},
    {"--enable-nsa-prefill-context-parallel", false, "--cp-size above 1 says so"},
    {"--cp-strategy", true, "answers are the same for every one; --cp-partition chooses"},
    {"--dsa-prefill-cp-mode", true, "answers are the same for every one; --cp-partition chooses"},
    {"--nsa-prefill-cp-mode", true, "answers are the same for every one; --cp-partition chooses"},
    {"--enable-dp-attention", false, "--dp-size above 1 says so"},
    {"--enable-dp-lm-head", false, "all ranks always share the vocabulary"},
    {"--moe-dense-tp-size", true, "dense layers follow the layout of attention"},
    {"--disaggregation-decode-polling-interval", true, "nothing is polled"},
    {"--disaggregation-decode-extra-slots", true, "slots take no memory"},
    {"--enable-cache-report", false, "usage always says how many tokens were cached"},
};

}  // namespace

void CompatFlags::Register(CLI::App& app) {
  app.add_option("--device", device, "cpu, which auto means; this build has no other")
      ->capture_default_str();
  app.add_option("--page-size", page_size, "Tokens of a page of the KV cache; only 64")
      ->capture_default_str();
  app.add_option("--load-format", load_format, "safetensors, which auto means; no other")
      ->capture_default_str();
  app.add_option("--pp-size,--pipeline-parallel-size", pp_size, "Pipeline stages; only 1")
      ->capture_default_str();
  app.add_option("--dcp-size", dcp_size, "Decode-context-parallel ranks; only 1")
      ->capture_default_str();
  others_.Register(app, kAccepted);
}

Status CompatFlags::Check() const {
  if (device != "auto" && device != "cpu") {
    return InvalidArgument(Text("--device is '", device, "'; this build has: cpu"));
  }
  if (page_size != 64) {
    return InvalidArgument(Text("--page-size is ", page_size,
                                "; expected 64: kernels, cache and transfer share pages of that "
                                "many tokens"));
  }
  if (load_format != "auto" && load_format != "safetensors") {
    return InvalidArgument(Text("--load-format is '", load_format,
                                "'; expected auto or safetensors (for random weights see "
                                "causeway make-model)"));
  }
  if (pp_size != 1) {
    return InvalidArgument(Text("--pp-size is ", pp_size,
                                "; expected 1: layers are not spread over hosts, --tp, --cp-size, "
                                "--dp-size and --ep-size are"));
  }
  if (dcp_size != 1) {
    return InvalidArgument(Text("--dcp-size is ", dcp_size,
                                "; expected 1: ranks of a host share one KV cache already"));
  }
  return Status();
}

}  // namespace causeway
