// causeway inspect: what a checkpoint holds, and what each rank of a layout holds of it.
#include <cstdio>
#include <map>

#include "app/command.h"
#include "app/flags.h"
#include "app/report.h"
#include "cache/kv_cache.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tensor_names.h"
#include "model/scratch.h"
#include "model/weight_sizes.h"

namespace causeway {
namespace {

constexpr int64_t kLongPrompt = 65536;  // whose KV and scratch memory are shown

struct InspectFlags {
  ModelFlags model;
  bool tensors = false;
  bool json = false;
};

// What a tensor belongs to, by its name.
// In this order: an expert's name also holds ".mlp.", and an MTP layer has parts of all kinds.
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

// What a checkpoint holds, by part and by stored type.
struct Contents {
  std::map<std::string, Part> parts;
  std::map<std::string, int64_t> dtypes;
  int64_t parameters = 0;

  static Contents Of(const Checkpoint& checkpoint, const ModelConfig& config, DType mode);
};

Contents Contents::Of(const Checkpoint& checkpoint, const ModelConfig& config, DType mode) {
  Contents out;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    Part& part = out.parts[PartOf(name, config)];
    // Scales are bytes of the checkpoint, but no parameters.
    const bool scale = name.ends_with("_scale") || name.ends_with("_scale_inv");
    ++part.tensors;
    part.stored_bytes += tensor.bytes;
    out.dtypes[NameOf(tensor.type)] += tensor.bytes;
    if (scale) continue;
    part.parameters += tensor.elements();
    out.parameters += tensor.elements();
    // The bf16 mode keeps int8 and fp8 weights as they are (but those of kv_b_proj, and fp8 that a
    // layout cuts within panels); all else is packed in the mode's own type.
    const bool one_byte = tensor.type == StoredType::kI8 || tensor.type == StoredType::kF8E4m3;
    const bool keeps = one_byte && mode == DType::kBf16 && !name.ends_with(".kv_b_proj.weight");
    part.packed_bytes += tensor.elements() * (keeps ? 1 : SizeOf(mode));
  }
  return out;
}

// The ranks of a layout: where each stands, and what it uses of the model.
class LayoutReport {
 public:
  LayoutReport(const ModelConfig& config, const Layout& layout, const WeightSizes& sizes,
               int64_t kv_bytes, const ScratchBytes& scratch)
      : config_(config), layout_(layout), sizes_(sizes), kv_bytes_(kv_bytes), scratch_(scratch) {}

  void AddTo(nlohmann::json& report) const;
  void Print() const;

 private:
  WeightBytes OfHost(int host) const {
    return sizes_.BytesOf(WeightShare::Of(config_, layout_, host));
  }
  WeightBytes OfRank(int rank) const {
    return sizes_.BytesOf(WeightShare::OfRank(config_, layout_, rank),
                          WeightShare::Of(config_, layout_, layout_.HostOf(rank)));
  }
  Range ExpertsOf(int rank) const {
    return ShareOf(config_.n_routed_experts, layout_.ExpertPartOf(rank), layout_.ep);
  }

