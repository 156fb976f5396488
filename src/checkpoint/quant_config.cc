// Three quantisers' ways to say it come to two: fp8 in square blocks, and int8 with a scale per
// row. Whatever else a file asks for would change the results and is refused.
#include "checkpoint/quant_config.h"

#include "checkpoint/json_text.h"

namespace causeway {
namespace {

constexpr const char* kSupported =
    "\"fp8\" (e4m3 in blocks), \"compressed-tensors\" (int8 W8A8) or \"w8a8_int8\"";

constexpr const char* kNotStatic = "static activation scales are not supported";

// Demands that an optional field has one value.
void DemandString(JsonFields& fields, const std::string& key, const std::string& value,
                  const std::string& why) {
  if (fields.String(key, value) != value)
    fields.Refuse(key, Text(Quoted(value), why.empty() ? "" : ": ", why));
}

void DemandBoolean(JsonFields& fields, const std::string& key, bool value, bool absent,
                   const std::string& why) {
  if (fields.Boolean(key, absent) != value)
    fields.Refuse(key, Text(value ? "true" : "false", ": ", why));
}

void ReadFp8(JsonFields& quant, ModelConfig& config) {
  constexpr int64_t kLargestBlock = 65536;
  config.quant_method = QuantMethod::kFp8Block;
  // The fields that releases leave out default to what the releases mean.
  DemandString(quant, "fmt", "e4m3", "");
  DemandString(quant, "activation_scheme", "dynamic", kNotStatic);
  // Both are read alike: a power of two is a scale like any other.
  if (const std::string format = quant.String("scale_fmt", "float");
      format != "float" && format != "ue8m0")
    quant.Refuse("scale_fmt", "\"ue8m0\" or \"float\"");
  const std::vector<int64_t> block = quant.Integers("weight_block_size", 1, kLargestBlock);
  if (block.size() != 2 || block[0] != block[1]) {
    quant.Refuse("weight_block_size",
                 "two equal sizes like [128, 128]: fp8 with one scale per tensor or per channel is "
                 "not supported");
    return;
  }
  config.quant_block = block[0];
}

// One group of compressed-tensors: int8 weights with a scale per channel, int8 activations with a
// scale per token found at run time.
void ReadGroup(JsonFields group) {
  constexpr const char* kInt8 = "only int8 W8A8 is supported";
  JsonFields weights = group.Object("weights");
  if (weights.Integer("num_bits", 1, 64) != 8) weights.Refuse("num_bits", Text("8: ", kInt8));
  DemandString(weights, "type", "int", kInt8);
  if (weights.String("strategy") != "channel")
    weights.Refuse("strategy", "\"channel\": weights need one scale per row");
  DemandBoolean(weights, "symmetric", true, true, "zero points are not supported");
  DemandBoolean(weights, "dynamic", false, false, "weights are quantised in the file");
  if (weights.Has("group_size") && weights.Integer("group_size", -1, INT64_MAX) > 0)
    weights.Refuse("group_size", "null: weights need one scale per row");
  if (!group.Has("input_activations"))
    group.Refuse("input_activations",
                 Text("an object: weight-only int8 is not supported, ", kInt8));
  JsonFields inputs = group.Object("input_activations");
  if (inputs.Integer("num_bits", 1, 64) != 8) inputs.Refuse("num_bits", Text("8: ", kInt8));
  DemandString(inputs, "type", "int", kInt8);
  DemandBoolean(inputs, "dynamic", true, false, kNotStatic);
  if (inputs.String("strategy") != "token")
    inputs.Refuse("strategy", "\"token\": activations get one scale per token");
  DemandBoolean(inputs, "symmetric", true, true, "zero points are not supported");
  if (group.Has("output_activations"))
    group.Refuse("output_activations", "null: quantised outputs are not supported");
}

void ReadCompressedTensors(JsonFields& quant, ModelConfig& config) {
  config.quant_method = QuantMethod::kInt8;
  DemandString(quant, "format", "int-quantized", "only int8 W8A8 is supported");
  if (quant.Has("kv_cache_scheme"))
    quant.Refuse("kv_cache_scheme", "null: quantised KV caches are not supported");
  if (quant.Has("sparsity_config")) {
    JsonFields sparsity = quant.Object("sparsity_config");
    DemandString(sparsity, "format", "dense", "sparse weights are not supported");
  }
  JsonFields groups = quant.Object("config_groups");
  const std::vector<std::string> names = groups.Keys();
  if (names.empty()) quant.Refuse("config_groups", "at least one group");
  for (const std::string& name : names) ReadGroup(groups.Object(name));
}

}  // namespace

void ReadQuantConfig(JsonFields& model, ModelConfig& config) {
  if (!model.Has("quantization_config")) return;
  JsonFields quant = model.Object("quantization_config");
  const std::string method = quant.String("quant_method");
  if (method == "fp8") {
    ReadFp8(quant, config);
  } else if (method == "compressed-tensors") {
    ReadCompressedTensors(quant, config);
  } else if (method == "w8a8_int8") {
    config.quant_method = QuantMethod::kInt8;
    DemandBoolean(quant, "is_dynamic", true, true, kNotStatic);
    DemandString(quant, "activation_scheme", "dynamic", kNotStatic);
  } else {
    quant.Refuse("quant_method", kSupported);
  }
}

}  // namespace causeway
