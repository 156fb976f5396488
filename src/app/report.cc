// Ranks may have run different operations (experts on some only): a table has a row for each name
// that any rank or run has, with 0 where one lacks it.
#include "app/report.h"

#include <algorithm>
#include <cstdio>

namespace causeway {
namespace {

template <typename... Values>
std::string Format(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

}  // namespace

OperationTimes OperationTimes::Of(const std::vector<const TraceLane*>& lanes) {
  OperationTimes out;
  for (const TraceLane* lane : lanes) {
    for (const TraceLane::Sum& sum : lane->sums()) {
      if (std::find(out.operations.begin(), out.operations.end(), sum.name) ==
          out.operations.end()) {
        out.operations.emplace_back(sum.name);
      }
    }
  }
  // First all names, then a row of the same width for each rank.
  for (const TraceLane* lane : lanes) {
    auto& row = out.seconds.emplace_back(out.operations.size(), 0.0);
    for (const TraceLane::Sum& sum : lane->sums()) {
      const auto at = std::find(out.operations.begin(), out.operations.end(), sum.name);
      row[static_cast<size_t>(at - out.operations.begin())] = static_cast<double>(sum.ns) * 1e-9;
    }
  }
  return out;
}

double OperationTimes::Total(size_t rank) const {
  double total = 0;
  for (double s : seconds[rank]) total += s;
  return total;
}

double OperationTimes::Slowest(size_t operation) const {
  double most = 0;
  for (const auto& rank : seconds) most = std::max(most, rank[operation]);
  return most;
}

std::string OperationTable(const std::vector<NamedTimes>& runs) {
  std::vector<std::string> operations;
  for (const NamedTimes& run : runs) {
    for (const std::string& name : run.times.operations) {
      if (std::find(operations.begin(), operations.end(), name) == operations.end()) {
        operations.push_back(name);
      }
    }
  }
  std::string out = Format("%-20s", "milliseconds");
  for (const NamedTimes& run : runs) {
    for (size_t rank = 0; rank < run.times.seconds.size(); ++rank) {
      out += Format(" %16s", Format("%s rank %zu", run.name.c_str(), rank).c_str());
    }
  }
  out += "\n";
  const auto row = [&](const std::string& name, auto value) {
    out += Format("%-20s", name.c_str());
    for (const NamedTimes& run : runs) {
      for (size_t rank = 0; rank < run.times.seconds.size(); ++rank) {
        out += Format(" %16.1f", value(run, rank) * 1e3);
      }
    }
    out += "\n";
  };
  for (const std::string& name : operations) {
    row(name, [&](const NamedTimes& run, size_t rank) {
      const auto& names = run.times.operations;
      const auto at = std::find(names.begin(), names.end(), name);
      return at == names.end() ? 0.0
                               : run.times.seconds[rank][static_cast<size_t>(at - names.begin())];
    });
  }
  row("sum", [](const NamedTimes& run, size_t rank) { return run.times.Total(rank); });
  row("wall time", [](const NamedTimes& run, size_t) { return run.wall_seconds; });
  return out;
}

nlohmann::json OperationJson(const OperationTimes& times) {
  nlohmann::json out = nlohmann::json::array();
  // Shares are of the slowest ranks' sum, as the others wait for those.
  double total = 0;
  for (size_t i = 0; i < times.operations.size(); ++i) total += times.Slowest(i);
  for (size_t i = 0; i < times.operations.size(); ++i) {
    nlohmann::json ranks = nlohmann::json::array();
    for (const auto& rank : times.seconds) ranks.push_back(rank[i]);
    out.push_back({{"operation", times.operations[i]},
                   {"seconds", times.Slowest(i)},
                   {"share", total > 0 ? times.Slowest(i) / total : 0.0},
                   {"rank_seconds", ranks}});
  }
  return out;
}

std::string LogitsHash(const std::vector<float>& logits) {
  // FNV-1a over all bytes: two bit patterns of the same number count as different.
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < logits.size() * sizeof(float); ++i) {
    hash = (hash ^ reinterpret_cast<const uint8_t*>(logits.data())[i]) * 0x100000001b3u;
  }
  char text[32];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string HumanBytes(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  while (bytes >= 1000 && unit < 4) {
    bytes /= 1000;
    ++unit;
  }
  return Format(bytes < 10 && unit > 0 ? "%.2f %s" : "%.1f %s", bytes, units[unit]);
}

}  // namespace causeway
