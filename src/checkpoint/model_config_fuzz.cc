// libFuzzer entry: any bytes as a config.json give an error that names the file, or a configuration
// whose derived sizes hold what model_config.h promises.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "checkpoint/model_config.h"
#include "checkpoint/tensor_names.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using causeway::ModelConfig;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto parsed = ModelConfig::Parse(text, "fuzz.json");
  if (!parsed.ok()) {
    CHECK(parsed.status().message().starts_with("fuzz.json: "), parsed.status().message());
    return 0;
  }
  const ModelConfig& c = *parsed;
  CHECK(c.hidden_size > 0 && c.vocab_size > 0 && c.latent_dim() > 0 && c.qk_head_dim() > 0,
        c.hidden_size);
  CHECK(!c.eos_token_ids.empty(), c.vocab_size);
  CHECK(c.n_routed_experts % c.n_group == 0 && c.topk_group <= c.n_group, c.n_group);
  CHECK(!c.sparse() || (c.index_head_dim >= c.qk_rope_head_dim && c.q_lora_rank > 0), c.index_topk);
  CHECK(c.rope_theta > 1.0 && c.yarn.factor >= 1.0 && c.yarn.beta_fast >= c.yarn.beta_slow,
        c.rope_theta);
  // Long lists take long to make, and hold nothing new.
  if ((c.num_hidden_layers + c.num_nextn_predict_layers) * (c.n_routed_experts + 1) > 1000)
    return 0;
  for (const auto& spec : causeway::RequiredTensors(c)) {
    int64_t bytes = 4;
    for (const int64_t size_of : spec.shape)
      CHECK(size_of > 0 && !__builtin_mul_overflow(bytes, size_of, &bytes), spec.name);
  }
  return 0;
}
