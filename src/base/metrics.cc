// The format is text for people as much as for Prometheus: every family has its help, and a
// histogram's ranges are printed as sums from the lowest on, as the format wants them.
#include "base/metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>

namespace causeway {
namespace {

// [a-zA-Z_:][a-zA-Z0-9_:]*, for labels without the colon.
bool IsName(const std::string& text, bool colon) {
  if (text.empty() || (text[0] >= '0' && text[0] <= '9')) return false;
  return std::all_of(text.begin(), text.end(), [colon](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (colon && c == ':');
  });
}

// Backslashes and line breaks, and in label values quotes, have to be escaped.
std::string Escape(const std::string& text, bool quotes) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      if (c == '\\' || (c == '"' && quotes)) out += '\\';
      out += c;
    }
  }
  return out;
}

std::string FormatLabels(const MetricLabels& labels) {
  std::string out;
  for (const auto& [name, value] : labels) {
    out += Text(out.empty() ? "{" : ",", name, "=\"", Escape(value, /*quotes=*/true), "\"");
  }
  return out.empty() ? out : out + "}";
}

void PrintLine(std::string& out, const std::string& name, const MetricLabels& labels,
               double value) {
  out += Text(name, FormatLabels(labels), " ", FormatMetricNumber(value), "\n");
}

void PrintHistogram(std::string& out, const std::string& name, const MetricLabels& labels,
                    const Histogram& histogram) {
  uint64_t count = 0;
  // One end more than there are bounds: the last range has none.
  for (size_t i = 0; i <= histogram.bounds().size(); ++i) {
    count += histogram.count(i);
    const double end = i < histogram.bounds().size() ? histogram.bounds()[i]
                                                     : std::numeric_limits<double>::infinity();
    MetricLabels with_end = labels;
    with_end.emplace_back("le", FormatMetricNumber(end));
    PrintLine(out, name + "_bucket", with_end, static_cast<double>(count));
  }
  // The same number as in the last range, also while values are being observed.
  PrintLine(out, name + "_count", labels, static_cast<double>(count));
  PrintLine(out, name + "_sum", labels, histogram.sum());
}

}  // namespace

std::string FormatMetricNumber(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char text[64];
  // From a million on with an exponent, as Go does: queries compare bounds as text.
  const auto format =
      std::fabs(value) >= 1e6 ? std::chars_format::scientific : std::chars_format::fixed;
  const auto end = std::to_chars(text, text + sizeof(text), value, format).ptr;
  std::string out(text, end);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {
  const auto wrong = std::adjacent_find(bounds_.begin(), bounds_.end(), std::greater_equal<>());
  CHECK(wrong == bounds_.end(), "bounds must rise, found ", *wrong);
}

void Histogram::Observe(double value) {
  CHECK(!std::isnan(value), "not a number");
  const auto range = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(range)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

MetricRegistry::Series& MetricRegistry::Add(const std::string& name, const std::string& help,
                                            const char* kind, MetricLabels labels) {
  CHECK(IsName(name, /*colon=*/true), name);
  for (const auto& label : labels) CHECK(IsName(label.first, /*colon=*/false), name, label.first);
  auto family = std::find_if(families_.begin(), families_.end(),
                             [&](const Family& one) { return one.name == name; });
  if (family == families_.end()) {
    families_.push_back({.name = name, .help = help, .kind = kind, .series = {}});
    family = families_.end() - 1;
  }
  CHECK(family->help == help && std::string(family->kind) == kind, name, "means two things");
  for (const Series& series : family->series) CHECK(series.labels != labels, name, "is there");
  family->series.push_back({.labels = std::move(labels)});
  return family->series.back();
}

Counter& MetricRegistry::AddCounter(const std::string& name, const std::string& help,
                                    MetricLabels labels) {
  CHECK(name.ends_with("_total"), name);
  Series& series = Add(name, help, "counter", std::move(labels));
  series.counter = std::make_unique<Counter>();
  return *series.counter;
}

Gauge& MetricRegistry::AddGauge(const std::string& name, const std::string& help,
                                MetricLabels labels) {
  Series& series = Add(name, help, "gauge", std::move(labels));
  series.gauge = std::make_unique<Gauge>();
  return *series.gauge;
}

Histogram& MetricRegistry::AddHistogram(const std::string& name, const std::string& help,
                                        std::vector<double> bounds, MetricLabels labels) {
  Series& series = Add(name, help, "histogram", std::move(labels));
  series.histogram = std::make_unique<Histogram>(std::move(bounds));
  for (const Family& family : families_) {
    if (family.name != name) continue;
    CHECK(family.series.front().histogram->bounds() == series.histogram->bounds(), name);
  }
  return *series.histogram;
}

std::string MetricRegistry::Render() const {
  std::string out;
  for (const Family& family : families_) {
    out += Text("# HELP ", family.name, " ", Escape(family.help, /*quotes=*/false), "\n");
    out += Text("# TYPE ", family.name, " ", family.kind, "\n");
    for (const Series& series : family.series) {
      if (series.histogram != nullptr) {
        PrintHistogram(out, family.name, series.labels, *series.histogram);
      } else {
        PrintLine(out, family.name, series.labels,
                  series.counter != nullptr ? series.counter->value() : series.gauge->value());
      }
    }
  }
  return out;
}

}  // namespace causeway
