// Every table against the reference, and against each other, on the cases of op_cases.h.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>
#include <set>

#include "base/thread_team.h"
#include "kernels/cpu/isa.h"
#include "kernels/op_cases.h"

namespace causeway {
namespace {

// CAUSEWAY_TEST_SEED=N runs other values.
uint64_t Seed() {
  const char* text = std::getenv("CAUSEWAY_TEST_SEED");
  const uint64_t seed = text == nullptr ? 20240607 : std::strtoull(text, nullptr, 10);
  std::cout << "CAUSEWAY_TEST_SEED=" << seed << std::endl;
  return seed;
}

// Tables with a fused multiply-add add f32 products in the documented way.
bool IsFused(const OpTable& table) { return &table != &kGenericOps; }

// Collects what fails, and reports the case of least work.
class Failures {
 public:
  void Add(const OpCase& c, const OpTable& table, const std::string& difference) {
    ++count_;
    if (count_ > 1 && c.work >= work_) return;
    work_ = c.work;
    least_ = Text(table.name, ": ", c.name, ": ", difference);
  }
  ~Failures() {
    if (count_ > 0) ADD_FAILURE() << count_ << " failures, the smallest:\n" << least_;
  }

 private:
  int64_t count_ = 0;
  int64_t work_ = 0;
  std::string least_;
};

// Names the running case when it touches memory that is not its own (guarded_array.h), and lets the
// fault end the program as it would have.
class FaultReport {
 public:
  FaultReport() {
    struct sigaction action {};
    action.sa_handler = [](int signal) {
      if (write(STDERR_FILENO, running_, std::strlen(running_)) < 0) return;
      sigaction(signal, &before_, nullptr);  // the faulting instruction runs again
    };
    sigaction(SIGSEGV, &action, &before_);
  }
  ~FaultReport() { sigaction(SIGSEGV, &before_, nullptr); }
  void Running(const OpCase& c, const OpTable& table) const {
    std::snprintf(running_, sizeof(running_), "read or wrote outside its memory: %s: %s\n",
                  table.name, c.name.c_str());
  }

 private:
  // For the signal handler, which takes no arguments.
  static inline struct sigaction before_;
  static inline char running_[512];
};

class Ops : public testing::TestWithParam<std::string> {
 protected:
  std::vector<OpCase> Cases() const {
    std::vector<OpCase> cases = OpCases();
    std::erase_if(cases, [](const OpCase& c) { return c.op != GetParam(); });
    EXPECT_FALSE(cases.empty());
    return cases;
  }
  OpResult Run(const OpCase& c, const OpTable& table, uint64_t seed) const {
    fault_report_.Running(c, table);
    OpResult result = c.run(table, seed, scratch_.data());
    if (!scratch_.intact()) result.fault = "wrote before scratch";
    return result;
  }
  const FaultReport fault_report_;
  const GuardedBytes scratch_{kScratchBytes};
  const ScopedFlushDenormals flush_;  // as every thread that computes
};

TEST_P(Ops, MatchTheReferenceOnEveryInstructionSet) {
  const uint64_t seed = Seed();
  Failures failures;
  for (const OpCase& c : Cases()) {
    const OpResult expected = Run(c, kReferenceOps, seed);
    ASSERT_EQ(expected.fault, "") << c.name;
    for (const OpTable* table : SupportedTables()) {
      const bool exact = c.exact && (!c.fused || IsFused(*table));
      const std::string difference = Difference(expected, Run(c, *table, seed), exact, c.tolerance);
      if (!difference.empty()) failures.Add(c, *table, difference);
    }
  }
}

TEST_P(Ops, GiveTheSameBitsOnEveryInstructionSet) {
  const uint64_t seed = Seed();
  Failures failures;
  for (const OpCase& c : Cases()) {
    std::optional<OpResult> first;
    for (const OpTable* table : SupportedTables()) {
      if (table == &kReferenceOps || (c.fused && !IsFused(*table))) continue;
      // Scratch full of NaNs for one table and of zeros for the next: what it holds must not
      // matter.
      std::memset(scratch_.data(), first ? 0 : 0xff, kScratchBytes);
      OpResult result = Run(c, *table, seed);
      const std::string difference = first ? Difference(*first, result, true, {}) : "";
      if (!difference.empty()) failures.Add(c, *table, difference);
      if (!first) first = std::move(result);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, Ops,
                         testing::Values("gemm", "rms_norm", "layer_norm", "rotate", "silu_mul",
                                         "quantize", "dequantize", "convert", "pack_head",
                                         "dense_attention", "absorbed_attention", "index_scores",
                                         "top_k"),
                         [](const auto& info) { return info.param; });

// A table that writes one value too many, or one wrong bit.
template <int kExtra, uint16_t kFlip>
void BrokenConvert(const ConvertArgs& args) {
  kReferenceOps.convert(args);
  if (args.m < 2 || args.n > args.out_stride - kExtra) return;
  args.out[args.n - 1 + kExtra] ^= kFlip;
}

TEST(OpCases, FindAStrayWriteAndAWrongBit) {
  OpTable stray = kReferenceOps;
  stray.convert = BrokenConvert<1, 1>;
  OpTable wrong = kReferenceOps;
  wrong.convert = BrokenConvert<0, 1>;
  int found_stray = 0;
  int found_wrong = 0;
  for (const OpCase& c : OpCases()) {
    if (c.op != "convert") continue;
    const OpResult expected = c.run(kReferenceOps, 1, nullptr);
    EXPECT_EQ(Difference(expected, c.run(kReferenceOps, 1, nullptr), true, {}), "");
    found_stray += c.run(stray, 1, nullptr).fault.empty() ? 0 : 1;
    found_wrong += Difference(expected, c.run(wrong, 1, nullptr), true, {}).empty() ? 0 : 1;
  }
  EXPECT_GT(found_stray, 0);
  EXPECT_GT(found_wrong, 0);
}

TEST(OpCases, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const OpCase& c : OpCases()) EXPECT_TRUE(names.insert(c.name).second) << c.name;
}

}  // namespace
}  // namespace causeway
