// The deviations are chosen so that activations stay near 1 from layer to layer, attention selects
// some keys and the router spreads its tokens.
#include "checkpoint/random_values.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace causeway {
namespace {

// Standard deviations of what the layers compute, for inputs of deviation 1.
constexpr double kScores = 2.2;  // attention scores: about 1 key in 130 carries the weight
constexpr double kRouter = 1.5;  // router logits: sigmoids spread over (0.05, 0.95)
constexpr double kLogits = 2.0;  // of the vocabulary
constexpr double kOutput = 1.5;  // o_proj: makes up for averaging over keys
constexpr double kNorms = 0.1;   // around 1
constexpr double kRouterBias = 0.05;
// A model of more layers gets proportionally smaller steps in its residual stream.
constexpr double kFullStepLayers = 4.0;

uint64_t Mix(uint64_t x) {  // the finaliser of SplitMix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The hash FNV-1a, so that a tensor's key depends on nothing but its name and the seed.
uint64_t Fnv(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// The last two parts of a name: "q_b_proj.weight".
std::string_view Leaf(std::string_view name) {
  const size_t last = name.rfind('.');
  const size_t before = last == 0 ? last : name.rfind('.', last - 1);
  return before == std::string_view::npos ? name : name.substr(before + 1);
}

// Brings attention scores to kScores in spite of YaRN's factor on the softmax scale.
double QueryGain(const ModelConfig& config) {
  double factor = 1.0;
  if (config.yarn.enabled && config.yarn.mscale_all_dim != 0.0)
    factor = 0.1 * config.yarn.mscale_all_dim * std::log(config.yarn.factor) + 1.0;
  // In steps of 1/64: the last bit of a library's logarithm must not matter.
  return std::max(1.0, std::round(64.0 * kScores / (factor * factor))) / 64.0;
}

double Gain(std::string_view leaf, const ModelConfig& config) {
  const double layers = static_cast<double>(config.num_hidden_layers);
  const double step = std::sqrt(kFullStepLayers / std::max(kFullStepLayers, layers));
  if (leaf == "q_b_proj.weight" || leaf == "q_proj.weight") return QueryGain(config);
  if (leaf == "o_proj.weight") return kOutput * step;
  if (leaf == "down_proj.weight") return step;
  if (leaf == "gate.weight") return kRouter;
  if (leaf == "lm_head.weight") return kLogits;
  return 1.0;
}

}  // namespace

RandomValues::RandomValues(uint64_t seed, const TensorSpec& spec, const ModelConfig& config) {
  std::string name = spec.name;
  // The original's name stands for the copies of embedding and head, so that they are equal.
  if (Leaf(name) == "shared_head.head.weight" || Leaf(name) == "head.weight")
    name = "lm_head.weight";
  if (Leaf(name) == "embed_tokens.weight" ||
      (name == "lm_head.weight" && config.tie_word_embeddings))
    name = "model.embed_tokens.weight";
  const std::string_view leaf = Leaf(name);
  key_ = Mix(Mix(seed) ^ Fnv(name));
  mean_ = 0.0f;
  double deviation = 0.0;
  // Untied embeddings are the input as it is; tied ones are the head's matrix, and scaled for it.
  if (leaf == "embed_tokens.weight" && !config.tie_word_embeddings) {
    deviation = 1.0;
  } else if (leaf == "embed_tokens.weight") {
    deviation = kLogits / std::sqrt(static_cast<double>(config.hidden_size));
  } else if (leaf == "gate.e_score_correction_bias") {
    deviation = kRouterBias;
  } else if (leaf == "k_norm.bias") {
    deviation = kNorms;
  } else if (spec.shape.size() == 1) {
    // Weights of a norm.
    mean_ = 1.0f;
    deviation = kNorms;
  } else {
    // Divided by the square root of the inputs: a sum over them keeps the deviation of one.
    deviation = Gain(leaf, config) / std::sqrt(static_cast<double>(spec.shape[1]));
  }
  deviation_ = static_cast<float>(deviation);
}

void RandomValues::Fill(int64_t begin, int64_t count, float* out) const {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;  // SplitMix64's increment
  constexpr int32_t kCentre = 2 * 65535;           // mean of four uniform 16-bit numbers
  constexpr double kSpread = 37837.22;             // their deviation: sqrt(4 * (65536^2 - 1) / 12)
  const auto factor = static_cast<float>(deviation_ / kSpread);
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = Mix(key_ + static_cast<uint64_t>(begin + i) * kStep);
    const auto sum = static_cast<int32_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                          ((bits >> 32) & 0xffff) + (bits >> 48));
    out[i] = mean_ + static_cast<float>(sum - kCentre) * factor;
  }
}

}  // namespace causeway
