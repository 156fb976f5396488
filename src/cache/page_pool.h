// Which pages are in use. Knows no requests and no memory: page numbers only.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace causeway {

// Pages 0 .. capacity-1. Used by the engine thread only.
class PagePool {
 public:
  explicit PagePool(int64_t capacity);

  // Appends `count` pages to `pages`, or takes none and returns kUnavailable with both numbers.
  Status Allocate(int64_t count, std::vector<int32_t>& pages);
  // Gives pages back and empties the list. Freeing a page that is not in use is a CHECK.
  void Free(std::vector<int32_t>& pages);

  int64_t capacity() const { return static_cast<int64_t>(in_use_.size()); }
  int64_t available() const { return static_cast<int64_t>(free_.size()); }

 private:
  std::vector<int32_t> free_;  // taken from the back
  std::vector<bool> in_use_;
};

}  // namespace causeway
