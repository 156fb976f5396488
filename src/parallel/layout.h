// Layout: how the ranks of one server share the work. Pure data.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace causeway {

enum class PartitionKind { kContiguous, kZigzag, kBalanced };

const char* NameOf(PartitionKind kind);
StatusOr<PartitionKind> ParsePartitionKind(const std::string& name);

// World size = cp * dp * tp where `tp` is the size of an attention TP group. On the command line
// --tp N is the world size, as in SGLang.
struct Layout {
  int cp = 1;
  int dp = 1;
  int tp = 1;  // attention TP
  int ep = 1;
  int threads_per_rank = 1;
  PartitionKind partition = PartitionKind::kBalanced;

  int world() const { return cp * dp * tp; }
  bool operator==(const Layout&) const = default;

  // From the flags: world = --tp (0: cp * dp), --cp-size, --dp-size, --ep-size (0: automatic).
  // Errors name the rule that is broken and the nearest legal values.
  static StatusOr<Layout> Make(int world, int cp, int dp, int ep, int threads_per_rank,
                               PartitionKind partition);
  std::string ToString() const;  // "cp2 tp1 dp1 ep1 x 1 thread, balanced"
};

}  // namespace causeway
