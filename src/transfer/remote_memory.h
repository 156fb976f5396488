// RemoteMemory: a prefill host's cache, as a decode host reads it by itself.
#pragma once

#include <cstdint>
#include <functional>

#include "base/status.h"
#include "cache/kv_cache.h"
#include "transfer/messages.h"
#include "transfer/rows.h"

namespace causeway {

// Of one link. All calls with LinkLoop's lock held, and so is what it calls.
class RemoteMemory {
 public:
  // Where the keys of a run can be copied from, until OnRead returns.
  struct Rows {
    const KvCache& cache;
    int64_t layer = 0;
    TokenPages pages;
  };
  // An error ends the link: nothing can be read any more.
  using OnRead = std::function<void(const RunInMemoryMessage& run, const StatusOr<Rows>& rows)>;

  // pages: of the prefill cache.
  RemoteMemory(int64_t pages, OnRead on_read) : pages_(pages), on_read_(std::move(on_read)) {}
  // `on_read` is not called any more, for what is still being read neither.
  virtual ~RemoteMemory() = default;
  RemoteMemory(const RemoteMemory&) = delete;
  RemoteMemory& operator=(const RemoteMemory&) = delete;

  // Has the run read and OnRead called: before this returns, or later. kInvalidArgument where there
  // are no such pages.
  Status Read(RunInMemoryMessage run) {
    for (const int32_t page : run.pages) {
      if (page < 0 || page >= pages_) {
        return InvalidArgument(Text("keys in page ", page, " of ", pages_));
      }
    }
    return DoRead(std::move(run));
  }
  virtual TransferBackend backend() const = 0;
  // So many runs wait to be read that no more should come for now.
  virtual bool full() const = 0;

 protected:
  const OnRead& on_read() const { return on_read_; }

 private:
  virtual Status DoRead(RunInMemoryMessage run) = 0;

  const int64_t pages_;
  const OnRead on_read_;
};

}  // namespace causeway
