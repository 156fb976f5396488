#include "checkpoint/model_config.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/json_fields.h"
#include "checkpoint/json_text.h"
#include "checkpoint/quant_config.h"

namespace causeway {
namespace {

// Limits of single sizes: far above every release, and low enough that products of a few of them
// (rows times columns, heads times dimensions, positions times layers times latent) fit int64_t.
constexpr int64_t kMaxFileBytes = 64 << 20;  // lists of ignored modules make some files long
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxRank = 1 << 16;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxLayers = 10000;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxGroups = 256;
constexpr int64_t kMaxSharedExperts = 64;
constexpr int64_t kMaxNextnLayers = 16;
constexpr int64_t kMaxPositions = 1 << 30;
// Of the whole model: V3 has 15,104 experts in its layers and 2^39.3 parameters.
constexpr int64_t kMaxExpertsOfAllLayers = 1 << 18;
constexpr double kMaxParameters = 0x1p50;

struct Family {
  const char* model_type;
  const char* architecture;
};
constexpr Family kFamilies[] = {{"deepseek_v2", "DeepseekV2ForCausalLM"},
                                {"deepseek_v3", "DeepseekV3ForCausalLM"},
                                {"deepseek_v32", "DeepseekV32ForCausalLM"}};

std::string Listed(const char* Family::*name) {
  return Text(kFamilies[0].*name, ", ", kFamilies[1].*name, " or ", kFamilies[2].*name);
}

// From model_type, or from architectures where that is missing; both must say the same.
std::string ReadModelType(JsonFields& fields) {
  std::string type = fields.String("model_type", "");
  const std::vector<std::string> architectures = fields.Strings("architectures");
  if (architectures.size() > 1) fields.Refuse("architectures", "a list of one name");
  if (type.empty() && architectures.empty())
    fields.Refuse("model_type", Listed(&Family::model_type));
  for (const Family& family : kFamilies) {
    if (!type.empty() && type != family.model_type) continue;
    if (!architectures.empty() && architectures[0] != family.architecture) {
      if (!type.empty())
        fields.Refuse("architectures",
                      Text("[\"", family.architecture, "\"] for model_type ", type));
      continue;
    }
    return family.model_type;
  }
  if (type.empty()) fields.Refuse("architectures", Listed(&Family::architecture));
  fields.Refuse("model_type", Listed(&Family::model_type));
  return type;
}

// An even size: bf16 products read their inner dimension in pairs.
int64_t EvenSize(JsonFields& fields, const std::string& key, int64_t most,
                 std::optional<int64_t> absent = std::nullopt) {
  const int64_t size = fields.Integer(key, 2, most, absent);
  if (size % 2 != 0) fields.Refuse(key, "an even number");
  return size;
}

void ReadShape(JsonFields& fields, ModelConfig& c) {
  c.vocab_size = fields.Integer("vocab_size", 1, kMaxVocabulary);
  c.hidden_size = EvenSize(fields, "hidden_size", kMaxWidth);
  c.intermediate_size = EvenSize(fields, "intermediate_size", kMaxWidth);
  c.num_hidden_layers = fields.Integer("num_hidden_layers", 1, kMaxLayers);
  c.max_position_embeddings = fields.Integer("max_position_embeddings", 1, kMaxPositions);
  c.rms_norm_eps = fields.Number("rms_norm_eps", 1e-12, 1.0, 1e-6);
  c.tie_word_embeddings = fields.Boolean("tie_word_embeddings", false);
  c.num_nextn_predict_layers = fields.Integer("num_nextn_predict_layers", 0, kMaxNextnLayers, 0);
  if (fields.String("hidden_act", "silu") != "silu") fields.Refuse("hidden_act", "\"silu\"");
  c.torch_dtype = fields.String("torch_dtype", fields.String("dtype", ""));
}

void ReadAttention(JsonFields& fields, ModelConfig& c) {
  c.num_attention_heads = fields.Integer("num_attention_heads", 1, kMaxHeads);
  (void)fields.Integer("num_key_value_heads", 1, kMaxHeads, 1);  // means nothing in MLA
  // 0 and null both mean a plain q_proj.
  if (fields.Has("q_lora_rank") && fields.Integer("q_lora_rank", 0, kMaxRank) != 0)
    c.q_lora_rank = EvenSize(fields, "q_lora_rank", kMaxRank);
  c.kv_lora_rank = EvenSize(fields, "kv_lora_rank", kMaxRank, 512);
  c.qk_nope_head_dim = EvenSize(fields, "qk_nope_head_dim", kMaxHeadDim, 128);
  c.qk_rope_head_dim = EvenSize(fields, "qk_rope_head_dim", kMaxHeadDim, 64);
  c.v_head_dim = EvenSize(fields, "v_head_dim", kMaxHeadDim, 128);
  if (fields.Boolean("attention_bias", false))
    fields.Refuse("attention_bias", "false: biases are not supported");
  if (!fields.Boolean("rope_interleave", true))
    fields.Refuse("rope_interleave", "true: the layout of all DeepSeek releases");
}

void ReadIndexer(JsonFields& fields, ModelConfig& c) {
  c.indexer_rope_interleave = fields.Boolean("indexer_rope_interleave", false);
  const char* const keys[] = {"index_n_heads", "index_head_dim", "index_topk"};
  const bool wanted = c.model_type == "deepseek_v32";
  bool any = wanted;
  for (const char* key : keys) any = any || fields.Has(key);
  if (!any) return;
  for (const char* key : keys) {
    if (fields.Has(key)) continue;
    fields.Refuse(key, wanted ? "an integer: deepseek_v32 has sparse attention"
                              : "an integer: the three index_* sizes belong together");
  }
  c.index_n_heads = fields.Integer("index_n_heads", 1, kMaxHeads);
  c.index_head_dim = EvenSize(fields, "index_head_dim", kMaxHeadDim);
  c.index_topk = fields.Integer("index_topk", 1, kMaxWidth);
  // qk_rope_head_dim of the dimensions of an index head are rotated.
  if (c.index_head_dim < c.qk_rope_head_dim)
    fields.Refuse("index_head_dim",
                  Text("at least qk_rope_head_dim, which is ", c.qk_rope_head_dim));
  if (c.q_lora_rank == 0)
    fields.Refuse("q_lora_rank", "a rank: the indexer of sparse attention reads the query latent");
}

void ReadExperts(JsonFields& fields, ModelConfig& c) {
  // The versions differ in what a missing field means; the defaults are in docs/checkpoints.md.
  const bool v2 = c.model_type == "deepseek_v2";
  // Null says that there are none; a missing field says nothing and is demanded.
  const bool dense = fields.Contains("n_routed_experts") && !fields.Has("n_routed_experts");
  c.n_routed_experts = dense ? 0 : fields.Integer("n_routed_experts", 0, kMaxExperts);
  c.first_k_dense_replace = fields.Integer("first_k_dense_replace", 0, kMaxLayers, 0);
  c.moe_layer_freq = fields.Integer("moe_layer_freq", 1, kMaxLayers, 1);
  if (c.n_routed_experts == 0) {
    if (c.num_nextn_predict_layers > 0)
      fields.Refuse("num_nextn_predict_layers", "0 in a model without experts");
    return;
  }
  c.moe_intermediate_size = EvenSize(fields, "moe_intermediate_size", kMaxWidth);
  const bool unshared = fields.Contains("n_shared_experts") && !fields.Has("n_shared_experts");
  c.n_shared_experts = unshared ? 0 : fields.Integer("n_shared_experts", 0, kMaxSharedExperts);
  c.num_experts_per_tok = fields.Integer("num_experts_per_tok", 1, kMaxExperts);
  c.n_group = fields.Integer("n_group", 1, kMaxGroups, 1);
  c.topk_group = fields.Integer("topk_group", 1, kMaxGroups, 1);
  c.norm_topk_prob = fields.Boolean("norm_topk_prob", !v2);
  c.routed_scaling_factor = fields.Number("routed_scaling_factor", 1e-6, 1e6, 1.0);

  const std::string scoring = fields.String("scoring_func", v2 ? "softmax" : "sigmoid");
  if (scoring != "sigmoid" && scoring != "softmax")
    fields.Refuse("scoring_func", "\"sigmoid\" or \"softmax\"");
  c.scoring_func = scoring == "sigmoid" ? Scoring::kSigmoid : Scoring::kSoftmax;
  const std::string method = fields.String("topk_method", v2 ? "greedy" : "noaux_tc");
  if (method != "noaux_tc" && method != "greedy" && method != "group_limited_greedy")
    fields.Refuse("topk_method", "\"noaux_tc\", \"greedy\" or \"group_limited_greedy\"");
  c.topk_method = method == "noaux_tc" ? GateMethod::kNoAuxTc
                  : method == "greedy" ? GateMethod::kGreedy
                                       : GateMethod::kGroupLimitedGreedy;

  if (c.n_routed_experts % c.n_group != 0)
    fields.Refuse("n_group", Text("a divisor of n_routed_experts, which is ", c.n_routed_experts));
  if (c.topk_group > c.n_group)
    fields.Refuse("topk_group", Text("at most n_group, which is ", c.n_group));
  // Greedy methods choose among all experts, the others among those of the best groups.
  const int64_t choice = c.topk_method == GateMethod::kGreedy
                             ? c.n_routed_experts
                             : c.topk_group * (c.n_routed_experts / c.n_group);
  if (c.num_experts_per_tok > choice)
    fields.Refuse("num_experts_per_tok",
                  Text("at most ", choice, ", the experts that a token can choose from"));
  if ((c.num_hidden_layers + c.num_nextn_predict_layers) * c.n_routed_experts >
      kMaxExpertsOfAllLayers)
    fields.Refuse("n_routed_experts",
                  Text("at most ", kMaxExpertsOfAllLayers, " in all layers together"));
}

// What rope_scaling or rope_parameters say.
struct Rope {
  std::optional<double> theta;
  YarnConfig yarn;
  bool operator==(const Rope&) const = default;
};

// "yarn" or "default" of the field `type` or `rope_type`; files that have both must agree.
std::string ReadRopeType(JsonFields& fields, bool demanded) {
  std::string kind;
  for (const char* key : {"rope_type", "type"}) {
    if (!fields.Has(key)) continue;
    std::string name = fields.String(key);
    if (name == "deepseek_yarn") name = "yarn";
    if (name != "yarn" && name != "default")
      fields.Refuse(key, "\"yarn\" or \"default\", the kinds of RoPE that are supported");
    if (!kind.empty() && name != kind) fields.Refuse(key, Text("the same as rope_type, ", kind));
    kind = name;
  }
  if (kind.empty() && demanded) fields.Refuse("type", "\"yarn\" or \"default\"");
  return kind.empty() ? "default" : kind;
}

Rope ReadRopeObject(JsonFields fields, bool type_demanded) {
  constexpr double kHuge = 1e9;
  Rope rope;
  if (fields.Has("rope_theta")) rope.theta = fields.Number("rope_theta", 1.001, 1e12);
  if (ReadRopeType(fields, type_demanded) != "yarn") return rope;
  YarnConfig& yarn = rope.yarn;
  yarn.enabled = true;
  yarn.factor = fields.Number("factor", 1.0, 1e6);
  yarn.original_max_position_embeddings =
      fields.Number("original_max_position_embeddings", 1.0, kHuge);
  yarn.beta_fast = fields.Number("beta_fast", 1e-6, kHuge, 32.0);
  yarn.beta_slow = fields.Number("beta_slow", 1e-6, kHuge, 1.0);
  if (yarn.beta_slow > yarn.beta_fast)
    fields.Refuse("beta_slow", Text("at most beta_fast, which is ", yarn.beta_fast));
  yarn.mscale = fields.Number("mscale", 0.0, 100.0, 1.0);
  yarn.mscale_all_dim = fields.Number("mscale_all_dim", 0.0, 100.0, 0.0);
  // Two variants of YaRN that no release uses and that would change the numbers.
  if (fields.Has("attention_factor"))
    fields.Refuse("attention_factor", "nothing: it follows from mscale and mscale_all_dim");
  if (!fields.Boolean("truncate", true)) fields.Refuse("truncate", "true");
  return rope;
}

void ReadRope(JsonFields& fields, ModelConfig& c) {
  // Newer files say rope_parameters, older ones rope_scaling; some have both.
  const bool newer = fields.Has("rope_parameters");
  Rope rope;
  if (fields.Has("rope_scaling"))
    rope = ReadRopeObject(fields.Object("rope_scaling"), /*type_demanded=*/true);
  if (newer) {
    const Rope other = ReadRopeObject(fields.Object("rope_parameters"), /*type_demanded=*/false);
    if (fields.Has("rope_scaling") && other.yarn != rope.yarn)
      fields.Refuse("rope_parameters", "the same values as in rope_scaling, or one of the two");
    rope = other;
  }
  c.yarn = rope.yarn;
  c.rope_theta = fields.Number("rope_theta", 1.001, 1e12, rope.theta.value_or(10000.0));
  if (rope.theta && *rope.theta != c.rope_theta)
    fields.Refuse("rope_theta",
                  Text(*rope.theta, ", as in ", newer ? "rope_parameters" : "rope_scaling"));
}

void ReadTokenIds(JsonFields& fields, ModelConfig& c) {
  c.bos_token_id = fields.Integer("bos_token_id", 0, c.vocab_size - 1, 0);
  if (fields.Has("eos_token_id"))
    c.eos_token_ids = fields.Integers("eos_token_id", 0, c.vocab_size - 1);
  if (!fields.Has("eos_token_id") && c.vocab_size < 2)
    fields.Refuse("eos_token_id", "a token id: the default, 1, is not in the vocabulary");
}

// About how many parameters the model has; every product fits a double.
double Parameters(const ModelConfig& c) {
  const auto d = [](int64_t size) { return static_cast<double>(size); };
  const double q_rows = d(c.num_attention_heads) * d(c.qk_head_dim());
  const double query = c.q_lora_rank == 0 ? q_rows * d(c.hidden_size)
                                          : d(c.q_lora_rank) * (q_rows + d(c.hidden_size));
  const double attention =
      query + d(c.hidden_size) * d(c.latent_dim()) +
      d(c.num_attention_heads) * d(c.v_head_dim) * d(c.hidden_size) +
      d(c.num_attention_heads) * d(c.qk_nope_head_dim + c.v_head_dim) * d(c.kv_lora_rank) +
      d(c.index_n_heads) * d(c.index_head_dim) * d(c.q_lora_rank);
  const double dense = 3 * d(c.hidden_size) * d(c.intermediate_size);
  const double experts = 3 * d(c.hidden_size) * d(c.moe_intermediate_size) *
                         d(c.n_routed_experts + c.n_shared_experts);
  return 2 * d(c.vocab_size) * d(c.hidden_size) +
         d(c.num_hidden_layers + c.num_nextn_predict_layers) *
             (attention + std::max(dense, experts));
}

// Adds the end-of-text ids of generation_config.json that config.json does not have.
Status MergeGenerationConfig(const std::string& path, ModelConfig& config) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxFileBytes));
  CAUSEWAY_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJsonObject(text, path));
  Status status;
  JsonFields fields(document, path, "", status);
  for (const int64_t id : fields.Integers("eos_token_id", 0, config.vocab_size - 1)) {
    if (std::ranges::find(config.eos_token_ids, id) == config.eos_token_ids.end())
      config.eos_token_ids.push_back(id);
  }
  return status;
}

}  // namespace

