// Answers are random walks through a grammar, over the vocabulary of a tokenizer. They are walked
// twice: the first time most masks are new, the second time all are known.
#include "app/bench_grammar.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

#include "app/flags.h"
#include "checkpoint/json_text.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"
#include "server/grammar_store.h"

namespace causeway {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// An object of the kind that clients ask for.
constexpr const char* kSchema = R"({"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 40},
    "kind": {"enum": ["person", "place", "thing"]},
    "size": {"type": "number", "minimum": 0, "maximum": 100},
    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
    "parts": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3},
    "born": {"type": "string", "format": "date"}},
  "required": ["name", "kind"], "additionalProperties": false})";

struct GrammarFlags {
  std::string tokenizer_path;
  std::string schema_file;
  std::string regex;
  int64_t answers = 20;
  int64_t tokens = 200;
  bool json = false;
};

struct Timing {
  int64_t tokens = 0;
  double seconds = 0;
  double most = 0;

  void Add(double value) {
    ++tokens;
    seconds += value;
    most = std::max(most, value);
  }
  double mean() const { return tokens > 0 ? seconds / static_cast<double>(tokens) : 0; }
};

struct Result {
  std::string name;
  double compile_seconds = 0;
  Timing first, again;
};

// One walk; `path` is filled, or followed if it is there.
Status Walk(const std::shared_ptr<TokenGrammar>& grammar, int64_t vocab, int64_t most,
            std::mt19937& random, std::vector<int32_t>& path, Timing& timing) {
  GrammarCursor cursor(grammar);
  const bool follow = !path.empty();
  std::vector<float> logits;
  for (size_t step = 0; !cursor.complete() && static_cast<int64_t>(step) < most; ++step) {
    if (follow && step == path.size()) break;
    logits.assign(static_cast<size_t>(vocab), 0.0f);
    const Clock::time_point start = Clock::now();
    CAUSEWAY_RETURN_IF_ERROR(cursor.Mask({}, logits));
    double seconds = SecondsSince(start);
    if (!follow) {
      std::vector<int32_t> left;
      for (size_t id = 0; id < logits.size(); ++id) {
        if (!std::isinf(logits[id])) left.push_back(static_cast<int32_t>(id));
      }
      if (left.empty()) break;
      path.push_back(left[random() % left.size()]);
    }
    const Clock::time_point take = Clock::now();
    CAUSEWAY_RETURN_IF_ERROR(cursor.Take(path[step]));
    seconds += SecondsSince(take);
    timing.Add(seconds);
  }
  return Status();
}

StatusOr<Result> Measure(const std::string& name, const GrammarFlags& flags, int64_t vocab,
                         const std::function<StatusOr<std::shared_ptr<TokenGrammar>>()>& compile) {
  Result out;
  out.name = name;
  const Clock::time_point start = Clock::now();
  CAUSEWAY_ASSIGN_OR_RETURN(const std::shared_ptr<TokenGrammar> grammar, compile());
  out.compile_seconds = SecondsSince(start);
  std::vector<std::vector<int32_t>> paths(static_cast<size_t>(flags.answers));
  std::mt19937 random(1);
  for (Timing* timing : {&out.first, &out.again}) {
    for (std::vector<int32_t>& path : paths) {
      CAUSEWAY_RETURN_IF_ERROR(Walk(grammar, vocab, flags.tokens, random, path, *timing));
    }
  }
  return out;
}

nlohmann::json ToJson(const Timing& timing) {
  return {
      {"tokens", timing.tokens}, {"mean_us", timing.mean() * 1e6}, {"max_us", timing.most * 1e6}};
}

Status RunGrammar(const GrammarFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(flags.tokenizer_path));
  std::string schema_text = kSchema;
  if (!flags.schema_file.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(schema_text, ReadTextFile(flags.schema_file, 1 << 20));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const Json schema, ParseOrderedJson(schema_text, "the schema"));
  const Clock::time_point start = Clock::now();
  GrammarStore store(*tokenizer);
  const double vocabulary_seconds = SecondsSince(start);
  const int64_t vocab = tokenizer->size();
  std::vector<Result> results;
  const auto measure = [&](const std::string& name, const auto& compile) -> Status {
    CAUSEWAY_ASSIGN_OR_RETURN(Result result, Measure(name, flags, vocab, compile));
    results.push_back(std::move(result));
    return Status();
  };
  CAUSEWAY_RETURN_IF_ERROR(measure("json_schema", [&] { return store.OfSchema(schema); }));
  CAUSEWAY_RETURN_IF_ERROR(measure("json_object", [&] { return store.OfAnyObject(); }));
  CAUSEWAY_RETURN_IF_ERROR(measure("regex", [&] { return store.OfRegex(flags.regex); }));
  if (flags.json) {
    nlohmann::json report = {{"vocabulary", vocab},
                             {"vocabulary_seconds", vocabulary_seconds},
                             {"results", nlohmann::json::array()}};
    for (const Result& result : results) {
      report["results"].push_back({{"name", result.name},
                                   {"compile_seconds", result.compile_seconds},
                                   {"first", ToJson(result.first)},
                                   {"known", ToJson(result.again)}});
    }
    std::printf("%s\n", report.dump().c_str());
    return Status();
  }
  std::printf("%lld tokens, their tree %.0f ms\n%-12s %12s %8s %16s %12s %16s\n",
              static_cast<long long>(vocab), vocabulary_seconds * 1e3, "", "compile ms", "tokens",
              "new: mean ms", "max ms", "known: mean us");
  for (const Result& result : results) {
    std::printf("%-12s %12.2f %8lld %16.3f %12.3f %16.1f\n", result.name.c_str(),
                result.compile_seconds * 1e3, static_cast<long long>(result.first.tokens),
                result.first.mean() * 1e3, result.first.most * 1e3, result.again.mean() * 1e6);
  }
  return Status();
}

}  // namespace

void AddBenchGrammar(CLI::App& bench, Run& run) {
  auto flags = std::make_shared<GrammarFlags>();
  flags->regex = "[A-Z][a-z]{2,20}( [A-Z][a-z]{2,20}){0,3}, \\d{1,4}";
  CLI::App* grammar = bench.add_subcommand(
      "grammar", "Time of a token of constrained answers, with new and with known masks");
  grammar->add_option("--tokenizer-path", flags->tokenizer_path, "A tokenizer.json")->required();
  grammar->add_option("--json-schema", flags->schema_file,
                      "File with a schema; default: one of a nested object");
  grammar->add_option("--regex", flags->regex, "Regular expression")->capture_default_str();
  grammar->add_option("--answers", flags->answers, "Random answers of each kind")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  grammar->add_option("--tokens", flags->tokens, "Tokens of an answer, at most")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  RegisterJson(*grammar, flags->json);
  grammar->callback([flags, &run] { run = [flags] { return RunGrammar(*flags); }; });
}

}  // namespace causeway
