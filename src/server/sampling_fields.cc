#include "server/sampling_fields.h"

#include <charconv>
#include <cmath>

namespace causeway {
namespace {

// As OpenAI's.
constexpr double kMostPenalty = 2;
constexpr double kMostBias = 100;
constexpr size_t kMaxBiases = 4096;

// {"1234": -100, ...}: ids as strings, since JSON has no other keys.
void ReadLogitBias(FieldReader& fields, const ServedModel& model, SamplingParams& sampling) {
  constexpr const char* kName = "logit_bias";
  const Json* map = fields.Any(kName);
  if (map == nullptr) return;
  const std::string path = fields.Path(kName);
  if (!map->is_object() || map->size() > kMaxBiases) {
    fields.Fail(kName, Text(path, " is ", DescribeJson(*map), "; expected an object with at most ",
                            kMaxBiases, " token ids as keys"));
    return;
  }
  for (const auto& [key, value] : map->items()) {
    int64_t id = -1;
    const char* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, id);
    if (parsed.ec != std::errc() || parsed.ptr != end || id < 0 || id >= model.vocab_size) {
      fields.Fail(kName, Text(path, " has the key ", DescribeJson(Json(key)),
                              "; expected a token id 0 to ", model.vocab_size - 1));
      return;
    }
    if (!value.is_number() || std::abs(value.get<double>()) > kMostBias) {
      fields.Fail(kName, Text(path, "[", Dump(Json(key)), "] is ", DescribeJson(value),
                              "; expected a number ", -kMostBias, " to ", kMostBias));
      return;
    }
    sampling.logit_bias.push_back({static_cast<int32_t>(id), value.get<double>()});
  }
}

}  // namespace

void ReadPenalties(FieldReader& fields, const ServedModel& model, SamplingParams& sampling) {
  const NumberRange penalty{.min = -kMostPenalty, .max = kMostPenalty};
  fields.Number("frequency_penalty", penalty, sampling.frequency_penalty);
  fields.Number("presence_penalty", penalty, sampling.presence_penalty);
  fields.Number("repetition_penalty", {.max = kMostPenalty, .above_min = true},
                sampling.repetition_penalty);
  ReadLogitBias(fields, model, sampling);
}

}  // namespace causeway
