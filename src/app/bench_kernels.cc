// causeway bench kernels and bench peak: what one thread does, without ranks and without a model.
#include "app/bench_kernels.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "app/bench_other_kernels.h"
#include "app/flags.h"
#include "app/onednn_product.h"
#include "base/thread_team.h"
#include "kernels/cpu/bare_peak.h"
#include "kernels/cpu/isa.h"
#include "kernels/op_set.h"
#include "kernels/packed_weight.h"

namespace causeway {
namespace {

struct BenchKernelsFlags {
  std::string isa = "auto";
  std::string shapes;  // only those whose name contains this
  int64_t rows = 0;    // only this M; 0: all
  double seconds = 0.3;
  bool json = false;
};

struct Shape {
  const char* name;
  int64_t n;
  int64_t k;
  bool row_parallel;  // summed in 32 runs of k
};

// Of DeepSeek V3 (q_b: one of eight ranks) and of the bench-mini presets.
constexpr Shape kShapes[] = {
    {"v3.q_a", 1536, 7168, false},       {"v3.q_b/8", 3072, 1536, false},
    {"v3.kv_a", 576, 7168, false},       {"v3.o_proj", 7168, 16384, true},
    {"v3.gate_up", 4096, 7168, false},   {"v3.down", 7168, 2048, false},
    {"mini.q_a", 384, 1024, false},      {"mini.q_b", 3072, 384, false},
    {"mini.kv_a", 576, 1024, false},     {"mini.o_proj", 1024, 2048, true},
    {"mini.gate_up", 1024, 1024, false}, {"mini.down", 1024, 512, false},
    {"mini.mlp_down", 1024, 2816, true},
};
constexpr int64_t kRows[] = {1, 16, 128, 512, 2048};
// Weights come from memory, as in a model whose layers follow each other: a product that repeats
// walks through copies of its weights that together exceed the third-level cache.
constexpr int64_t kWeightBytes = int64_t{96} << 20;

// The best of at least three runs, and of as many as fit `budget` seconds.
// Of the thread's processor time, so that other processes do not count.
template <typename Body>
double BestSeconds(double budget, const Body& body) {
  double best = 1e30;
  double spent = 0;
  for (int run = 0; run < 3 || spent < budget; ++run) {
    const double begin = ThreadSeconds();
    body(run);
    const double seconds = ThreadSeconds() - begin;
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

// Products of one matrix, for every number of rows.
class Products {
 public:
  Products(const OpTable& table, DType type, const Shape& shape, int32_t segments)
      : table_(table), type_(type), shape_(shape), segments_(segments) {
    const int64_t bytes = PackedBytes(type, shape.n, shape.k);
    const int64_t copies = std::max<int64_t>(1, kWeightBytes / bytes);
    for (int64_t i = 0; i < copies; ++i) weights_.emplace_back(type, shape.n, shape.k, segments);
  }

  // Zeros as operands: the time of a product does not depend on its values.
  double Seconds(int64_t m, double budget) const {
    const Buffer a(m * (shape_.k + 3) / 4 * 4 * 2);
    const Buffer scale(m * 4);
    const Buffer c(m * shape_.n * 4);
    GemmArgs args{};
    args.type = type_;
    args.a = a.data();
    args.a_stride = (shape_.k + 3) / 4 * 4;
    args.m = m;
    args.n = shape_.n;
    args.k = shape_.k;
    args.panel_end = weights_[0].panels();
    args.segments = segments_;
    args.k_block = weights_[0].fp8_blocks().columns;
    args.a_scale = scale.as<float>();
    args.c = c.data();
    args.c_stride = shape_.n;
    args.epilogue = Epilogue::kStoreF32;
    args.scratch = scratch_.data();
    return BestSeconds(budget, [&](int run) {
      const Weight& w = weights_[static_cast<size_t>(run) % weights_.size()];
      args.w = w.packed();
      args.w_scale = w.scale();
      args.w_sum = w.sum();
      table_.gemm(args);
    });
  }

 private:
  const OpTable& table_;
  const DType type_;
  const Shape shape_;
  const int32_t segments_;
  std::vector<Weight> weights_;
  const Buffer scratch_{kScratchBytes};
};

// 0 where oneDNN has no such product.
double OneDnnSeconds(DType type, const Shape& shape, int64_t m, double budget) {
  if (type == DType::kF8) return 0;
  std::vector<std::unique_ptr<OneDnnProduct>> products;
  const int64_t bytes = PackedBytes(type, shape.n, shape.k);
  const int64_t copies = std::max<int64_t>(1, kWeightBytes / bytes);
  for (int64_t i = 0; i < copies; ++i) {
    products.push_back(OneDnnProduct::Make(type, m, shape.n, shape.k));
    // 0: not measured; its column stays empty.
    if (products.back() == nullptr) return 0;
  }
  return BestSeconds(budget,
                     [&](int run) { products[static_cast<size_t>(run) % products.size()]->Run(); });
}

double PeakOf(const BarePeak& peak, DType type) {
  // fp8 weights are multiplied as bf16.
  return type == DType::kF32 ? peak.f32 : type == DType::kI8 ? peak.int8 : peak.bf16;
}

const char* ShortName(DType type) {
  return type == DType::kBf16 ? "bf16" : type == DType::kF8 ? "fp8" : "int8";
}

Status BenchPeak(bool json) {
  const BarePeak peak = MeasureBarePeak();
  const std::pair<const char*, int64_t> blocks[] = {{"L1 (16 KiB)", 16 << 10},
                                                    {"L2 (512 KiB)", 512 << 10},
                                                    {"L3 (6 MiB)", 6 << 20},
                                                    {"memory (256 MiB)", kBandwidthBlock}};
  nlohmann::json out = {
      {"f32_flops", peak.f32}, {"bf16_flops", peak.bf16}, {"int8_ops", peak.int8}};
  if (!json) {
    std::printf("one thread, GFLOP/s: f32 %.1f, bf16 %.1f, int8 %.1f\n", peak.f32 * 1e-9,
                peak.bf16 * 1e-9, peak.int8 * 1e-9);
  }
  for (const auto& [name, bytes] : blocks) {
    const double rate = MeasureReadBandwidth(bytes);
    out["read_bytes_per_s"][name] = rate;
    if (!json) std::printf("reads %-18s %7.1f GB/s\n", name, rate * 1e-9);
  }
  const int cpus = std::max(1, static_cast<int>(AllowedCpus().size()));
  const double all = MeasureReadBandwidth(kBandwidthBlock, cpus);
  out["read_bytes_per_s"]["memory, all CPUs"] = all;
  out["cpus"] = cpus;
  if (json) {
    std::printf("%s\n", out.dump().c_str());
  } else {
    std::printf("%d threads at once:\nreads %-18s %7.1f GB/s\n", cpus, "memory (256 MiB)",
                all * 1e-9);
  }
  return Status();
}

// Kernels of attention and the indexer: rows of the table, or objects in `out`.
void BenchOthers(const OpTable& table, const BarePeak& peak, const BenchKernelsFlags& flags,
                 nlohmann::json& out) {
  if (!flags.json) {
    std::printf("%-42s %-5s %9s %7s %12s\n", "kernel", "type", "GFLOP/s", "% peak", "us a row");
  }
  for (const std::string& name : OtherKernelNames()) {
    if (name.find(flags.shapes) == std::string::npos) continue;
    const OtherKernel kernel = MakeOtherKernel(name);
    const double seconds = BestSeconds(flags.seconds, [&](int) { kernel.run(table); });
    const double share = kernel.flops / seconds / PeakOf(peak, kernel.type);
    const char* type = kernel.type == DType::kI8 ? "int8" : "bf16";
    out.push_back({{"kernel", name},
                   {"type", type},
                   {"seconds", seconds},
                   {"flops", kernel.flops},
                   {"share_of_peak", share},
                   {"seconds_per_row", seconds / kernel.rows}});
    if (flags.json) continue;
    std::printf("%-42s %-5s", name.c_str(), type);
    if (kernel.flops > 0) {
      std::printf(" %9.1f %7.1f", kernel.flops / seconds * 1e-9, 100.0 * share);
    } else {
      std::printf(" %9s %7s", "-", "-");
    }
    std::printf(" %12.3f\n", seconds / kernel.rows * 1e6);
    std::fflush(stdout);
  }
}

// Every matrix and kernel that --shapes may name.
std::vector<std::string> ShapeNames() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  for (std::string& name : OtherKernelNames()) names.push_back(std::move(name));
  return names;
}

Status BenchKernels(const BenchKernelsFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const OpTable* table, ChooseTable(flags.isa));
  std::string names;
  bool any = false;
  for (const std::string& name : ShapeNames()) {
    any = any || name.find(flags.shapes) != std::string::npos;
    names += Text(names.empty() ? "" : ", ", name);
  }
  if (!any) {
    return InvalidArgument(
        Text("--shapes is '", flags.shapes, "'; expected a part of one of: ", names));
  }
  const ScopedFlushDenormals flush;
  const BarePeak peak = MeasureBarePeak();
  const double memory = MeasureReadBandwidth(kBandwidthBlock);
  nlohmann::json out = nlohmann::json::array();
  if (!flags.json) {
    std::printf(
        "kernels %s, one thread; peak bf16 %.1f, int8 %.1f GFLOP/s, memory %.1f GB/s\n"
        "%-14s %6s %6s %-5s %5s %5s %9s %7s %7s %9s %7s\n",
        table->name, peak.bf16 * 1e-9, peak.int8 * 1e-9, memory * 1e-9, "matrix", "n", "k", "type",
        "runs", "m", "GFLOP/s", "% peak", "GB/s", "oneDNN", "% peak");
  }
  for (const Shape& shape : kShapes) {
    if (std::string(shape.name).find(flags.shapes) == std::string::npos) continue;
    for (const DType type : {DType::kBf16, DType::kF8, DType::kI8}) {
      std::vector<int32_t> forms = {1};
      if (shape.row_parallel && type != DType::kI8) forms.push_back(SegmentsFor(type, shape.k));
      for (const int32_t segments : forms) {
        const Products products(*table, type, shape, segments);
        for (const int64_t m : kRows) {
          if (flags.rows != 0 && m != flags.rows) continue;
          const double flops = 2.0 * static_cast<double>(m * shape.n * shape.k);
          const double ours = products.Seconds(m, flags.seconds);
          // oneDNN has no sums in runs to compare with.
          const double theirs = segments == 1 ? OneDnnSeconds(type, shape, m, flags.seconds) : 0;
          const double bytes = static_cast<double>(PackedBytes(type, shape.n, shape.k));
          const double of_peak = flops / ours / PeakOf(peak, type);
          out.push_back({{"matrix", shape.name},
                         {"n", shape.n},
                         {"k", shape.k},
                         {"type", ShortName(type)},
                         {"runs", segments},
                         {"m", m},
                         {"seconds", ours},
                         {"onednn_seconds", theirs},
                         {"share_of_peak", of_peak},
                         {"weight_bytes_per_s", bytes / ours}});
          if (flags.json) continue;
          std::printf("%-14s %6lld %6lld %-5s %5d %5lld %9.1f %7.1f %7.1f", shape.name,
                      static_cast<long long>(shape.n), static_cast<long long>(shape.k),
                      ShortName(type), segments, static_cast<long long>(m), flops / ours * 1e-9,
                      100 * of_peak, bytes / ours * 1e-9);
          if (theirs > 0) {
            std::printf(" %9.1f %7.1f", flops / theirs * 1e-9,
                        100 * flops / theirs / PeakOf(peak, type));
          }
          std::printf("\n");
          std::fflush(stdout);
        }
      }
    }
  }
  if (flags.rows == 0) BenchOthers(*table, peak, flags, out);
  if (flags.json) std::printf("%s\n", out.dump().c_str());
  return Status();
}

}  // namespace

void AddBenchKernels(CLI::App& bench, Run& run) {
  auto flags = std::make_shared<BenchKernelsFlags>();
  CLI::App* peak = bench.add_subcommand("peak", "What one thread of this machine can do");
  RegisterJson(*peak, flags->json);
  peak->callback([flags, &run] { run = [flags] { return BenchPeak(flags->json); }; });
  CLI::App* kernels =
      bench.add_subcommand("kernels",
                           "Kernels of one thread beside the peak, and oneDNN's products "
                           "where it is built in");
  kernels->add_option("--isa", flags->isa, "Instruction set, as for serve")->capture_default_str();
  kernels->add_option("--shapes", flags->shapes,
                      "Only matrices and kernels whose name contains this");
  kernels->add_option("--rows", flags->rows, "Only this M (1, 16, 128, 512 or 2048); 0: all")
      ->check(CLI::IsMember({0, 1, 16, 128, 512, 2048}))
      ->capture_default_str();
  kernels->add_option("--seconds", flags->seconds, "Repeats for so long, the best counts")
      ->check(CLI::Range(0.0, 60.0))
      ->capture_default_str();
  RegisterJson(*kernels, flags->json);
  kernels->callback([flags, &run] { run = [flags] { return BenchKernels(*flags); }; });
}

}  // namespace causeway
