// HugeMemory: many small arrays that live equally long, in large blocks of huge pages.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "base/buffer.h"

namespace causeway {

// Arrays of a megabyte and less would each lie in small pages, which are read at two thirds of the
// speed where memory is virtual (docs/performance.md). Any thread may Take.
class HugeMemory {
 public:
  // Zeroed and aligned to 64; good as long as this object lives. Throws StartError.
  void* Take(int64_t bytes);

 private:
  std::mutex mutex_;  // guards what follows
  std::vector<Buffer> blocks_;
  char* next_ = nullptr;  // in the block that small arrays share
  int64_t left_ = 0;
};

}  // namespace causeway
