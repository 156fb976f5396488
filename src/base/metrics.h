// Counters, gauges and histograms, and the text that Prometheus reads them from.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

namespace causeway {

// Name and value, in the order in which they are printed.
using MetricLabels = std::vector<std::pair<std::string, std::string>>;

// Only rises. From any thread.
class Counter {
 public:
  void Add(double value = 1) {
    CHECK(value >= 0, value);
    value_.fetch_add(value, std::memory_order_relaxed);
  }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

// What is so at present. From any thread.
class Gauge {
 public:
  void Set(double value) { value_.store(value, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

// How often values fell into which range. From any thread.
class Histogram {
 public:
  // `bounds`: the ranges' upper ends, which belong to them, rising; one without an end follows.
  explicit Histogram(std::vector<double> bounds);

  void Observe(double value);
  const std::vector<double>& bounds() const { return bounds_; }
  // Of range `i`, alone; i = bounds().size() is the last.
  uint64_t count(size_t i) const { return counts_[i].load(std::memory_order_relaxed); }
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;  // [bounds + 1]
  std::atomic<double> sum_{0};
};

// All metrics of a server. They are added before other threads use it, and live as long as it does.
class MetricRegistry {
 public:
  // One time series. The same name with other labels adds a series to the family, whose kind, help
  // and bounds must be the same.
  Counter& AddCounter(const std::string& name, const std::string& help, MetricLabels labels = {});
  Gauge& AddGauge(const std::string& name, const std::string& help, MetricLabels labels = {});
  Histogram& AddHistogram(const std::string& name, const std::string& help,
                          std::vector<double> bounds, MetricLabels labels = {});

  // Prometheus' text format 0.0.4, families in the order in which they were added. A counter's
  // name is printed as it is: it must end in _total itself.
  std::string Render() const;
  static constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

 private:
  // Exactly one of the pointers is set: the family's kind.
  struct Series {
    MetricLabels labels;
    std::unique_ptr<Counter> counter = {};
    std::unique_ptr<Gauge> gauge = {};
    std::unique_ptr<Histogram> histogram = {};
  };
  struct Family {
    std::string name;
    std::string help;
    const char* kind;  // "counter", "gauge", "histogram"
    std::vector<Series> series;
  };

  // A new series, still without its value.
  Series& Add(const std::string& name, const std::string& help, const char* kind,
              MetricLabels labels);

  std::vector<Family> families_;
};

// As Prometheus' clients print values and bounds: "8.0", "0.25", "1e+06", "+Inf".
std::string FormatMetricNumber(double value);

}  // namespace causeway
