#include "cache/page_pool.h"

namespace causeway {

PagePool::PagePool(int64_t capacity) : in_use_(static_cast<size_t>(capacity), false) {
  // Backwards, as pages are taken from the back: low numbers go first.
  for (int64_t page = capacity - 1; page >= 0; --page) {
    free_.push_back(static_cast<int32_t>(page));
  }
}

Status PagePool::Allocate(int64_t count, std::vector<int32_t>& pages) {
  CHECK(count >= 0, count);
  if (count > available()) {
    return Unavailable(Text("KV cache is full: ", count, " pages needed, ", available(), " of ",
                            capacity(), " free"));
  }
  for (int64_t i = 0; i < count; ++i) {
    pages.push_back(free_.back());
    in_use_[static_cast<size_t>(free_.back())] = true;
    free_.pop_back();
  }
  return Status();
}

void PagePool::Free(std::vector<int32_t>& pages) {
  for (int32_t page : pages) {
    CHECK(page >= 0 && page < capacity() && in_use_[static_cast<size_t>(page)], "page ", page);
    in_use_[static_cast<size_t>(page)] = false;
    free_.push_back(page);
  }
  pages.clear();
}

}  // namespace causeway
