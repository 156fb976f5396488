#include "app/bench_input.h"

#include <algorithm>

#include "engine/model_host.h"

namespace causeway {

std::vector<int32_t> BenchTokens(int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens;
  uint64_t state = 12345;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

StatusOr<Layout> ParseLayout(const std::string& text, const ModelFlags& base) {
  ModelFlags flags = base;
  flags.tp = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string item = text.substr(at, end - at);
    const size_t equals = item.find('=');
    const std::string name = item.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : item.substr(equals + 1);
    if (name == "cp-partition") {
      flags.cp_partition = value;
    } else {
      int* number = name == "cp-size"            ? &flags.cp_size
                    : name == "threads-per-rank" ? &flags.threads_per_rank
                    : name == "tp"               ? &flags.tp
                    : name == "dp-size"          ? &flags.dp_size
                    : name == "ep-size"          ? &flags.ep_size
                                                 : nullptr;
      const bool digits = !value.empty() && value.size() < 6 &&
                          value.find_first_not_of("0123456789") == std::string::npos;
      if (number == nullptr || !digits) {
        return InvalidArgument(Text("--vs: found '", item,
                                    "'; expected cp-size=N, threads-per-rank=N, tp=N, dp-size=N, "
                                    "ep-size=N or cp-partition=NAME, separated by commas"));
      }
      *number = std::stoi(value);
    }
    at = end + 1;
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const HostOptions options, flags.ToHostOptions());
  return options.ranks.layout;
}

}  // namespace causeway
