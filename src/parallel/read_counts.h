// ReadCounts: what a rank reads of what other ranks wrote. On one host that is memory shared
// between threads; the same bytes would cross wires between ranks that share none.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace causeway {

// The reads of one rank. Used by that rank's thread only; read when no step runs.
class ReadCounts {
 public:
  struct Sum {
    const char* operation;  // a string literal
    int64_t calls = 0;
    int64_t bytes = 0;
  };

  // Adds a read; `operation` must live as long as the counts.
  void Add(const char* operation, int64_t bytes) {
    // One literal may lie at several addresses, one for each source file that uses it.
    for (Sum& sum : sums_) {
      if (sum.operation != operation && std::strcmp(sum.operation, operation) != 0) continue;
      ++sum.calls;
      sum.bytes += bytes;
      return;
    }
    sums_.push_back({operation, 1, bytes});
  }
  const std::vector<Sum>& sums() const { return sums_; }  // in order of first use
  void Clear() { sums_.clear(); }

 private:
  std::vector<Sum> sums_;
};

}  // namespace causeway