StatusOr<ModelConfig> ModelConfig::Parse(const std::string& json, const std::string& source) {
  CAUSEWAY_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJsonObject(json, source));
  // Every reader goes on after an error, with values in range; the first one is returned below.
  Status status;
  JsonFields fields(document, source, "", status);
  ModelConfig config;
  config.model_type = ReadModelType(fields);
  ReadShape(fields, config);
  ReadAttention(fields, config);
  ReadIndexer(fields, config);
  ReadExperts(fields, config);
  ReadRope(fields, config);
  ReadTokenIds(fields, config);
  ReadQuantConfig(fields, config);
  CAUSEWAY_RETURN_IF_ERROR(status);
  if (const double parameters = Parameters(config); parameters > kMaxParameters)
    return InvalidArgument(Text(source, ": the sizes make ", parameters,
                                " parameters, expected at most ", kMaxParameters));
  return config;
}

StatusOr<ModelConfig> ModelConfig::Load(const std::string& directory) {
  const std::filesystem::path folder(directory);
  const std::string path = folder / "config.json";
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxFileBytes));
  CAUSEWAY_ASSIGN_OR_RETURN(ModelConfig config, Parse(text, path));
  const std::string generation = folder / "generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation, ignored))
    CAUSEWAY_RETURN_IF_ERROR(MergeGenerationConfig(generation, config));
  return config;
}

}  // namespace causeway