  const ModelConfig& config_;
  const Layout& layout_;
  const WeightSizes& sizes_;
  const int64_t kv_bytes_;      // of a token
  const ScratchBytes scratch_;  // bound for a prompt of kLongPrompt tokens
};

nlohmann::json JsonOf(const WeightBytes& bytes) {
  return {{"attention", bytes.attention}, {"dense", bytes.dense},        {"shared", bytes.shared},
          {"experts", bytes.experts},     {"lm_head", bytes.vocabulary}, {"total", bytes.total()}};
}

void LayoutReport::AddTo(nlohmann::json& report) const {
  report["layout"] = layout_.ToString();
  report["kv_bytes_per_token"] = kv_bytes_;
  report["embedding_bytes"] = sizes_.embedding_bytes();
  report["scratch_bound_per_rank"] = {
      {"prompt_tokens", kLongPrompt},       {"arena", scratch_.arena},
      {"workers", scratch_.workers},        {"tensor_sums", scratch_.sums},
      {"expert_outputs", scratch_.experts}, {"total", scratch_.total()}};
  for (int host = 0; host < layout_.hosts; ++host) {
    report["hosts"].push_back({{"host", host},
                               {"first_rank", host * layout_.ranks_per_host()},
                               {"ranks", layout_.ranks_per_host()},
                               {"kv_bytes_per_token", kv_bytes_},
                               {"packed_bytes", JsonOf(OfHost(host))}});
  }
  for (int rank = 0; rank < layout_.world(); ++rank) {
    const RankPlace place = layout_.PlaceOf(rank);
    const Range experts = ExpertsOf(rank);
    report["ranks"].push_back({{"rank", rank},
                               {"host", layout_.HostOf(rank)},
                               {"dp", place.dp},
                               {"cp", place.cp},
                               {"tp", place.tp},
                               {"ep", layout_.ExpertPartOf(rank)},
                               {"experts", {experts.begin, experts.end}},
                               {"used_bytes", JsonOf(OfRank(rank))}});
  }
}

std::string Human(int64_t bytes) { return HumanBytes(static_cast<double>(bytes)); }

void PrintBytes(const WeightBytes& bytes) {
  for (int64_t part : {bytes.attention, bytes.dense, bytes.shared, bytes.experts, bytes.vocabulary,
                       bytes.total()}) {
    std::printf(" %10s", Human(part).c_str());
  }
  std::printf("\n");
}

constexpr char kByteColumns[] =
    "  attention      dense     shared    experts    lm_head      total";

void LayoutReport::Print() const {
  std::printf("\nlayout %s: %d ranks\n", layout_.ToString().c_str(), layout_.world());
  std::printf("\nwhat each rank uses\n%4s %4s %3s %3s %3s %3s %9s %s\n", "rank", "host", "dp", "cp",
              "tp", "ep", "experts", kByteColumns);
  for (int rank = 0; rank < layout_.world(); ++rank) {
    const RankPlace place = layout_.PlaceOf(rank);
    const Range experts = ExpertsOf(rank);
    const std::string ids =
        experts.size() == 0 ? "none" : Text(experts.begin, "-", experts.end - 1);
    std::printf("%4d %4d %3d %3d %3d %3d %9s ", rank, layout_.HostOf(rank), place.dp, place.cp,
                place.tp, layout_.ExpertPartOf(rank), ids.c_str());
    PrintBytes(OfRank(rank));
  }
  std::printf("\nwhat each host packs, once for its ranks\n%4s %9s %20s %s\n", "host", "ranks", "",
              kByteColumns);
  const int ranks = layout_.ranks_per_host();
  for (int host = 0; host < layout_.hosts; ++host) {
    std::printf("%4d %9s %20s ", host, Text(host * ranks, "-", (host + 1) * ranks - 1).c_str(), "");
    PrintBytes(OfHost(host));
  }
  std::printf(
      "\nand on each host the KV cache, %s a token (%s for %lld tokens), and the embedding in "
      "the\n"
      "mapped file, %s\n",
      Human(kv_bytes_).c_str(), Human(kv_bytes_ * kLongPrompt).c_str(),
      static_cast<long long>(kLongPrompt), Human(sizes_.embedding_bytes()).c_str());
  std::printf(
      "\nscratch memory of a rank in prefill of %lld tokens: at most %s\n"
      "  residual stream and largest pass %s, workers %s, sums over a TP group %s, outputs of "
      "experts %s\n",
      static_cast<long long>(kLongPrompt), Human(scratch_.total()).c_str(),
      Human(scratch_.arena).c_str(), Human(scratch_.workers).c_str(), Human(scratch_.sums).c_str(),
      Human(scratch_.experts).c_str());
}

void PrintContents(const Checkpoint& checkpoint, const ModelConfig& config, DType mode,
                   const std::string& path, const Contents& contents) {
  std::printf("%s: %s, %lld layers (%lld dense first), hidden %lld, %lld heads, %lld experts\n",
              path.c_str(), config.model_type.c_str(),
              static_cast<long long>(config.num_hidden_layers),
              static_cast<long long>(config.first_k_dense_replace),
              static_cast<long long>(config.hidden_size),
              static_cast<long long>(config.num_attention_heads),
              static_cast<long long>(config.n_routed_experts));
  std::printf("%.1f M parameters in %zu tensors, %s stored (",
              static_cast<double>(contents.parameters) * 1e-6, checkpoint.tensors().size(),
              Human(checkpoint.bytes()).c_str());
  const char* separator = "";
  for (const auto& [type, bytes] : contents.dtypes) {
    std::printf("%s%s %s", separator, type.c_str(), Human(bytes).c_str());
    separator = ", ";
  }
  std::printf(")\n\n%-20s %8s %14s %12s %12s\n", "part", "tensors", "parameters", "stored",
              NameOf(mode));
  for (const auto& [name, part] : contents.parts) {
    std::printf("%-20s %8lld %14lld %12s %12s\n", name.c_str(),
                static_cast<long long>(part.tensors), static_cast<long long>(part.parameters),
                Human(part.stored_bytes).c_str(), Human(part.packed_bytes).c_str());
  }
}

void PrintTensors(const Checkpoint& checkpoint) {
  std::printf("\n");
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    std::string shape;
    for (int64_t d : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(d);
    std::printf("%-72s %-8s [%s]\n", name.c_str(), NameOf(tensor.type), shape.c_str());
  }
}

Status RunInspect(const InspectFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const HostOptions options, flags.model.ToHostOptions());
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(options.model_path));
  const Layout& layout = options.ranks.layout;
  CAUSEWAY_RETURN_IF_ERROR(CheckLayout(config, options.dtype, layout));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(options.model_path));
  // Every tensor is there with its shape, though no weight is loaded.
  for (const TensorSpec& spec : RequiredTensors(config)) {
    CAUSEWAY_RETURN_IF_ERROR(checkpoint->Find(spec.name, spec.shape).status());
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const WeightSizes sizes,
                            WeightSizes::Of(*checkpoint, config, options.dtype));
  const Contents contents = Contents::Of(*checkpoint, config, options.dtype);
  const KvShape kv{.layers = config.num_hidden_layers,
                   .latent_dim = config.latent_dim(),
                   .index_dim = config.index_head_dim,
                   .type = options.dtype,
                   .int8_index = options.int8_index,
                   .int8_kv = options.int8_kv};
  const LayoutReport ranks(config, layout, sizes, kv.BytesPerToken(),
                           PrefillScratchBound(config, layout, options.dtype, options.int8_index,
                                               kLongPrompt, flags.model.chunked_prefill_size));
  if (flags.json) {
    nlohmann::json report = {{"model", options.model_path},
                             {"model_type", config.model_type},
                             {"parameters", contents.parameters},
                             {"stored_bytes", checkpoint->bytes()},
                             {"dtypes", contents.dtypes}};
    for (const auto& [name, part] : contents.parts) {
      report["parts"][name] = {{"tensors", part.tensors},
                               {"parameters", part.parameters},
                               {"stored_bytes", part.stored_bytes},
                               {"packed_bytes", part.packed_bytes}};
    }
    ranks.AddTo(report);
    std::printf("%s\n", report.dump().c_str());
    return Status();
  }
  PrintContents(*checkpoint, config, options.dtype, options.model_path, contents);
  ranks.Print();
  if (flags.tensors) PrintTensors(*checkpoint);
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
