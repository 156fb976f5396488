// causeway inspect: what a checkpoint holds, and what each rank of a layout holds of it.
#include <cstdio>
#include <map>

#include "app/command.h"
#include "app/flags.h"
#include "app/report.h"
#include "cache/kv_cache.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tensor_names.h"

namespace causeway {
namespace {

struct InspectFlags {
  ModelFlags model;
  bool tensors = false;
  bool json = false;
};

// What a tensor belongs to, by its name.
std::string PartOf(const std::string& name, const ModelConfig& config) {
  const std::string mtp = Text("model.layers.", config.num_hidden_layers, ".");
  if (name.starts_with(mtp)) return "mtp";
  if (name.find(".mlp.experts.") != std::string::npos) return "experts";
  if (name.find(".shared_experts.") != std::string::npos) return "shared experts";
  if (name.find(".indexer.") != std::string::npos) return "indexer";
  if (name.find(".self_attn.") != std::string::npos) return "attention";
  if (name.find(".mlp.gate.") != std::string::npos) return "router";
  if (name.find(".mlp.") != std::string::npos) return "dense mlp";
  if (name.starts_with("lm_head") || name.starts_with("model.embed")) return "embedding and head";
  return "norms";
}

struct Part {
  int64_t tensors = 0;
  int64_t parameters = 0;
  int64_t stored_bytes = 0;
  int64_t packed_bytes = 0;  // in the chosen mode
};

Status RunInspect(const InspectFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const HostOptions options, flags.model.ToHostOptions());
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(options.model_path));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(options.model_path));
  for (const TensorSpec& spec : RequiredTensors(config)) {
    CAUSEWAY_RETURN_IF_ERROR(checkpoint->Find(spec.name, spec.shape).status());
  }
  std::map<std::string, Part> parts;
  std::map<std::string, int64_t> dtypes;
  int64_t parameters = 0;
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    Part& part = parts[PartOf(name, config)];
    const bool scale = name.ends_with("_scale") || name.ends_with("_scale_inv");
    ++part.tensors;
    part.stored_bytes += tensor.bytes;
    dtypes[NameOf(tensor.type)] += tensor.bytes;
    if (scale) continue;
    part.parameters += tensor.elements();
    parameters += tensor.elements();
    const bool keeps_int8 = tensor.type == StoredType::kI8 && options.dtype == DType::kBf16;
    part.packed_bytes += tensor.elements() * (keeps_int8 ? 1 : SizeOf(options.dtype));
  }
  const Layout& layout = options.ranks.layout;
  const KvShape kv{.layers = config.num_hidden_layers,
                   .latent_dim = config.latent_dim(),
                   .index_dim = config.index_head_dim,
                   .type = options.dtype};
  int64_t weights = 0;
  for (const auto& [name, part] : parts) {
    if (name != "mtp") weights += part.packed_bytes;
  }
  if (flags.json) {
    nlohmann::json report = {{"model", options.model_path},
                             {"model_type", config.model_type},
                             {"parameters", parameters},
                             {"stored_bytes", checkpoint->bytes()},
                             {"dtypes", dtypes},
                             {"layout", layout.ToString()},
                             {"kv_bytes_per_token", kv.BytesPerToken()},
                             {"host_weight_bytes", weights}};
    for (const auto& [name, part] : parts) {
      report["parts"][name] = {{"tensors", part.tensors},
                               {"parameters", part.parameters},
                               {"stored_bytes", part.stored_bytes},
                               {"packed_bytes", part.packed_bytes}};
    }
    for (int rank = 0; rank < layout.world(); ++rank) {
      report["ranks"].push_back(
          {{"rank", rank}, {"cp", rank}, {"weight_bytes", weights}, {"shared", true}});
    }
    std::printf("%s\n", report.dump().c_str());
    return Status();
  }
  std::printf("%s: %s, %lld layers (%lld dense first), hidden %lld, %lld heads, %lld experts\n",
              options.model_path.c_str(), config.model_type.c_str(),
              static_cast<long long>(config.num_hidden_layers),
              static_cast<long long>(config.first_k_dense_replace),
              static_cast<long long>(config.hidden_size),
              static_cast<long long>(config.num_attention_heads),
              static_cast<long long>(config.n_routed_experts));
  std::printf("%.1f M parameters in %zu tensors, %s stored (",
              static_cast<double>(parameters) * 1e-6, checkpoint->tensors().size(),
              HumanBytes(static_cast<double>(checkpoint->bytes())).c_str());
  const char* separator = "";
  for (const auto& [type, bytes] : dtypes) {
    std::printf("%s%s %s", separator, type.c_str(), HumanBytes(static_cast<double>(bytes)).c_str());
    separator = ", ";
  }
  std::printf(")\n\n%-20s %8s %14s %12s %12s\n", "part", "tensors", "parameters", "stored",
              NameOf(options.dtype));
  for (const auto& [name, part] : parts) {
    std::printf("%-20s %8lld %14lld %12s %12s\n", name.c_str(),
                static_cast<long long>(part.tensors), static_cast<long long>(part.parameters),
                HumanBytes(static_cast<double>(part.stored_bytes)).c_str(),
                HumanBytes(static_cast<double>(part.packed_bytes)).c_str());
  }
  std::printf(
      "\nlayout %s: the ranks of a host share one packed copy of the weights (%s) and one\n"
      "KV cache (%s a token, %s for 65536 tokens)\n",
      layout.ToString().c_str(), HumanBytes(static_cast<double>(weights)).c_str(),
      HumanBytes(static_cast<double>(kv.BytesPerToken())).c_str(),
      HumanBytes(static_cast<double>(kv.BytesPerToken()) * 65536).c_str());
  for (int rank = 0; rank < layout.world(); ++rank) {
    std::printf(
        "rank %d: cp %d; attention, experts, embeddings: %s shared; about 1/%d of the "
        "tokens of a prefill\n",
        rank, rank, HumanBytes(static_cast<double>(weights)).c_str(), layout.cp);
  }
  if (flags.tensors) {
    std::printf("\n");
    for (const auto& [name, tensor] : checkpoint->tensors()) {
      std::string shape;
      for (int64_t d : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(d);
      std::printf("%-72s %-8s [%s]\n", name.c_str(), NameOf(tensor.type), shape.c_str());
    }
  }
  return Status();
}

}  // namespace

void AddInspect(CLI::App& app, Run& run) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = app.add_subcommand(
      "inspect", "What a checkpoint holds, and what each rank of a layout holds of it");
  flags->model.Register(*command);
  command->add_flag("--tensors", flags->tensors, "List every tensor");
  RegisterJson(*command, flags->json);
  command->callback([flags, &run] { run = [flags] { return RunInspect(*flags); }; });
}

}  // namespace causeway
