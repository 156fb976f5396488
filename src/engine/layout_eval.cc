#include "engine/layout_eval.h"

#include <cstring>

namespace causeway {
namespace {

// Of two arrays that differ in a bit somewhere.
LogitDifference FirstDifference(const LayoutCase& one,
                                const std::vector<std::vector<int32_t>>& prompts,
                                const std::vector<float>& found,
                                const std::vector<float>& expected) {
  size_t at = 0;
  // The caller has found a difference: the loop ends.
  while (std::memcmp(&found[at], &expected[at], sizeof(float)) == 0) ++at;
  size_t tokens = 0;
  // The arrays are [tokens of all prompts, vocabulary].
  for (const auto& prompt : prompts) tokens += prompt.size();
  const size_t vocab = expected.size() / tokens;
  LogitDifference out{.one = one,
                      .id = static_cast<int64_t>(at % vocab),
                      .found = found[at],
                      .expected = expected[at]};
  // From a row over all prompts to the prompt and the position in it.
  size_t token = at / vocab;
  while (token >= prompts[static_cast<size_t>(out.prompt)].size()) {
    token -= prompts[static_cast<size_t>(out.prompt++)].size();
  }
  out.position = static_cast<int64_t>(token);
  return out;
}

}  // namespace

std::string FlagsOf(const LayoutCase& one) {
  const Layout& layout = one.layout;
  return Text("--tp ", layout.world(), " --cp-size ", layout.cp, " --dp-size ", layout.dp,
              " --ep-size ", layout.ep, layout.hosts == 1 ? "" : Text(" --nnodes ", layout.hosts),
              " --moe-a2a-backend ", NameOf(layout.moe_a2a), " --cp-partition ",
              NameOf(layout.partition), " --threads-per-rank ", layout.threads_per_rank,
              " --chunked-prefill-size ", one.chunk);
}

std::string LogitDifference::ToString() const {
  char values[80];
  std::snprintf(values, sizeof(values), "%.9g, one rank %.9g", static_cast<double>(found),
                static_cast<double>(expected));
  return Text(FlagsOf(one), ": prompt ", prompt, ", position ", position, ", id ", id, ": ",
              values);
}

StatusOr<EvalResult> CompareCases(const std::vector<LayoutCase>& cases,
                                  const std::vector<std::vector<int32_t>>& prompts,
                                  const std::vector<float>& expected, const CaseRun& run,
                                  const std::function<void(const EvalResult&)>& progress) {
  EvalResult result;
  for (const LayoutCase& one : cases) {
    const auto found = run(one);
    if (!found.ok()) {
      return Status(found.status().code(), Text(FlagsOf(one), ": ", found.status().message()));
    }
    CHECK(found->size() == expected.size(), found->size(), " values, ", expected.size());
    ++result.ran;
    // Bits, not values: 0 and -0 differ, a NaN equals itself.
    if (std::memcmp(found->data(), expected.data(), expected.size() * sizeof(float)) == 0) {
      ++result.equal;
    } else if (!result.first.has_value()) {
      result.first = FirstDifference(one, prompts, *found, expected);
    }
    if (progress) progress(result);
  }
  return result;
}

}  // namespace causeway
