// What the bare multiply-add instructions of this CPU do in a second, and its memory.
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/thread_team.h"

namespace causeway {

// Operations a second of one thread, two a multiply-add, with operands in registers; 0 where this
// CPU has no instruction for the type. int8 without a dot instruction counts as f32's.
struct BarePeak {
  double f32 = 0;
  double bf16 = 0;
  double int8 = 0;
};
BarePeak MeasureBarePeak();

// Bytes a second that one thread reads from a block of `bytes`, over and over.
double MeasureReadBandwidth(int64_t bytes);
// Far more than caches hold.
inline constexpr int64_t kBandwidthBlock = int64_t{256} << 20;
// The same of `threads` threads together, each with a block of its own.
double MeasureReadBandwidth(int64_t bytes, int threads);

// The same for whoever measures more than once, as what neighbours leave of it comes and goes.
class MemoryReaders {
 public:
  MemoryReaders(int64_t bytes, int threads);
  // Bytes a second of the best of `runs`.
  double Measure(int runs);

 private:
  std::vector<Buffer> blocks_;
  ThreadTeam team_;
};

// Seconds of processor time that the calling thread has had: what others run beside it does not
// count, though it may empty the caches.
double ThreadSeconds();

}  // namespace causeway
