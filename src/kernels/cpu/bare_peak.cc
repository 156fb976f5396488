#include "kernels/cpu/bare_peak.h"

#include <time.h>

#include <algorithm>
#include <vector>

#include "base/buffer.h"
#include "base/thread_team.h"
#include "base/trace.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace causeway {
namespace {

constexpr int kRuns = 20;
constexpr int64_t kSteps = 20000;

// The best of several runs of `body`, in units of `work` a second.
template <typename Body>
double BestRate(double work, const Body& body) {
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const double begin = ThreadSeconds();
    body();
    best = std::max(best, work / (ThreadSeconds() - begin));
  }
  return best;
}

#if defined(__x86_64__)
// Twelve independent chains hide the latency of any of these instructions. The functions call
// no inline function, of which the linker might keep this copy for other files.
#define CAUSEWAY_CHAINS(instruction, r)                                                            \
  for (int64_t i = 0; i < kSteps; ++i) {                                                           \
    asm volatile(instruction " %%" r "12, %%" r "13, %%" r "0\n\t" instruction " %%" r "12, %%" r  \
                             "13, %%" r "1\n\t" instruction " %%" r "12, %%" r "13, %%" r          \
                             "2\n\t" instruction " %%" r "12, %%" r "13, %%" r "3\n\t" instruction \
                             " %%" r "12, %%" r "13, %%" r "4\n\t" instruction " %%" r "12, %%" r  \
                             "13, %%" r "5\n\t" instruction " %%" r "12, %%" r "13, %%" r          \
                             "6\n\t" instruction " %%" r "12, %%" r "13, %%" r "7\n\t" instruction \
                             " %%" r "12, %%" r "13, %%" r "8\n\t" instruction " %%" r "12, %%" r  \
                             "13, %%" r "9\n\t" instruction " %%" r "12, %%" r "13, %%" r          \
                             "10\n\t" instruction " %%" r "12, %%" r "13, %%" r "11"               \
                 :                                                                                 \
                 :                                                                                 \
                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
                   "xmm10", "xmm11");                                                              \
  }
constexpr double kChains = 12.0 * kSteps;

// Zeros in all registers: other values, denormal ones above all, might take longer.
__attribute__((target("avx2,fma"), noinline)) void FmaAvx2() {
  asm volatile("vzeroall");
  CAUSEWAY_CHAINS("vfmadd231ps", "ymm")
}
__attribute__((target("avx512f"), noinline)) void FmaAvx512() {
  asm volatile("vzeroall");
  CAUSEWAY_CHAINS("vfmadd231ps", "zmm")
}
__attribute__((target("avx512f,avx512bf16"), noinline)) void DotBf16() {
  asm volatile("vzeroall");
  CAUSEWAY_CHAINS("vdpbf16ps", "zmm")
}
__attribute__((target("avx512f,avx512vnni"), noinline)) void DotInt8() {
  asm volatile("vzeroall");
  CAUSEWAY_CHAINS("vpdpbusd", "zmm")
}
#undef CAUSEWAY_CHAINS

__attribute__((target("avx512f"), noinline)) void ReadAvx512(const char* data, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 256) {
    asm volatile(
        "vmovdqa64 (%0), %%zmm0\n\tvmovdqa64 64(%0), %%zmm1\n\t"
        "vmovdqa64 128(%0), %%zmm2\n\tvmovdqa64 192(%0), %%zmm3"
        :
        : "r"(data + at)
        : "xmm0", "xmm1", "xmm2", "xmm3");
  }
}
#endif

void Read(const char* data, int64_t bytes) {
  uint64_t sums[4] = {};
  for (int64_t at = 0; at < bytes; at += 32) {
    for (int lane = 0; lane < 4; ++lane) {
      uint64_t word;
      __builtin_memcpy(&word, data + at + lane * 8, 8);
      sums[lane] += word;
    }
  }
  asm volatile("" : : "r"(sums[0] + sums[1] + sums[2] + sums[3]));
}

}  // namespace

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

BarePeak MeasureBarePeak() {
  BarePeak peak;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    peak.f32 = BestRate(2 * 16 * kChains, FmaAvx512);
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    peak.f32 = BestRate(2 * 8 * kChains, FmaAvx2);
  }
  peak.bf16 = __builtin_cpu_supports("avx512bf16") ? BestRate(2 * 32 * kChains, DotBf16) : peak.f32;
  peak.int8 = __builtin_cpu_supports("avx512vnni") ? BestRate(2 * 64 * kChains, DotInt8) : peak.f32;
#endif
  return peak;
}

namespace {

void (*Reader())(const char*, int64_t) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return ReadAvx512;
#endif
  return Read;
}

}  // namespace

double MeasureReadBandwidth(int64_t bytes) {
  const Buffer block(bytes);
  const auto* data = static_cast<const char*>(block.data());
  const int64_t times = std::max<int64_t>(1, (int64_t{16} << 20) / bytes);
  const auto read = Reader();
  return BestRate(static_cast<double>(bytes * times), [&] {
    for (int64_t i = 0; i < times; ++i) read(data, bytes);
  });
}

double MeasureReadBandwidth(int64_t bytes, int threads) {
  return MemoryReaders(bytes, threads).Measure(kRuns);
}

MemoryReaders::MemoryReaders(int64_t bytes, int threads) : team_(threads) {
  for (int i = 0; i < threads; ++i) blocks_.emplace_back(bytes);
}

double MemoryReaders::Measure(int runs) {
  const auto read = Reader();
  double best = 0;
  // In wall time, since what counts is what the threads get at the same time.
  for (int run = 0; run < runs; ++run) {
    const int64_t begin_ns = NowNs();
    team_.ParallelFor(team_.size(), [&](int64_t i, int) {
      const Buffer& block = blocks_[static_cast<size_t>(i)];
      read(block.as<char>(), block.bytes());
    });
    const double seconds = static_cast<double>(NowNs() - begin_ns) * 1e-9;
    const auto bytes = static_cast<double>(blocks_[0].bytes()) * team_.size();
    best = std::max(best, bytes / seconds);
  }
  return best;
}

}  // namespace causeway
