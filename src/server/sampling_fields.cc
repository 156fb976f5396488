#include "server/sampling_fields.h"

#include <charconv>
#include <cmath>
#include <optional>

#include "grammar/regex.h"
#include "server/grammar_store.h"

namespace causeway {
namespace {

// As OpenAI's.
constexpr double kMostPenalty = 2;
constexpr double kMostBias = 100;
constexpr size_t kMaxBiases = 4096;
constexpr size_t kMaxStopRegexes = 16;
// Each answer has an automaton of its own.
constexpr GrammarLimits kStopRegexLimits{.max_positions = 2000};
constexpr AutomatonLimits kStopRegexStates{.max_states = 2000};

using MadeGrammar = StatusOr<std::shared_ptr<TokenGrammar>>;

// {"type": "text" | "json_object" | "json_schema", "json_schema": {"name", "schema", ...}}
std::optional<MadeGrammar> ReadResponseFormat(FieldReader& fields, const ServedModel& model,
                                              FirstError& error) {
  const Json* format = fields.Any("response_format");
  if (format == nullptr) return std::nullopt;
  FieldReader reader(*format, fields.Path("response_format"), error);
  std::string type;
  reader.String("type", type);
  const Json* described = reader.Any("json_schema");
  if (type != "text" && type != "json_object" && type != "json_schema") {
    reader.Fail("type", Text(reader.Path("type"), " is ", DescribeJson(Json(type)),
                             "; expected \"text\", \"json_object\" or \"json_schema\""));
  } else if ((type == "json_schema") != (described != nullptr)) {
    reader.Fail("json_schema",
                Text(reader.Path("json_schema"),
                     type == "json_schema" ? " is missing" : " needs \"type\": \"json_schema\""));
  }
  reader.Finish();
  if (!error.ok() || type == "text") return std::nullopt;
  if (type == "json_object") return model.grammars->OfAnyObject();
  FieldReader inner(*described, reader.Path("json_schema"), error);
  inner.Ignore({"name", "description"});
  bool strict = true;  // it is honoured in whole or refused, either way
  inner.Bool("strict", strict);
  const Json* schema = inner.Any("schema");
  if (schema == nullptr) inner.Fail("schema", Text(inner.Path("schema"), " is missing"));
  inner.Finish();
  if (!error.ok()) return std::nullopt;
  return model.grammars->OfSchema(*schema);
}

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

void ReadConstraint(FieldReader& fields, const ServedModel& model, ConstraintFields which,
                    FirstError& error, SamplingParams& sampling) {
  std::vector<std::string_view> present;  // of literals, as FieldReader keeps them
  for (const char* name : {"regex", "ebnf", "json_schema", "response_format"}) {
    const bool mine = std::string_view(name) == "json_schema"       ? which.json_schema
                      : std::string_view(name) == "response_format" ? which.response_format
                                                                    : true;
    const Json* value = mine ? fields.Any(name) : nullptr;
    if (value == nullptr || *value == "" || *value == Json{{"type", "text"}}) continue;
    present.push_back(name);
  }
  if (present.empty()) return;
  const std::string_view name = present.front();
  if (present.size() > 1) {
    fields.Fail(name, Text(fields.Path(name), " and ", fields.Path(present[1]),
                           " are both there; send one of them"));
    return;
  }
  if (model.grammars == nullptr) {
    fields.Fail(name, Text(fields.Path(name), ": this server has no constrained answers"));
    return;
  }
  std::optional<MadeGrammar> made;
  std::string text;
  if (name == "response_format") {
    made = ReadResponseFormat(fields, model, error);
  } else if (const Json& value = *fields.Any(name); name == "json_schema" && !value.is_string()) {
    made = model.grammars->OfSchema(value);
  } else if (fields.String(name, text)) {
    if (name == "json_schema") {
      StatusOr<Json> schema = ParseOrderedJson(text, "the schema");
      made = schema.ok() ? model.grammars->OfSchema(*schema) : MadeGrammar(schema.status());
    } else {
      made = name == "regex" ? model.grammars->OfRegex(text) : model.grammars->OfEbnf(text);
    }
  }
  if (!made) return;
  if (made->ok()) {
    sampling.grammar = **made;
  } else {
    fields.Fail(name, Text(fields.Path(name), ": ", made->status().message()));
  }
}

std::vector<StopRegex> ReadStopRegexes(FieldReader& fields) {
  const Json* value = fields.Any("stop_regex");
  if (value == nullptr || *value == "") return {};
  const std::string path = fields.Path("stop_regex");
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > kMaxStopRegexes) {
    fields.Fail("stop_regex", Text(path, " has ", list.size(), " expressions; at most ",
                                   kMaxStopRegexes, " are allowed"));
    return {};
  }
  std::vector<StopRegex> out;
  for (const Json& one : list) {
    if (!one.is_string()) {
      fields.Fail("stop_regex", Text(path, " holds ", DescribeJson(one), "; expected strings"));
      return {};
    }
    StatusOr<Grammar> grammar = CompileRegexSearch(one.get<std::string>(), kStopRegexLimits);
    if (!grammar.ok()) {
      fields.Fail("stop_regex", Text(path, ": ", grammar.status().message()));
      return {};
    }
    Automaton automaton(std::move(grammar).value(), kStopRegexStates);
    if (automaton.Accepts(automaton.start())) {
      fields.Fail("stop_regex",
                  Text(path, " holds ", DescribeJson(one), ", which matches the empty text"));
      return {};
    }
    out.push_back({one.get<std::string>(), std::move(automaton)});
  }
  return out;
}

}  // namespace causeway
